"""Keeps our own lease: renews it in time, claims it again when it vanishes, gives up when it is another's; must not know etcd."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from flanneld.config import NetworkConfig
from flanneld.lease import Lease, Leases, SubnetsExhausted
from flanneld.log import Log
from flanneld.retry import Backoff, retry
from flanneld.store import LeaseLost, LeaseStore, StoreError, owns

log = Log(__name__)

LEAST_RENEWAL_S = 1.0
"""Between two renewals, so that an expiry in the past does not make a loop of them."""


class LeaseKeeper:
    """Guards one lease until it is lost for good."""

    def __init__(self, store: LeaseStore, network: NetworkConfig, lease: Lease, margin_s: float, now: Callable[[], float]) -> None:
        self._store = store
        self._network = network
        self._lease = lease
        self._margin_s = margin_s
        """Renew at least this long before the expiry (`--subnet-lease-renew-margin`)."""
        self._now = now
        self._missing = asyncio.Event()

    def leases(self, leases: Leases) -> None:
        """Take the present leases: ours should be among them, and ours."""
        present = leases.get(self._lease.subnets)
        if present is None or not owns(self._lease.attrs, present):
            self._missing.set()

    def renewal_in(self) -> float | None:
        """Seconds until the next renewal: half the time left, or the margin if that is sooner; None for a reservation."""
        if self._lease.expires_at is None:
            return None
        left = self._lease.expires_at - self._now()
        return max(min(left / 2, left - self._margin_s), LEAST_RENEWAL_S)

    async def run(self) -> None:
        """Keep the lease; raises LeaseLost when another host holds the subnet."""
        while True:
            step = self._renew
            if await self._vanished():
                log.warning("lease missing", subnet=self._lease)
                step = self._reclaim
            # Whatever the store has against us now, the lease outlives a good while of it, and pods go on meanwhile.
            await retry(
                step,
                StoreError,
                Backoff(first_s=0.2, cap_s=30),
                failed=lambda error: log.warning("lease not extended", subnet=self._lease, why=error),
            )

    async def _vanished(self) -> bool:
        """Wait until the lease is missing (True) or due for renewal (False)."""
        try:
            async with asyncio.timeout(self.renewal_in()):
                return await self._missing.wait()
        except TimeoutError:
            return False

    async def _renew(self) -> None:
        try:
            self._lease = await self._store.renew(self._lease)
        except LeaseLost:
            self._missing.set()

    async def _reclaim(self) -> None:
        """Claim the same subnet again; its pods have addresses in it, so another one is of no use."""
        lost = self._lease
        self._missing.clear()  # before, so that what happens meanwhile is not missed
        try:
            got = await self._store.acquire(self._network, lost.attrs, lost.subnets)
        except SubnetsExhausted as error:
            raise LeaseLost(f"lease {lost} was lost and cannot be claimed again: {error}") from error
        if got.subnets != lost.subnets:
            await self._store.release(got)
            raise LeaseLost(f"lease {lost} was lost: another host holds the subnet now")
        self._lease = got
        log.info("lease claimed again", subnet=got)
