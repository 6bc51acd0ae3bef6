"""What can happen on a host with CNI plugins, one thing after the other; must not know what comes of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cni_world import Json


@dataclass(frozen=True)
class Network:
    name: str
    ifname: str
    plugins: tuple[Json, ...]


BRIDGED = Network(
    "cbr0",
    "eth0",
    (
        {"type": "flannel", "delegate": {"hairpinMode": True, "isDefaultGateway": True}},
        {"type": "portmap", "capabilities": {"portMappings": True}},
    ),
)
ROUTED = Network(
    "routed", "eth1", ({"type": "ptp", "ipMasq": True, "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.20.0.0/28"}]]}},)
)
NETWORKS = {network.name: network for network in (BRIDGED, ROUTED)}


@dataclass(frozen=True)
class Call:
    """ADD, DEL or CHECK of a whole chain."""

    command: str
    network: str
    container: str
    port: int = 0
    """Of the host, with ADD; 0: none."""
    told: bool = True
    """DEL has the namespace and the result."""


@dataclass(frozen=True)
class Together:
    """Calls at the same time, about different attachments; the server may die meanwhile, and come back at once."""

    calls: tuple[Call, ...]
    kill_after_s: float | None = None
    revive: bool = False


@dataclass(frozen=True)
class Collect:
    """GC."""

    network: str
    keep: frozenset[str]


@dataclass(frozen=True)
class EndPod:
    """Its namespace goes, and nobody tells the plugins."""

    container: str


@dataclass(frozen=True)
class Restart:
    """The server ends by this signal, and serves again."""

    number: int


Step = Together | Collect | EndPod | Restart


def distinct(calls: Sequence[Call]) -> tuple[Call, ...]:
    """The last about each attachment."""
    last: Mapping[tuple[str, str], Call] = {(call.network, call.container): call for call in calls}
    return tuple(last.values())
