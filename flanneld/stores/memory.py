"""Leases in this process: the contract without a network, for tests and trials; must not know any other store."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import replace
from types import MappingProxyType

from flanneld.config import NetworkConfig, parse_network
from flanneld.lease import Lease, LeaseAttrs, Leases, Subnets, overlap
from flanneld.store import LeaseLost, NetworkNotConfigured, choose_claim, owns

LEASE_TTL_S = 86400


class MemoryCluster:
    """What the stores of several hosts share. Nothing expires by itself: `remove` what should be gone."""

    def __init__(self, config: str | None = None) -> None:
        """`config` is the network config, JSON; None: not written yet."""
        self.config = config
        self._leases: dict[Subnets, Lease] = {}
        self._changed = asyncio.Event()

    def snapshot(self) -> tuple[Leases, asyncio.Event]:
        """The leases as they are, and what will be set once they have changed."""
        return MappingProxyType(dict(self._leases)), self._changed

    def put(self, lease: Lease) -> None:
        """Write a lease, over whatever is there; without an expiry it is a reservation."""
        self._leases[lease.subnets] = lease
        self._announce()

    def create(self, lease: Lease) -> bool:
        """Write a lease unless somebody else holds part of its subnets."""
        if any(overlap(lease.subnets, other.subnets) and not owns(lease.attrs, other) for other in self._leases.values()):
            return False
        self.put(lease)
        return True

    def remove(self, subnets: Subnets) -> None:
        """Delete a lease; nothing happens when there is none."""
        if self._leases.pop(subnets, None):
            self._announce()

    def _announce(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


class MemoryLeaseStore:
    """A LeaseStore on a MemoryCluster: one host's connection to it."""

    def __init__(self, cluster: MemoryCluster, now: Callable[[], float] = time.time) -> None:
        self._cluster = cluster
        self._now = now

    async def close(self) -> None:
        """Nothing is open."""

    async def network(self) -> NetworkConfig:
        if self._cluster.config is None:
            raise NetworkNotConfigured("the network has no config yet")
        return parse_network(self._cluster.config)

    async def acquire(self, network: NetworkConfig, attrs: LeaseAttrs, prefer: Subnets = ()) -> Lease:
        attempt = 0
        while True:
            held, _ = self._cluster.snapshot()
            # As over a network, the list is old when the claim arrives.
            await asyncio.sleep(0)
            claim = choose_claim(network, held.values(), attrs, prefer, attempt)
            for misfit in claim.misfits:
                await self.release(misfit)
            lease = Lease(claim.subnets, attrs, self._now() + LEASE_TTL_S)
            if claim.ours is not None and claim.ours.expires_at is None:
                lease = replace(lease, expires_at=None)
            if self._cluster.create(lease):
                return lease
            attempt += 1

    async def renew(self, lease: Lease) -> Lease:
        held = self._held(lease)
        if held.expires_at is not None:
            held = replace(held, expires_at=self._now() + LEASE_TTL_S)
            self._cluster.put(held)
        return replace(lease, expires_at=held.expires_at)

    async def release(self, lease: Lease) -> None:
        try:
            held = self._held(lease)
        except LeaseLost:
            return
        if held.expires_at is not None:
            self._cluster.remove(lease.subnets)

    async def leases(self) -> Leases:
        return self._cluster.snapshot()[0]

    async def watch(self) -> AsyncGenerator[Leases, None]:
        shown: Leases | None = None
        while True:
            held, changed = self._cluster.snapshot()
            present = MappingProxyType({subnets: replace(lease, expires_at=None) for subnets, lease in held.items()})
            if present != shown:
                shown = present
                yield present
            await changed.wait()

    def _held(self, lease: Lease) -> Lease:
        held = self._cluster.snapshot()[0].get(lease.subnets)
        if held is None:
            raise LeaseLost(f"lease {lease} is gone")
        if not owns(lease.attrs, held):
            raise LeaseLost(f"lease {lease} is held by {'+'.join(map(str, held.attrs.public_ips))}")
        return held
