"""What we ask of the kernel, as values, and the one way it gets there: `reconcile`; must not know netlink.

Entries are compared by value with what the kernel reports, so an implementation reads back exactly what it was given.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import Enum
from ipaddress import IPv4Interface, IPv6Interface
from typing import Protocol, Self, TypeAlias

from flanneld import FlanneldError
from flanneld.lease import IPAddress, IPNetwork, inside

ROUTE_PROTOCOL = 84
"""Our number in `ip route`'s `proto` column, for routes to peers (unassigned in /etc/iproute2/rt_protos)."""
OWN_ROUTE_PROTOCOL = 85
"""The same for the route that keeps our own subnet off the uplink (`--ip-blackhole-route`)."""

IPInterface: TypeAlias = IPv4Interface | IPv6Interface


class RouteKind(Enum):
    """rtm_type of linux/rtnetlink.h."""

    UNICAST = 1
    BLACKHOLE = 6


@dataclass(frozen=True, slots=True)
class Hop:
    """One way out of the host. The fields are those of a route that has no other."""

    device: int
    gateway: IPAddress | None = None
    """None: the destination is on the link itself; IPv6 takes no such hop beside others."""
    onlink: bool = False
    weight: int = 1
    """Its share of the flows, 1 to 256. All hops of our routes have the same; strangers' may differ."""

    def __str__(self) -> str:
        via = f"via {self.gateway} " if self.gateway is not None else ""
        return f"{via}on device {self.device}" + (f" weight {self.weight}" if self.weight != 1 else "")


def _place(hop: Hop) -> tuple[object, ...]:
    """Its place among others."""
    return hop.device, hop.gateway.packed if hop.gateway else b"", hop.onlink, hop.weight


@dataclass(frozen=True, slots=True)
class Route:
    """A route of the main table. `Route.by` makes one that may have several hops.

    Whether the kernel uses a hop at the moment is no part of it: while a device is down, the route is there, by the others.
    """

    destination: IPNetwork
    device: int = 0
    """Interface index; 0 for a blackhole."""
    gateway: IPAddress | None = None
    onlink: bool = False
    """Take the gateway as a neighbour even when no address of the device covers it (RTNH_F_ONLINK)."""
    protocol: int = ROUTE_PROTOCOL
    kind: RouteKind = RouteKind.UNICAST
    metric: int = 0
    """0 is the family's default, in IPv6 too (where the kernel calls it 1024)."""
    hops: frozenset[Hop] = frozenset()
    """Two or more of equal cost, or none; with them device, gateway and onlink keep their defaults.

    A set: the kernel tells them in another order than they were given.
    """

    @classmethod
    def by(cls, destination: IPNetwork, hops: Iterable[Hop], protocol: int = ROUTE_PROTOCOL, metric: int = 0) -> Self:
        """The route by these hops, one or more: that by one is the same however it was made. Raises ValueError for none."""
        several = frozenset(hops)
        if len(several) > 1:
            return cls(destination, protocol=protocol, metric=metric, hops=several)
        (only,) = several
        return cls(destination, only.device, only.gateway, only.onlink, protocol, metric=metric)

    @property
    def slot(self) -> object:
        return (Route, self.destination, self.metric)

    @property
    def ways(self) -> tuple[Hop, ...]:
        """All its hops, always in the same order, so that flows keep theirs: most routes have one, a blackhole has none."""
        if self.hops:
            return tuple(sorted(self.hops, key=_place))
        return (Hop(self.device, self.gateway, self.onlink),) if self.device else ()

    def __str__(self) -> str:
        ways = self.ways or (Hop(self.device),)
        return f"{self.kind.name.lower()} route {self.destination} {' and '.join(map(str, ways))}"


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A permanent ARP/NDP entry."""

    device: int
    address: IPAddress
    mac: str
    """Lower case, colons."""

    @property
    def slot(self) -> object:
        return (Neighbour, self.device, self.address)

    def __str__(self) -> str:
        return f"neighbour {self.address} at {self.mac} on device {self.device}"


@dataclass(frozen=True, slots=True)
class FdbEntry:
    """A permanent forwarding entry of a VXLAN device: frames for `mac` go to the VTEP at `destination`."""

    device: int
    mac: str
    destination: IPAddress

    @property
    def slot(self) -> object:
        return (FdbEntry, self.device, self.mac)

    def __str__(self) -> str:
        return f"fdb entry {self.mac} to {self.destination} on device {self.device}"


Entry = Route | Neighbour | FdbEntry
KINDS: dict[type, str] = {Route: "route", Neighbour: "neighbour", FdbEntry: "fdb"}
"""What the kinds of entries are called, in metrics and in the log."""


def in_words(entry: Entry, name: Callable[[int], str]) -> str:
    """The entry as `str` has it, with its devices' names instead of their numbers."""
    return re.sub(r"on device (\d+)", lambda found: f"on {name(int(found[1]))}", str(entry))


def count_kinds(entries: Iterable[Entry]) -> Counter[str]:
    """How many there are of each kind."""
    return Counter({KINDS[kind]: count for kind, count in Counter(map(type, entries)).items()})


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose an entry is: our route protocol within our pod networks, or anything on the devices that are ours alone."""

    networks: tuple[IPNetwork, ...] = ()
    devices: frozenset[int] = frozenset()
    protocol: int = ROUTE_PROTOCOL

    def owns(self, entry: Entry) -> bool:
        if entry.device in self.devices:
            return True
        if not isinstance(entry, Route):
            return False
        if entry.hops and all(hop.device in self.devices for hop in entry.hops):
            return True
        if entry.protocol != self.protocol:
            return False
        return any(inside(entry.destination, network) for network in self.networks)


class KernelError(FlanneldError):
    """The kernel refused `what`; `errno` says why."""

    def __init__(self, errno: int, what: object, why: str) -> None:
        super().__init__(f"kernel refused {what}: {why}")
        self.errno = errno
        self.what = what


@dataclass(frozen=True, slots=True)
class VxlanLink:
    """A VXLAN device as flannel makes it (flannel.<VNI>, flannel-v6.<VNI>)."""

    name: str
    vni: int
    local: IPAddress
    """Outer source address."""
    parent: int
    """Index of the uplink."""
    port: int
    """Outer UDP destination port."""
    mtu: int
    mac: str
    learning: bool = False
    gbp: bool = False
    """Group Based Policy extension (draft-smith-vxlan-group-policy)."""
    addresses: tuple[IPInterface, ...] | None = None
    """All global addresses the device is to have, others are removed; None: as they are (our subnet is not known yet)."""
    tx_checksum: bool | None = None
    """Checksums of what is sent by it are left to hardware; None: as it is."""


@dataclass(frozen=True, slots=True)
class Link:
    """A network interface as the kernel reports it."""

    index: int
    name: str
    mtu: int
    mac: str
    up: bool = False
    kind: str = ""
    """rtnetlink's IFLA_INFO_KIND: vxlan, bridge, veth, tun; empty for hardware."""


@dataclass(frozen=True, slots=True)
class NextHop:
    """Where the kernel would send a packet next (`ip route get`)."""

    device: int
    gateway: IPAddress | None
    """None: the destination is on the link itself."""
    local: bool = False
    """The destination is this host."""


class Kernel(Protocol):
    """One network namespace's routes, neighbours, FDB and links. Calls are synchronous: netlink answers in the send."""

    def entries(self, owner: Owner) -> frozenset[Entry]:
        """Everything in the kernel that `owner` owns."""

    def add(self, entries: Iterable[Entry]) -> tuple[KernelError, ...]:
        """Put entries in, displacing what holds their slot; adding what is present succeeds. Returns the refusals."""

    def remove(self, entries: Iterable[Entry], *, known: bool = False) -> tuple[KernelError, ...]:
        """Take exactly these entries out; removing what is absent succeeds. Returns the refusals.

        `known`: they are there; else that is looked up first where an absent one might be taken for another.
        """

    def link(self, name: str) -> Link | None:
        """The interface of that name, or None."""

    def ensure_link(self, wanted: VxlanLink) -> Link:
        """Bring the device to `wanted` and up: changed when only MAC, MTU, learning or addresses differ, else made anew."""

    def remove_link(self, name: str) -> None:
        """Remove the device; nothing happens when there is none."""

    def next_hop(self, address: IPAddress) -> NextHop:
        """Look the address up in the routing table; raises KernelError (ENETUNREACH) when there is no route."""


@dataclass(frozen=True, slots=True)
class Report:
    """What one reconcile did."""

    added: frozenset[Entry] = frozenset()
    removed: frozenset[Entry] = frozenset()
    refused: tuple[KernelError, ...] = field(default=())

    @property
    def changed(self) -> bool:
        return bool(self.added or self.removed)


def reconcile(kernel: Kernel, owner: Owner, desired: Iterable[Entry], have: frozenset[Entry] | None = None) -> Report:
    """Bring the owner's part of the kernel to `desired`; a second call with the same set does nothing.

    `have` is what the owner has there, if that is known already: reading it takes longer than the rest.

    What is new goes in first, what is stale goes out in the opposite order: a peer that changed is never unreachable in between.
    """
    want = frozenset(desired)
    have = kernel.entries(owner) if have is None else have
    return bring(kernel, want - have, have - want)


def bring(kernel: Kernel, missing: frozenset[Entry], stale: frozenset[Entry], *, known: bool = False) -> Report:
    """Put in what is missing, and take out what is stale; `known` as in `Kernel.remove`."""
    unfit = kernel.add(in_dependency_order(missing))
    # A neighbour's slot holds one entry, which the new one overwrites; routes and FDB entries can stand side by side in theirs.
    taken = {entry.slot: entry for entry in missing if not isinstance(entry, FdbEntry)} if stale else {}
    gone = frozenset(entry for entry in stale if not isinstance(taken.get(entry.slot), Neighbour))
    routes = frozenset(entry for entry in gone if isinstance(entry, Route))
    doubtful = frozenset(route for route in routes if _resembles(route, taken.get(route.slot))) if known else routes
    cleared = kernel.remove(doubtful) + kernel.remove(routes - doubtful, known=True) + kernel.remove(gone - routes, known=known)
    if unfit and gone:
        # IPv6 takes no next hop while the stale route in that very slot leads to it by another device.
        blocked = {error.what for error in unfit}
        unfit = kernel.add(entry for entry in in_dependency_order(missing) if entry in blocked)
    refused = cleared + unfit
    failed = {error.what for error in refused}
    return Report(missing - failed, stale - failed, refused)


def _resembles(stale: Route, new: Entry | None) -> bool:
    """True if the kernel, told to remove the one, may take the other that was put into its slot: they may have a hop in common."""
    return isinstance(new, Route) and (stale.gateway is None or bool(new.hops))


def in_dependency_order(entries: Iterable[Entry]) -> list[Entry]:
    """Neighbours, then FDB, then routes: the first packet a route lets through already finds its next hop."""
    rank = {Neighbour: 0, FdbEntry: 1, Route: 2}
    return sorted(entries, key=lambda entry: rank[type(entry)])
