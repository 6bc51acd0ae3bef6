"""The plug point of data paths: what a backend is given, what it gives back, and the one table of them; must not know any of them.

A backend is a plan, lease -> entries, around one `reconcile`. `hostgw/backend.py` is the smallest: read it first.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from importlib import import_module
from typing import Protocol, Self

from flanneld import FlanneldError
from flanneld.config import ConfigError, NetworkConfig
from flanneld.kernel import IPInterface, Kernel, Owner
from flanneld.lease import Family, IPAddress, Lease, LeaseAttrs

BACKENDS = {
    "vxlan": "flanneld.backends.vxlan:VxlanBackend",
    "host-gw": "hostgw.backend:HostGwBackend",
    "udp": "flanneld.backends.udp.backend:UdpBackend",
    "alloc": "flanneld.backends.alloc:AllocBackend",
}
"""Backend type in the network config -> where its class is; imported only when chosen."""


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


@dataclass(frozen=True, slots=True)
class Refusal:
    """One peer that cannot be reached by this method, and why, in words."""

    lease: Lease
    why: str


class Network(Protocol):
    """An attached backend. One task calls `adopt` and `apply`; `run` runs beside them."""

    @property
    def attrs(self) -> LeaseAttrs:
        """What our own lease is to publish; settled by `attach`."""

    @property
    def mtu(self) -> int:
        """Bytes that a pod's interface may send in one packet."""

    @property
    def owner(self) -> Owner:
        """What in the kernel is this network's; a change there is a reason to call `apply` again."""

    async def adopt(self, own: Lease) -> None:
        """Take our own subnet: address the device. May be repeated."""

    async def apply(self, peers: Collection[Lease]) -> tuple[Refusal, ...]:
        """After this exactly these peers are reachable, but for those returned; the same set again does nothing.

        It also restores what was lost since the last call: a device, a route, an entry.
        """

    async def run(self) -> None:
        """The user-space data plane, or nothing; returns or is cancelled."""


class Backend(Protocol):
    """One method of reaching peers, configured."""

    @classmethod
    def parse(cls, config: Mapping[str, object]) -> Self:
        """Read the `Backend` object of the network config, keys in lower case; raises ConfigError for a wrong value."""

    def attach(self, uplink: Uplink, network: NetworkConfig, kernel: Kernel) -> AbstractAsyncContextManager[Network]:
        """Open what the method needs, yield, close it; kernel state stays (the data plane outlives the daemon)."""


def load_backend(network: NetworkConfig) -> Backend:
    """Import and configure the backend that the network config asks for."""
    try:
        module, name = BACKENDS[network.backend_type].split(":")
    except KeyError:
        known = ", ".join(sorted(BACKENDS))
        raise ConfigError("Backend.Type", f"unknown backend type {network.backend_type!r}, expected one of {known}") from None
    backend: type[Backend] = getattr(import_module(module), name)
    return backend.parse(network.backend)
