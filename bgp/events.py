"""What the speaker tells of its sessions, as values; must not know in which words.

One event says what one line says. Order is the order on the wire, per session.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from bgp.evpn.announcement import EvpnAnnouncement
from bgp.evpn.routes import Key
from bgp.path import Asn, Path
from bgp.session import Channel
from flanneld.lease import Family, IPAddress, IPNetwork


@dataclass(frozen=True, slots=True)
class Opened:
    """The neighbour's OPEN came: who it says it is, and what it can."""

    peer: IPAddress
    asn: Asn
    router_id: str
    hold_time_s: int
    graceful_restart_s: int | None
    """How long it wants its routes kept after a loss; None: it cannot do graceful restart."""
    restarting: bool = False
    """It says that it has just restarted (R bit), and will send the end of its RIB."""
    forwarding: frozenset[Family] = frozenset()
    """For these it kept forwarding while it was away (F bits)."""


@dataclass(frozen=True, slots=True)
class Up:
    """The session is established."""

    peer: IPAddress


@dataclass(frozen=True, slots=True)
class Down:
    """The session, or an attempt at one, has ended."""

    peer: IPAddress
    why: str
    """In the speaker's words."""
    hard: bool
    """By a NOTIFICATION of either side, or as the hold time ran out: what the neighbour told is void. Else the connection was
    lost, and with graceful restart it may only have restarted."""


@dataclass(frozen=True, slots=True)
class Announced:
    """Prefixes can be reached so."""

    peer: IPAddress
    paths: tuple[Path, ...]


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """Prefixes cannot be reached by this neighbour any more."""

    peer: IPAddress
    prefixes: tuple[tuple[IPNetwork, int], ...]
    """With the path's number, 0 where there are none."""
    error: bool = False
    """The neighbour's announcement was malformed, and counts as a withdrawal (RFC 7606)."""


@dataclass(frozen=True, slots=True)
class EvpnAnnounced:
    """The neighbour has said these routes of EVPN (RFC 7432)."""

    peer: IPAddress
    routes: tuple[EvpnAnnouncement, ...]


@dataclass(frozen=True, slots=True)
class EvpnWithdrawn:
    """These do not hold any more."""

    peer: IPAddress
    keys: tuple[Key, ...]
    error: bool = False
    """As in Withdrawn."""


@dataclass(frozen=True, slots=True)
class EndOfRib:
    """The neighbour has said all that it had to say of this (RFC 4724 §2)."""

    peer: IPAddress
    family: Channel


Event: TypeAlias = Opened | Up | Down | Announced | Withdrawn | EvpnAnnounced | EvpnWithdrawn | EndOfRib
