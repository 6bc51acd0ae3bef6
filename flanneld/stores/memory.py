"""Leases in this process: the contract without a network, for tests and trials; must not know any other store."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Collection
from dataclasses import replace
from types import MappingProxyType

from flanneld.config import NetworkConfig, parse_network
from flanneld.lease import Lease, LeaseAttrs, Leases, Subnets, overlap
from flanneld.store import (
    Claim,
    LeaseLost,
    NetworkNotConfigured,
    Snapshot,
    StoreStatus,
    choose_claim,
    choose_hold,
    fits,
    holder,
    owns,
)

LEASE_TTL_S = 86400


class MemoryCluster:
    """What the stores of several hosts share. Nothing expires by itself: `remove` what should be gone."""

    def __init__(self, config: str | None = None) -> None:
        """`config` is the network config, JSON; None: not written yet."""
        self._config = config
        self._writes = 0
        self._leases: dict[Subnets, Lease] = {}
        self._changed = asyncio.Event()

    @property
    def config(self) -> str | None:
        return self._config

    def configure(self, config: str | None) -> None:
        """Write the network config, or delete it."""
        self._config = config
        self._announce()

    def snapshot(self) -> tuple[Leases, asyncio.Event]:
        """The leases as they are, and what will be set once anything has changed."""
        return MappingProxyType(dict(self._leases)), self._changed

    def put(self, lease: Lease) -> None:
        """Write a lease, over whatever is there; without an expiry it is a reservation."""
        self._writes += 1
        before = self._leases.get(lease.subnets)
        self._leases[lease.subnets] = replace(lease, created=before.created if before else self._writes)
        self._announce()

    def write(self, lease: Lease, over: Lease | None) -> Lease | None:
        """Write a lease over exactly that one, or where there is none; None: it has changed, or another holds part of it."""
        if self._leases.get(lease.subnets) != over:
            return None
        others = (other for other in self._leases.values() if other != over)
        if any(overlap(lease.subnets, other.subnets) and not owns(lease.attrs, other) for other in others):
            return None
        self.put(lease)
        return self._leases[lease.subnets]

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
        self.status = StoreStatus()
        self._cluster = cluster
        self._now = now

    def fits(self, network: NetworkConfig, subnets: Subnets) -> bool:
        return fits(network, subnets)

    def reconnect(self) -> None:
        """Nothing is open."""

    async def close(self) -> None:
        """Nothing is open."""

    async def network(self) -> NetworkConfig:
        if self._cluster.config is None:
            raise NetworkNotConfigured("the network has no config yet")
        return parse_network(self._cluster.config)

    async def acquire(
        self, network: NetworkConfig, attrs: LeaseAttrs, former: Lease | None = None, published: Collection[str] = ()
    ) -> Lease:
        attempt = 0
        while True:
            held, _ = self._cluster.snapshot()
            # As over a network, the list is old when the claim arrives.
            await asyncio.sleep(0)
            written = await self._write(choose_claim(network, held.values(), attrs, former, published, attempt=attempt), attrs)
            if written is not None:
                return written
            attempt += 1

    async def hold(self, lease: Lease, attrs: LeaseAttrs, published: Collection[str] = ()) -> Lease:
        while True:
            held, _ = self._cluster.snapshot()
            await asyncio.sleep(0)
            written = await self._write(choose_hold(held.values(), lease, attrs, published), attrs)
            if written is not None:
                return written

    async def _write(self, claim: Claim, attrs: LeaseAttrs) -> Lease | None:
        for misfit in claim.misfits:
            await self.release(misfit)
        claim.require_free()
        reserved = claim.ours is not None and claim.ours.expires_at is None
        return self._cluster.write(Lease(claim.subnets, attrs, None if reserved else self._now() + LEASE_TTL_S), claim.ours)

    async def renew(self, lease: Lease) -> Lease:
        held = self._held(lease)
        if held.expires_at is not None:
            held = replace(held, expires_at=self._now() + LEASE_TTL_S)
            self._cluster.put(held)
        return replace(lease, expires_at=held.expires_at, created=held.created)

    async def release(self, lease: Lease) -> None:
        try:
            held = self._held(lease)
        except LeaseLost:
            return
        if held.expires_at is not None:
            self._cluster.remove(lease.subnets)

    async def leases(self) -> Leases:
        return self._cluster.snapshot()[0]

    async def watch(self) -> AsyncGenerator[Snapshot, None]:
        shown: Snapshot | None = None
        while True:
            held, changed = self._cluster.snapshot()
            leases = MappingProxyType({subnets: replace(lease, expires_at=None) for subnets, lease in held.items()})
            present = Snapshot(leases, self._cluster.config)
            if present != shown:
                shown = present
                yield present
            await changed.wait()

    def _held(self, lease: Lease) -> Lease:
        held = self._cluster.snapshot()[0].get(lease.subnets)
        if held is None:
            raise LeaseLost(f"lease {lease} is gone")
        if not owns(lease.attrs, held):
            raise LeaseLost(f"lease {lease} is held by {holder(held)}")
        return held
