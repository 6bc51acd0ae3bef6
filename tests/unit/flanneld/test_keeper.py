from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from types import MappingProxyType

import pytest

from flanneld.keeper import DISPUTE_S, LeaseKeeper, LeaseState, Listener
from flanneld.lease import Lease, LeaseAttrs, Leases
from flanneld.store import LeaseLost, StoreError, StoreUnavailable
from flanneld.stores.memory import MemoryCluster, MemoryLeaseStore
from peers_of import lease, network

CONFIG = '{"Network": "10.244.0.0/16"}'
DAY_S = 86400.0
HOUR_S = 3600.0


@dataclass
class World:
    """A store that may be away, a clock that stands still, and what the keeper says."""

    cluster: MemoryCluster = field(default_factory=lambda: MemoryCluster(CONFIG))
    now_s: float = 0.0
    away: list[Exception] = field(default_factory=list)
    """What the next calls of the store raise."""
    states: list[str] = field(default_factory=list)
    changed: list[Lease] = field(default_factory=list)

    def store(self) -> MemoryLeaseStore:
        return Away(self.cluster, self.away, lambda: self.now_s)

    def keeper(self, own: Lease, margin_s: float = HOUR_S) -> LeaseKeeper:
        return LeaseKeeper(self.store(), own, margin_s, lambda: self.now_s, self.listener())

    def listener(self) -> Listener:
        return Listener(self.states.append, self.changed.append)

    def leases(self) -> Leases:
        return self.cluster.snapshot()[0]


class Away(MemoryLeaseStore):
    """A store that fails as often as it is told."""

    def __init__(self, cluster: MemoryCluster, away: list[Exception], now: object) -> None:
        super().__init__(cluster, now=now)  # type: ignore[arg-type]
        self._away = away

    async def renew(self, lease: Lease) -> Lease:
        if self._away:
            raise self._away.pop()
        return await super().renew(lease)

    async def hold(self, lease: Lease, attrs: LeaseAttrs, published: Collection[str] = ()) -> Lease:
        if self._away:
            raise self._away.pop()
        return await super().hold(lease, attrs, published)


def state_of(keeper: LeaseKeeper) -> str:
    return keeper.state.value


@asynccontextmanager
async def running(keeper: LeaseKeeper) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(keeper.run())
    try:
        async with asyncio.timeout(10):
            yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def come(look: Callable[[], object]) -> None:
    """Wait until there is something to see."""
    while not look():  # noqa: ASYNC110  # what is looked at tells nobody
        await asyncio.sleep(0.001)
    await asyncio.sleep(0)


async def until(world: World, *, held: Lease) -> None:
    """Wait until the store shows that."""
    await come(lambda: any((one.subnets, one.attrs) == (held.subnets, held.attrs) for one in world.leases().values()))


@pytest.mark.parametrize(
    ("expires_at", "margin_s", "renewal_in_s"),
    [(DAY_S, HOUR_S, 12 * HOUR_S), (DAY_S, 20 * HOUR_S, 4 * HOUR_S), (-5.0, HOUR_S, 1.0), (None, HOUR_S, None)],
)
async def test_renewal_is_at_half_time_or_the_margin_before_the_end(
    expires_at: float | None, margin_s: float, renewal_in_s: float | None
) -> None:
    assert World().keeper(replace(lease(1), expires_at=expires_at), margin_s).renewal_in() == renewal_in_s


async def test_a_lease_that_vanished_is_claimed_again_and_the_new_claim_is_told() -> None:
    world = World()
    own = await world.store().acquire(network(), lease(1).attrs)
    keeper = world.keeper(own)
    world.cluster.remove(own.subnets)
    keeper.leases(world.leases())
    assert state_of(keeper) == "missing"
    async with running(keeper):
        await until(world, held=own)
    assert state_of(keeper) == "held"
    assert [one.created for one in world.changed] == [keeper.lease.created]
    assert keeper.lease.created > own.created


async def test_another_host_is_given_time_to_let_go_and_then_the_lease_is_lost() -> None:
    world = World()
    own = await world.store().acquire(network(), lease(1).attrs)
    taken = replace(own, attrs=lease(2).attrs)
    world.cluster.put(taken)
    keeper = world.keeper(own)
    keeper.leases(world.leases())
    async with running(keeper) as task:
        await come(lambda: any("lost" in state for state in world.states))
        assert not task.done()
        world.now_s += DISPUTE_S + 1
        with pytest.raises(LeaseLost, match=r"held by 10\.0\.0\.2"):
            await task
    assert state_of(keeper) == "lost"
    assert {one.attrs for one in world.leases().values()} == {taken.attrs}


async def test_a_dispute_ends_when_the_other_host_lets_go() -> None:
    world = World()
    own = await world.store().acquire(network(), lease(1).attrs)
    world.cluster.put(replace(own, attrs=lease(2).attrs))
    keeper = world.keeper(own)
    keeper.leases(world.leases())
    async with running(keeper):
        await come(lambda: world.states)
        world.cluster.remove(own.subnets)
        await until(world, held=own)
    assert world.states[-1] == ""


async def test_renewal_waits_for_the_store_to_come_back_whatever_it_says_meanwhile() -> None:
    world = World(away=[StoreUnavailable("etcd is away"), StoreError("etcd: permission denied")])
    own = await world.store().acquire(network(), lease(1).attrs)
    keeper = world.keeper(replace(own, expires_at=0.0))
    async with running(keeper):
        await come(lambda: not world.away and keeper.lease.expires_at != 0.0)
    assert keeper.renewal_in() == 12 * HOUR_S


async def test_without_the_store_a_lease_expires_by_our_own_clock_and_is_kept_all_the_same() -> None:
    world = World()
    own = await world.store().acquire(network(), lease(1).attrs)
    world.away += [StoreUnavailable("etcd is away")] * 3
    keeper = world.keeper(replace(own, expires_at=0.0))
    world.now_s = 1.0
    assert state_of(keeper) == "expired"
    async with running(keeper):
        await come(lambda: not world.away and keeper.state is LeaseState.HELD)
    assert "etcd is away" in world.states


async def test_an_older_claim_of_ours_is_given_up_and_a_reservation_is_not() -> None:
    world = World()
    own = await world.store().acquire(network(), lease(1).attrs)
    stale, reserved = (replace(lease(n), attrs=own.attrs) for n in (200, 201))
    keeper = world.keeper(own)
    async with running(keeper):
        world.cluster.put(replace(stale, expires_at=DAY_S))
        world.cluster.put(reserved)
        keeper.leases(world.leases())
        await come(lambda: stale.subnets not in world.leases())
        keeper.leases(world.leases())
        await asyncio.sleep(0.01)
    assert set(world.leases()) == {own.subnets, reserved.subnets}


async def test_what_is_to_be_published_waits_for_the_store_and_then_is() -> None:
    world = World()
    own = await world.store().acquire(network(), lease(1).attrs)
    keeper = world.keeper(own)
    world.away.append(StoreUnavailable("etcd is away"))
    async with running(keeper):
        keeper.publish(lease(3).attrs)
        await until(world, held=replace(own, attrs=lease(3).attrs))
    assert keeper.lease.created == own.created


async def test_what_somebody_wrote_over_is_published_again_and_our_own_late_news_is_not_taken_for_it() -> None:
    world = World()
    own = await world.store().acquire(network(), lease(1).attrs)
    keeper = world.keeper(own)
    async with running(keeper):
        keeper.publish(changed := replace(own.attrs, backend_data=((4, '{"VNI":2}'),)))
        await until(world, held=replace(own, attrs=changed))
        keeper.leases(MappingProxyType({own.subnets: own}))
        await asyncio.sleep(0.01)
        assert len(world.changed) == 1
        world.cluster.put(replace(own, attrs=replace(own.attrs, backend_data=((4, "{}"),))))
        keeper.leases(world.leases())
        await until(world, held=replace(own, attrs=changed))


async def test_our_claim_of_an_older_time_is_ours_though_it_names_an_address_that_we_do_not_have_any_more() -> None:
    world = World()
    own = await world.store().acquire(network(), lease(1).attrs)
    keeper = world.keeper(own)
    async with running(keeper):
        keeper.publish(moved := lease(3).attrs)
        await until(world, held=replace(own, attrs=moved))
        world.cluster.put(replace(own, attrs=lease(1).attrs))  # the store is restored from a snapshot
        keeper.leases(world.leases())
        await until(world, held=replace(own, attrs=moved))
    assert world.states.count("") == len(world.states)


async def test_our_claim_of_an_older_time_is_ours_when_our_address_changes_before_it_was_seen() -> None:
    world = World()
    own = replace(await world.store().acquire(network(), lease(1).attrs), created=9)
    keeper = world.keeper(own)
    async with running(keeper):
        world.cluster.put(replace(own, created=3))  # the store is restored from a snapshot
        keeper.publish(moved := lease(3).attrs)
        await until(world, held=replace(own, created=3, attrs=moved))
    assert world.states.count("") == len(world.states)


async def test_garbage_over_our_claim_of_an_older_time_is_no_other_hosts_claim() -> None:
    world = World()
    own = replace(await world.store().acquire(network(), lease(1).attrs), created=9)
    keeper = world.keeper(own)
    async with running(keeper):
        # As the cluster shows our claim, the store was restored from a snapshot: but for its number nothing is to be done.
        keeper.leases(world.leases())
        assert keeper.lease.created == world.leases()[own.subnets].created != own.created
        world.cluster.put(replace(own, attrs=LeaseAttrs(())))
        keeper.leases(world.leases())
        await until(world, held=own)
    assert world.states.count("") == len(world.states)


async def test_what_we_published_last_but_one_is_published_anew_when_a_restored_store_shows_it() -> None:
    world, time_s = World(), [0.0]
    own = await world.store().acquire(network(), lease(1).attrs)
    keeper = LeaseKeeper(world.store(), own, HOUR_S, lambda: time_s[0], world.listener())
    other = replace(lease(1).attrs, backend_type="host-gw")
    async with running(keeper):
        keeper.publish(other)
        await until(world, held=replace(own, attrs=other))
        time_s[0] = 60.0
        world.cluster.put(own)
        keeper.leases(world.leases())
        await until(world, held=replace(own, attrs=other))


async def test_what_an_earlier_run_published_is_ours_too() -> None:
    world = World()
    own = await world.store().acquire(network(), lease(1).attrs)
    world.cluster.put(replace(own, attrs=lease(3).attrs))  # restored as it was when another process ran here
    keeper = LeaseKeeper(world.store(), own, HOUR_S, lambda: 0.0, world.listener(), (lease(3).attrs.fingerprint(),))
    async with running(keeper):
        keeper.leases(world.leases())
        await until(world, held=own)
    assert world.states.count("") == len(world.states)


async def test_a_younger_claim_under_our_old_address_is_another_hosts() -> None:
    world = World()
    own = await world.store().acquire(network(), lease(1).attrs)
    keeper = world.keeper(own)
    async with running(keeper):
        keeper.publish(moved := lease(3).attrs)
        await until(world, held=replace(own, attrs=moved))
        world.cluster.remove(own.subnets)
        world.cluster.put(replace(own, attrs=lease(1).attrs))
        keeper.leases(world.leases())
        await come(lambda: any("held by" in state for state in world.states))
