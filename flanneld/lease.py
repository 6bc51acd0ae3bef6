"""One host's claim on a pod subnet, as values and pure choices; must not know stores, kernels, sockets or clocks.

The field names are flannel's (`PublicIP`, `BackendType`, `BackendData`); the bytes they take in etcd are `stores.codec`'s business.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from typing import Generic, Literal, TypeAlias, TypeVar

from flanneld import FlanneldError

Family: TypeAlias = Literal[4, 6]
IPAddress: TypeAlias = IPv4Address | IPv6Address
IPNetwork: TypeAlias = IPv4Network | IPv6Network
Subnets: TypeAlias = tuple[IPNetwork, ...]
"""The subnets of one lease: one per address family of the network, IPv4 first. It is the lease's identity."""

FAMILIES: tuple[Family, Family] = (4, 6)


class SubnetsExhausted(FlanneldError):
    """No free subnet is left in the pool; another host must give one back first."""


@dataclass(frozen=True, slots=True)
class LeaseAttrs:
    """All that a peer needs to reach the host: nothing here changes while the backend stays attached."""

    public_ips: tuple[IPAddress, ...]
    """The addresses peers send to: at most one per family, IPv4 first."""
    backend_type: str = ""
    """flannel's `BackendType`; empty for udp and alloc, which publish none."""
    backend_data: tuple[tuple[Family, str], ...] = ()
    """What the backend publishes per underlay family, as compact JSON text (`BackendData`, `BackendV6Data`)."""

    def public_ip(self, family: Family) -> IPAddress | None:
        return next((ip for ip in self.public_ips if ip.version == family), None)

    def data(self, family: Family) -> str:
        """The published JSON of that family, or "" when there is none."""
        return dict(self.backend_data).get(family, "")

    def fingerprint(self) -> str:
        """What tells these attributes from others, in a few characters."""
        return hashlib.sha256(repr(self).encode()).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class Lease:
    """One host's claim on one subnet (per family)."""

    subnets: Subnets
    attrs: LeaseAttrs
    expires_at: float | None = None
    """Unix seconds by our clock at the time of reading; None: never (a reservation), or not asked for (what `watch` yields)."""
    created: int = 0
    """The store's number for the creation of this claim: of two on the same subnets the later has the higher; 0: not known."""

    def subnet(self, family: Family) -> IPNetwork | None:
        return next((net for net in self.subnets if net.version == family), None)

    def __str__(self) -> str:
        return "+".join(map(str, self.subnets))


def family_of(value: IPAddress | IPNetwork) -> Family:
    """4 or 6."""
    return 4 if value.version == 4 else 6


def inside(subnet: IPNetwork, network: IPNetwork) -> bool:
    """True if `subnet` is `network` or part of it; False across families."""
    return subnet.version == network.version and subnet.subnet_of(network)  # type: ignore[arg-type]  # same family


def overlap(ours: Iterable[IPNetwork], others: Iterable[IPNetwork]) -> bool:
    """True if any of ours shares an address with any of the others."""
    theirs = tuple(others)
    return any(a.version == b.version and a.overlaps(b) for a in ours for b in theirs)


Leases: TypeAlias = Mapping[Subnets, Lease]
"""Every lease of the network by its subnets: always the whole mapping, never a change of it."""


V = TypeVar("V")


class Judged(Generic[V]):
    """What was found out about each lease, as long as it is the same object: a lease never changes, and there are thousands."""

    def __init__(self, judge: Callable[[Lease], V]) -> None:
        self._judge = judge
        self._known: dict[int, tuple[Lease, V]] = {}
        """By identity, which is the object's own as long as it is in here."""

    def of(self, leases: Iterable[Lease], again: type | None = None) -> Collection[tuple[Lease, V]]:
        """Each lease with its verdict; new ones are judged, and so are those whose verdict was of the type `again`."""
        before, now, judge = self._known, dict[int, tuple[Lease, V]](), self._judge
        for lease in leases:
            known = before.get(id(lease))
            if known is None or (again is not None and isinstance(known[1], again)):
                known = (lease, judge(lease))
            now[id(lease)] = known
        self._known = now
        return now.values()

    def forget(self) -> None:
        """What verdicts depend on has changed."""
        self._known = {}


@dataclass(frozen=True, slots=True)
class Pool:
    """Where one family's pod subnets come from: every `subnet_len` network from `first` to `last`, both included."""

    network: IPNetwork
    subnet_len: int
    first: IPNetwork
    last: IPNetwork

    @property
    def family(self) -> Family:
        return family_of(self.network)

    @property
    def size(self) -> int:
        """How many subnets there are."""
        return (int(self.last.network_address) - int(self.first.network_address)) // self._step + 1

    @property
    def _step(self) -> int:
        return 1 << (self.network.max_prefixlen - self.subnet_len)

    def __contains__(self, subnet: IPNetwork) -> bool:
        """True if this pool could have handed out `subnet`: right length, on a boundary, from first to last."""
        if subnet.version != self.network.version or subnet.prefixlen != self.subnet_len:
            return False
        return int(self.first.network_address) <= int(subnet.network_address) <= int(self.last.network_address)

    def __getitem__(self, index: int) -> IPNetwork:
        address = type(self.first.network_address)(int(self.first.network_address) + index * self._step)
        return ip_network((address, self.subnet_len))

    def span(self, network: IPNetwork) -> tuple[int, int] | None:
        """The first and last index that `network` overlaps, or None when it lies outside."""
        if network.version != self.network.version:
            return None
        base = int(self.first.network_address)
        low = (int(network.network_address) - base) // self._step
        high = (int(network.broadcast_address) - base) // self._step
        return None if high < 0 or low >= self.size else (max(low, 0), min(high, self.size - 1))


def choose_subnet(pool: Pool, taken: Iterable[IPNetwork], seed: int) -> IPNetwork:
    """The first free subnet of `pool` at or after place `seed` (modulo its size), going round once.

    The same host brings the same seed, so its choice is stable, and hosts that start at one instant rarely meet.
    Raises SubnetsExhausted when `taken` covers the pool.
    """
    spans = sorted(span for net in taken if (span := pool.span(net)) is not None)
    starts = [low for low, _ in spans]
    reach: list[int] = []  # reach[i]: the highest index that spans[:i + 1] cover
    for _, high in spans:
        reach.append(max(high, reach[-1]) if reach else high)
    for place, end in ((seed % pool.size, pool.size), (0, seed % pool.size)):
        while place < end:
            before = bisect_right(starts, place) - 1
            if before < 0 or reach[before] < place:
                return pool[place]
            place = reach[before] + 1
    raise SubnetsExhausted(f"no free /{pool.subnet_len} left from {pool.first} to {pool.last}: all {pool.size} subnets are leased")
