"""alloc: lease a subnet and nothing else; reaching peers is somebody else's work (a router, BIRD, a cloud's route table)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import ClassVar, Self

from flanneld.backend import Network, Uplink, Wanted
from flanneld.config import NetworkConfig
from flanneld.kernel import Kernel, Owner
from flanneld.lease import Lease, LeaseAttrs


@dataclass(frozen=True, slots=True)
class AllocBackend:
    """alloc has no settings."""

    KEYS: ClassVar[frozenset[str]] = frozenset()
    in_user_space: ClassVar[bool] = False

    @classmethod
    def parse(cls, config: Mapping[str, object]) -> Self:
        """Read `Backend`: nothing is in it."""
        return cls()

    def devices(self, network: NetworkConfig) -> tuple[str, ...]:
        """None."""
        return ()

    @asynccontextmanager
    async def attach(self, uplink: Uplink, network: NetworkConfig, kernel: Kernel) -> AsyncIterator[Network]:
        """Nothing to open."""
        yield AllocNetwork(uplink, network)


class AllocNetwork:
    """A lease without a data path."""

    def __init__(self, uplink: Uplink, network: NetworkConfig) -> None:
        self.attrs = LeaseAttrs(uplink.public_ips)
        self.mtu = uplink.mtu
        self.owner = Owner(tuple(pool.network for pool in network.pools))

    async def adopt(self, own: Lease) -> None:
        """Nothing to address."""

    def speaks(self, peer: Lease) -> bool:
        """To all that publish no method, as we do not."""
        return not peer.attrs.backend_type

    async def reach(self, peers: Collection[Lease], *, disturbed: bool = True) -> Wanted:
        """Nothing: peers are reached by other means, and what another method left is taken out."""
        return Wanted()

    async def run(self) -> None:
        """Nothing to run."""

    def remove(self) -> None:
        """Nothing: there is no device."""
