"""The plug point of data paths: what a backend is given, what it gives back, and the one table of them; must not know any of them.

A backend is a plan, lease -> entries, around `program`. `hostgw/backend.py` is the smallest: read it first.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar, Protocol, Self, TypeAlias, runtime_checkable

from flanneld import FlanneldError
from flanneld.config import ConfigError, NetworkConfig, read_choice
from flanneld.kernel import (
    Entry,
    IPInterface,
    Kernel,
    KernelError,
    Owner,
)
from flanneld.lease import Family, IPAddress, Lease, LeaseAttrs, family_of
from flanneld.metrics import Metric

BACKENDS = {
    "vxlan": "flanneld.backends.vxlan:VxlanBackend",
    "vxlan by bgp-evpn": "bgp.evpn.backend:EvpnVxlanBackend",
    "host-gw": "hostgw.backend:HostGwBackend",
    "udp": "flanneld.backends.udp.backend:UdpBackend",
    "bgp": "bgp.backend:BgpBackend",
    "alloc": "flanneld.backends.alloc:AllocBackend",
}
"""Backend type in the network config, `by` what its `Control` names -> where its class is; imported only when chosen."""
LEASES = "leases"
"""The `Control` where there is a choice and none was made: peers are where their leases say."""


class BackendError(FlanneldError):
    """This host cannot run the backend as configured."""


@dataclass(frozen=True, slots=True)
class Uplink:
    """The interface whose address peers send to."""

    name: str
    index: int
    mtu: int
    """Bytes, before any encapsulation."""
    addresses: tuple[IPInterface, ...]
    """The interface's own address per family of the network, IPv4 first."""
    public_ips: tuple[IPAddress, ...]
    """What peers are told (`--public-ip`), per family; the same addresses unless there is a NAT."""

    def address(self, family: Family) -> IPInterface | None:
        return next((address for address in self.addresses if address.version == family), None)

    def public_ip(self, family: Family) -> IPAddress | None:
        return next((ip for ip in self.public_ips if ip.version == family), None)

    def __str__(self) -> str:
        return f"{self.name} ({', '.join(map(str, self.addresses))})"


@dataclass(frozen=True, slots=True)
class Identity:
    """What a method may want to know of this host besides its uplink."""

    name: str = ""
    labels: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """What settings choose hosts by (`--node-labels`)."""
    directory: Path = Path("/run/flannel")
    """Where a method may keep what is to survive the daemon, but not the host, in a file or directory of its own."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """One peer that cannot be reached by this method, and why, in words."""

    lease: Lease
    why: str
    foreign: bool = False
    """The peer is none for this method (not migrated yet, garbage in its lease): told, but no reason for us to be unready."""
    pending: bool = False
    """It will pass by itself, as far as anybody knows: nothing to be told yet."""

    def __str__(self) -> str:
        return f"peer {self.lease} {self.why}"


Plan: TypeAlias = tuple[Entry, ...] | Refusal
"""What one peer needs in the kernel; or why nothing would help."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a method needs in the kernel."""

    plans: Sequence[tuple[Lease, Plan]] = ()
    """For each of its peers. The same object as the last time is the same plan, and is not looked at again."""
    entries: tuple[Entry, ...] = ()
    """For all of them together, or for none."""


class Network(Protocol):
    """An attached backend. One task calls `adopt` and `reach`; `run` runs beside them."""

    @property
    def attrs(self) -> LeaseAttrs:
        """What our own lease is to publish; settled by `attach`."""

    @property
    def mtu(self) -> int:
        """Bytes that a pod's interface may send in one packet."""

    @property
    def owner(self) -> Owner:
        """What in the kernel is this network's; a change there is a reason to call `reach` again."""

    async def adopt(self, own: Lease) -> None:
        """Take our own subnet: address the device. May be repeated."""

    def speaks(self, peer: Lease) -> bool:
        """True if the peer is to be reached by this method, as it is configured here: its lease says so."""

    async def reach(self, peers: Collection[Lease], *, disturbed: bool = True) -> Wanted:
        """Be ready for exactly these peers, all of which this method speaks to; returns what is to be in the kernel for them.

        Not `disturbed`: nothing that was looked at for the last plans has changed. It also restores what was lost since the last
        call and is the method's own to make: a device. Raises FlanneldError.
        """

    async def run(self) -> None:
        """The user-space data plane, or nothing; returns or is cancelled."""

    def remove(self) -> None:
        """Take our devices away for good: nobody speaks this method here any more. May be repeated."""


@runtime_checkable
class SourceChecking(Protocol):
    """A network that takes packets only from whom it knows."""

    def hear(self, peers: Collection[Lease]) -> None:
        """Take them from all of these, by whatever method they are reached: they may not know yet by which we are."""


@runtime_checkable
class Learning(Protocol):
    """A network that hears of ways to peers by itself, besides leases."""

    news: Callable[[], None]
    """To be called when `reach` would return something else now; given by the mesh."""


@runtime_checkable
class Carrying(Protocol):
    """A network whose packets pass through this process."""

    path: Mapping[str, object]
    """What carries them, and what it has to work with; "path" by the name that `DataPath` has for it."""

    def carried(self) -> tuple[Mapping[str, int], Mapping[str, int]]:
        """Packets so far by what became of them, and those dropped by reason."""


@runtime_checkable
class Measured(Protocol):
    """A network with measures of its own, besides those that all have."""

    def measures(self) -> Iterable[Metric]:
        """As of now."""


class Backend(Protocol):
    """One method of reaching peers, configured."""

    KEYS: ClassVar[frozenset[str]]
    """The keys `parse` knows, in lower case; others are warned about."""

    @property
    def in_user_space(self) -> bool:
        """True if packets pass through the daemon, whose `attach` opens device and sockets for them."""

    @classmethod
    def parse(cls, config: Mapping[str, object]) -> Self:
        """Read the `Backend` object of the network config, keys in lower case; raises ConfigError for a wrong value."""

    def devices(self, network: NetworkConfig) -> tuple[str, ...]:
        """Names of the devices that `attach` will take for ours alone: no two daemons of a host may have one in common."""

    def attach(self, uplink: Uplink, network: NetworkConfig, kernel: Kernel) -> AbstractAsyncContextManager[Network]:
        """Open what the method needs, yield, close it; kernel state stays (the data plane outlives the daemon)."""


@runtime_checkable
class HostAware(Protocol):
    """A backend that is not the same on every host."""

    def on_host(self, identity: Identity) -> Backend:
        """The backend as it is on this host."""


def load_backend(network: NetworkConfig, identity: Identity | None = None) -> Backend:
    """Import and configure the backend that the network config asks for; with an identity, as it is on that host."""
    module, name = BACKENDS[_method(network)].split(":")
    kind: type[Backend] = getattr(import_module(module), name)
    backend = kind.parse(network.backend)
    return backend.on_host(identity) if identity is not None and isinstance(backend, HostAware) else backend


def _method(network: NetworkConfig) -> str:
    """Its name in `BACKENDS`; raises ConfigError."""
    by_type: dict[str, dict[str, str]] = {}
    for method in BACKENDS:
        kind, _, control = method.partition(" by ")
        by_type.setdefault(kind, {})[control or LEASES] = method
    controls = by_type.get(network.backend_type)
    if controls is None:
        known = ", ".join(sorted(by_type))
        raise ConfigError("Backend.Type", f"unknown backend type {network.backend_type!r}, expected one of {known}")
    return controls[read_choice(network.backend, "Control", tuple(controls)) if len(controls) > 1 else LEASES]


def unknown_keys(network: NetworkConfig, backend: Backend) -> tuple[str, ...]:
    """Warnings for keys of the `Backend` object that mean nothing to the backend."""
    unknown = sorted(set(network.backend) - backend.KEYS)
    return tuple(f"Backend.{key}: unknown key for backend type {network.backend_type}, ignored" for key in unknown)


def on_link(uplink: Uplink, kernel: Kernel, address: IPAddress) -> bool:
    """True if the uplink reaches the address without a router in between."""
    own = uplink.address(family_of(address))
    if own is not None and address in own.network:
        return True  # no look-up each for the thousands of peers on one segment
    try:
        hop = kernel.next_hop(address)
    except KernelError:
        return False
    return hop.device == uplink.index and hop.gateway is None and not hop.local


def require_own_address(uplink: Uplink, backend_type: str) -> None:
    """Raise BackendError behind a NAT: where peers send to must be the uplink's own address."""
    for public in uplink.public_ips:
        if public not in (address.ip for address in uplink.addresses):
            raise BackendError(f"{backend_type}: public IP {public} is not an address of {uplink}; behind a NAT, use vxlan or udp")
