"""All that is used of exabgp, and whether the exabgp that is installed has it; must not know what for.

exabgp publishes no interface for programs: its version and every name that is replaced are checked at the start.
"""

from __future__ import annotations

from exabgp.bgp import timer  # type: ignore[import-untyped]  # it has no types, here and below
from exabgp.bgp.fsm import FSM  # type: ignore[import-untyped]
from exabgp.bgp.message import _NOP as NOP  # type: ignore[import-untyped]
from exabgp.bgp.message import Action, KeepAlive, Notify, Update
from exabgp.bgp.message.update.attribute import Attribute, Attributes  # type: ignore[import-untyped]
from exabgp.bgp.message.update.nlri import NLRI  # type: ignore[import-untyped]
from exabgp.bgp.message.update.nlri.evpn.mac import MAC as EVPN_MAC  # type: ignore[import-untyped]
from exabgp.bgp.message.update.nlri.evpn.nlri import EVPN  # type: ignore[import-untyped]
from exabgp.bgp.message.update.nlri.evpn.prefix import Prefix as EvpnPrefix  # type: ignore[import-untyped]
from exabgp.configuration.configuration import Configuration  # type: ignore[import-untyped]
from exabgp.environment import getenv  # type: ignore[import-untyped]
from exabgp.logger import log  # type: ignore[import-untyped]
from exabgp.protocol.family import AFI, SAFI, Family  # type: ignore[import-untyped]
from exabgp.reactor import delay  # type: ignore[import-untyped]
from exabgp.reactor import listener as listening
from exabgp.reactor.api import API, processes  # type: ignore[import-untyped]
from exabgp.reactor.api.command.command import Command  # type: ignore[import-untyped]
from exabgp.reactor.asynchronous import ASYNC  # type: ignore[import-untyped]
from exabgp.reactor.delay import Delay  # type: ignore[import-untyped]
from exabgp.reactor.loop import Reactor  # type: ignore[import-untyped]
from exabgp.reactor.network import tcp  # type: ignore[import-untyped]
from exabgp.reactor.peer import Peer  # type: ignore[import-untyped]
from exabgp.rib.change import Change  # type: ignore[import-untyped]
from exabgp.rib.incoming import IncomingRIB  # type: ignore[import-untyped]
from exabgp.rib.outgoing import OutgoingRIB  # type: ignore[import-untyped]
from exabgp.version import release  # type: ignore[import-untyped]

FIRST, NEXT = (5, 0, 13), (6,)
"""5.0.13 mended crashes that any neighbour could cause; 6 is another program inside."""

REPLACED: tuple[tuple[object, str], ...] = (
    (API, "process"),
    (EVPN, "index"),
    (Family, "size"),
    (Delay, "increase"),
    (IncomingRIB, "update_cache"),
    (OutgoingRIB, "_update_rib"),
    (Reactor, "_wait_for_io"),
    (listening, "set_accepted_ttl"),
    (processes, "subprocess"),
    (timer, "time"),
    (delay, "time"),
    (timer.ReceiveTimer, "check_ka_timer"),
    (processes.Processes, "write"),
    (Peer, "_main"),
)
"""Owner and name of what is replaced or extended; a name that is gone would be replaced for nobody."""

__all__ = [
    "AFI",
    "API",
    "ASYNC",
    "EVPN",
    "EVPN_MAC",
    "FSM",
    "NLRI",
    "NOP",
    "SAFI",
    "Action",
    "Attribute",
    "Attributes",
    "Change",
    "Command",
    "Configuration",
    "Delay",
    "EvpnPrefix",
    "Family",
    "IncomingRIB",
    "KeepAlive",
    "Notify",
    "OutgoingRIB",
    "Peer",
    "Reactor",
    "Update",
    "delay",
    "getenv",
    "listening",
    "log",
    "processes",
    "tcp",
    "timer",
]


def unfit(version: str = release) -> str:
    """Why this exabgp cannot be used; empty: it can."""
    numbers = tuple(int(part) if part.isdigit() else 0 for part in version.split("."))
    if not FIRST <= numbers < NEXT:
        return f"exabgp {version} is installed, expected 5.0.13 or later before 6"
    missing = [name for owner, name in REPLACED if not hasattr(owner, name)]
    return f"exabgp {version} has no {missing[0]}" if missing else ""
