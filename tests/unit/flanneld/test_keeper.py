from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import replace

import pytest

from flanneld.keeper import LeaseKeeper
from flanneld.lease import Lease
from flanneld.store import LeaseLost, StoreError, StoreUnavailable
from flanneld.stores.memory import MemoryCluster, MemoryLeaseStore
from peers_of import lease, network

CONFIG = '{"Network": "10.244.0.0/16"}'
DAY_S = 86400.0
HOUR_S = 3600.0


def keeper_of(own: Lease, margin_s: float = HOUR_S, store: MemoryLeaseStore | None = None) -> LeaseKeeper:
    return LeaseKeeper(store or MemoryLeaseStore(MemoryCluster(CONFIG)), network(), own, margin_s, lambda: 0.0)


@pytest.mark.parametrize(
    ("expires_at", "margin_s", "renewal_in_s"),
    [(DAY_S, HOUR_S, 12 * HOUR_S), (DAY_S, 20 * HOUR_S, 4 * HOUR_S), (-5.0, HOUR_S, 1.0), (None, HOUR_S, None)],
)
def test_renewal_is_at_half_time_or_the_margin_before_the_end(
    expires_at: float | None, margin_s: float, renewal_in_s: float | None
) -> None:
    assert keeper_of(replace(lease(1), expires_at=expires_at), margin_s).renewal_in() == renewal_in_s


async def test_a_lease_that_vanished_is_claimed_again() -> None:
    cluster = MemoryCluster(CONFIG)
    store = MemoryLeaseStore(cluster)
    own = await store.acquire(network(), lease(1).attrs)
    keeper = keeper_of(own, store=store)
    cluster.remove(own.subnets)
    keeper.leases({})
    task = asyncio.create_task(keeper.run())
    async with asyncio.timeout(10), aclosing(store.watch()) as watch:
        async for leases in watch:
            if leases:
                break
    task.cancel()
    assert set(await store.leases()) == {own.subnets}


async def test_a_lease_that_another_host_holds_is_lost_and_nothing_else_is_taken() -> None:
    cluster = MemoryCluster(CONFIG)
    store = MemoryLeaseStore(cluster)
    own = await store.acquire(network(), lease(1).attrs)
    taken = replace(own, attrs=lease(2).attrs)
    cluster.put(taken)
    keeper = keeper_of(own, store=store)
    keeper.leases({own.subnets: taken})
    with pytest.raises(LeaseLost, match=str(own)):
        await keeper.run()
    assert dict(await store.leases()) == {own.subnets: taken}


class Away(MemoryLeaseStore):
    """A store that fails the first two renewals, whether it says that waiting helps or not."""

    def __init__(self, cluster: MemoryCluster) -> None:
        super().__init__(cluster, now=lambda: 0.0)
        self.away = [StoreUnavailable("etcd is away"), StoreError("etcd: permission denied")]
        self.renewed = asyncio.Event()

    async def renew(self, lease: Lease) -> Lease:
        if self.away:
            raise self.away.pop()
        self.renewed.set()
        return await super().renew(lease)


async def test_renewal_waits_for_the_store_to_come_back() -> None:
    store = Away(MemoryCluster(CONFIG))
    own = await store.acquire(network(), lease(1).attrs)
    keeper = keeper_of(replace(own, expires_at=0.0), store=store)
    task = asyncio.create_task(keeper.run())
    async with asyncio.timeout(10):
        await store.renewed.wait()
        await asyncio.sleep(0)
    task.cancel()
    assert keeper.renewal_in() == 12 * HOUR_S
