"""alloc: lease a subnet and nothing else; reaching peers is somebody else's work (a router, BIRD, a cloud's route table)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import ClassVar, Self

from flanneld.backend import Network, Refusal, Uplink
from flanneld.config import NetworkConfig
from flanneld.kernel import Kernel, Owner
from flanneld.lease import Lease, LeaseAttrs


@dataclass(frozen=True, slots=True)
class AllocBackend:
    """alloc has no settings."""

    KEYS: ClassVar[frozenset[str]] = frozenset()

    @classmethod
    def parse(cls, config: Mapping[str, object]) -> Self:
        """Read `Backend`: nothing is in it."""
        return cls()

    @asynccontextmanager
    async def attach(self, uplink: Uplink, network: NetworkConfig, kernel: Kernel) -> AsyncIterator[Network]:
        """Nothing to open."""
        yield AllocNetwork(uplink)


class AllocNetwork:
    """A lease without a data path."""

    def __init__(self, uplink: Uplink) -> None:
        self.attrs = LeaseAttrs(uplink.public_ips)
        self.mtu = uplink.mtu
        self.owner = Owner()

    async def adopt(self, own: Lease) -> None:
        """Nothing to address."""

    async def apply(self, peers: Collection[Lease]) -> tuple[Refusal, ...]:
        """Nothing to program: peers are reached by other means."""
        return ()

    async def run(self) -> None:
        """Nothing to run."""
