"""The contract of `flanneld.store.LeaseStore`, on every implementation."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from typing import cast

import pytest

from contract.store_world import CONFIG, DUAL, NETWORK, SMALL, EtcdWorld, MemoryWorld, World, claimable, host, nets, wish
from flanneld.config import ConfigError, NetworkConfig, parse_network
from flanneld.lease import Lease, Leases, SubnetsExhausted, overlap
from flanneld.store import LeaseLost, LeaseStore, NetworkNotConfigured, Snapshot

A_WHILE_S = 20


@pytest.fixture(params=["memory", "etcd"])
async def world(request: pytest.FixtureRequest) -> AsyncIterator[World]:
    made: World = MemoryWorld() if request.param == "memory" else EtcdWorld(request.getfixturevalue("etcd"))
    yield made
    await made.close()


async def upcoming(watch: AsyncIterator[Snapshot]) -> Leases:
    async with asyncio.timeout(A_WHILE_S):
        return (await anext(watch)).leases


def watching(store: LeaseStore) -> aclosing[AsyncGenerator[Snapshot, None]]:
    return aclosing(store.watch())


async def test_network_without_a_config_is_not_configured(world: World) -> None:
    with pytest.raises(NetworkNotConfigured):
        await world.store().network()


async def test_network_reads_the_config_as_it_is_now(world: World) -> None:
    await world.configure("garbage")
    with pytest.raises(ConfigError):
        await world.store().network()
    await world.configure(CONFIG)
    assert await world.store().network() == NETWORK


async def test_acquire_claims_a_subnet_of_the_network_and_publishes_our_attributes(world: World) -> None:
    lease = await world.store().acquire(NETWORK, host(1, data='{"VNI":1}'))
    assert claimable(NETWORK, lease.subnets)
    assert lease.expires_at is not None
    published = (await world.store().leases())[lease.subnets]
    assert published.attrs == host(1, data='{"VNI":1}')
    assert published.expires_at == pytest.approx(lease.expires_at, abs=60)


async def test_acquire_again_is_the_same_lease_with_new_attributes(world: World) -> None:
    first = await world.store().acquire(NETWORK, host(1, data="1"))
    again = await world.store().acquire(NETWORK, host(1, data="2"), wish(nets("10.5.200.0/24")))
    assert again.subnets == first.subnets
    leases = await world.store().leases()
    assert {lease.attrs for lease in leases.values()} == {host(1, data="2")}


async def test_a_free_preferred_subnet_is_taken(world: World) -> None:
    lease = await world.store().acquire(NETWORK, host(1), wish(nets("10.5.200.0/24")))
    assert lease.subnets == nets("10.5.200.0/24")


async def test_a_preferred_subnet_of_another_host_is_not_taken(world: World) -> None:
    await world.store().acquire(NETWORK, host(1), wish(nets("10.5.200.0/24")))
    lease = await world.store().acquire(NETWORK, host(2), wish(nets("10.5.200.0/24")))
    assert lease.subnets != nets("10.5.200.0/24")
    assert claimable(NETWORK, lease.subnets)


@pytest.mark.parametrize("network", [SMALL, DUAL], ids=["one family", "two families"])
async def test_hosts_that_claim_at_one_instant_all_get_subnets_of_their_own(world: World, network: NetworkConfig) -> None:
    stores = [world.store() for _ in range(15)]
    leases = await asyncio.gather(*(store.acquire(network, host(1 + n, ipv6=network is DUAL)) for n, store in enumerate(stores)))
    for number, lease in enumerate(leases):
        assert claimable(network, lease.subnets)
        assert not any(overlap(lease.subnets, other.subnets) for other in leases[:number])
    assert set(await world.store().leases()) == {lease.subnets for lease in leases}


async def test_hosts_that_prefer_one_subnet_at_one_instant_do_not_share_it(world: World) -> None:
    stores = [world.store() for _ in range(5)]
    wanted = nets("10.5.200.0/24")
    leases = await asyncio.gather(*(store.acquire(NETWORK, host(1 + n), wish(wanted)) for n, store in enumerate(stores)))
    assert len({lease.subnets for lease in leases}) == 5
    assert wanted in {lease.subnets for lease in leases}


async def test_a_full_pool_is_exhausted_until_somebody_releases(world: World) -> None:
    leases = [await world.store().acquire(SMALL, host(1 + n)) for n in range(15)]
    with pytest.raises(SubnetsExhausted):
        await world.store().acquire(SMALL, host(99))
    await world.store().release(leases[7])
    assert (await world.store().acquire(SMALL, host(99))).subnets == leases[7].subnets


async def test_a_lease_that_the_config_outgrew_is_given_up_for_one_that_fits(world: World) -> None:
    await world.store().acquire(NETWORK, host(1))
    other = parse_network('{"Network": "10.6.0.0/16"}')
    lease = await world.store().acquire(other, host(1))
    assert claimable(other, lease.subnets)
    assert set(await world.store().leases()) == {lease.subnets}


async def test_renew_extends_our_lease(world: World) -> None:
    store = world.store()
    lease = await store.acquire(NETWORK, host(1))
    renewed = await store.renew(replace(lease, expires_at=0))
    assert replace(renewed, expires_at=None) == replace(lease, expires_at=None)
    assert renewed.expires_at == pytest.approx(lease.expires_at, abs=60)


async def test_renew_of_a_vanished_lease_says_that_it_is_lost(world: World) -> None:
    lease = await world.store().acquire(NETWORK, host(1))
    await world.remove(lease.subnets)
    with pytest.raises(LeaseLost, match="gone"):
        await world.store().renew(lease)
    assert await world.store().leases() == {}


async def test_renew_of_a_lease_that_another_host_holds_says_that_it_is_lost_and_changes_nothing(world: World) -> None:
    lease = await world.store().acquire(NETWORK, host(1))
    await world.reserve(lease.subnets, host(2))
    with pytest.raises(LeaseLost, match=r"held by 192\.0\.2\.2"):
        await world.store().renew(lease)
    assert (await world.store().leases())[lease.subnets].attrs == host(2)


async def test_release_frees_the_subnet_and_may_be_repeated(world: World) -> None:
    lease = await world.store().acquire(NETWORK, host(1))
    for _ in range(2):
        await world.store().release(lease)
        assert await world.store().leases() == {}


async def test_release_leaves_another_hosts_lease_alone(world: World) -> None:
    lease = await world.store().acquire(NETWORK, host(1))
    await world.reserve(lease.subnets, host(2))
    await world.store().release(lease)
    assert set(await world.store().leases()) == {lease.subnets}


async def test_a_reservation_is_used_by_its_host_and_stays_a_reservation(world: World) -> None:
    await world.reserve(nets("10.5.9.0/24"), host(1, data="1"))
    store = world.store()
    lease = await store.acquire(NETWORK, host(1, data="2"))
    assert (lease.subnets, lease.expires_at) == (nets("10.5.9.0/24"), None)
    assert await store.renew(lease) == lease
    assert await store.leases() == {lease.subnets: lease}
    await store.release(lease)
    assert await store.leases() == {lease.subnets: lease}


async def test_a_live_lease_made_a_reservation_stays_one(world: World) -> None:
    store = world.store()
    lease = await store.acquire(NETWORK, host(1))
    await world.reserve(lease.subnets, host(1))
    assert (await store.renew(lease)).expires_at is None
    assert (await store.leases())[lease.subnets].expires_at is None


async def test_watch_yields_the_whole_mapping_at_once_and_after_each_change(world: World) -> None:
    store = world.store()
    first = await store.acquire(NETWORK, host(1))
    async with watching(world.store()) as watch:
        assert set(await upcoming(watch)) == {first.subnets}
        second = await store.acquire(NETWORK, host(2))
        assert {lease.attrs for lease in (await upcoming(watch)).values()} == {host(1), host(2)}
        await store.acquire(NETWORK, host(1, data='"new"'))
        assert (await upcoming(watch))[first.subnets].attrs == host(1, data='"new"')
        await store.release(first)
        assert set(await upcoming(watch)) == {second.subnets}


async def test_watch_of_an_empty_network_yields_the_empty_mapping_at_once(world: World) -> None:
    async with watching(world.store()) as watch:
        assert await upcoming(watch) == {}


async def test_watch_coalesces_what_happens_while_its_consumer_is_busy(world: World) -> None:
    store = world.store()
    async with watching(world.store()) as watch:
        await upcoming(watch)
        leases = [await store.acquire(NETWORK, host(1 + n)) for n in range(20)]
        await asyncio.sleep(0.2)  # the consumer, busy
        seen = [await upcoming(watch)]
        while len(seen[-1]) < len(leases):
            seen.append(await upcoming(watch))
        assert len(seen) <= 3


async def test_watch_does_not_yield_what_it_has_yielded(world: World) -> None:
    store = world.store()
    lease = await store.acquire(NETWORK, host(1))
    async with watching(world.store()) as watch:
        await upcoming(watch)
        await store.acquire(NETWORK, host(1))
        await store.renew(lease)
        await store.acquire(NETWORK, host(2))
        assert len(await upcoming(watch)) == 2


async def test_a_yielded_mapping_does_not_change_afterwards(world: World) -> None:
    store = world.store()
    async with watching(world.store()) as watch:
        before = await upcoming(watch)
        await store.acquire(NETWORK, host(1))
        await upcoming(watch)
        assert before == {}
        with pytest.raises(TypeError):
            cast("dict[object, object]", before)[1] = 2


async def test_hold_claims_exactly_the_subnets_again_and_publishes(world: World) -> None:
    lease = await world.store().acquire(NETWORK, host(1, data="1"))
    await world.remove(lease.subnets)
    again = await world.store().hold(lease, host(1, data="2"))
    assert (again.subnets, again.attrs) == (lease.subnets, host(1, data="2"))
    assert again.created > lease.created
    (held,) = (await world.store().leases()).values()
    assert replace(held, expires_at=None) == replace(again, expires_at=None)


async def test_hold_of_what_we_hold_keeps_the_claim(world: World) -> None:
    lease = await world.store().acquire(NETWORK, host(1, data="1"))
    again = await world.store().hold(lease, host(1, data="2"))
    assert (again.subnets, again.created) == (lease.subnets, lease.created)


async def test_hold_of_a_reservation_leaves_it_one(world: World) -> None:
    await world.reserve(nets("10.5.9.0/24"), host(1))
    lease = await world.store().acquire(NETWORK, host(1))
    assert (await world.store().hold(lease, host(1, data="2"))).expires_at is None


async def test_hold_of_what_another_host_has_names_it_and_changes_nothing(world: World) -> None:
    lease = await world.store().acquire(NETWORK, host(1))
    await world.reserve(lease.subnets, host(2))
    with pytest.raises(LeaseLost, match=r"held by 192\.0\.2\.2"):
        await world.store().hold(lease, host(1))
    assert (await world.store().leases())[lease.subnets].attrs == host(2)


async def test_hold_gives_up_our_other_leases_even_in_vain_but_no_reservation(world: World) -> None:
    stale = await world.store().acquire(NETWORK, host(1))
    await world.reserve(nets("10.5.9.0/24"), host(1))
    await world.reserve(nets("10.5.10.0/24"), host(2))
    with pytest.raises(LeaseLost):
        await world.store().hold(Lease(nets("10.5.10.0/24"), host(1)), host(1))
    assert set(await world.store().leases()) == {nets("10.5.9.0/24"), nets("10.5.10.0/24")} - {stale.subnets}


async def test_another_public_ip_keeps_the_claim_unless_somebody_wrote_over_it(world: World) -> None:
    lease = await world.store().acquire(NETWORK, host(1))
    moved = await world.store().acquire(NETWORK, host(9), lease)
    assert (moved.subnets, moved.created, moved.attrs) == (lease.subnets, lease.created, host(9))
    assert set(await world.store().leases()) == {lease.subnets}
    await world.reserve(lease.subnets, host(2))
    assert (await world.store().acquire(NETWORK, host(7), moved)).subnets != lease.subnets


async def test_watch_shows_the_config_and_no_lease_before_the_config_that_came_first(world: World) -> None:
    store = world.store()
    async with watching(world.store()) as watch:
        async with asyncio.timeout(A_WHILE_S):
            assert (await anext(watch)).config is None
            await world.configure(CONFIG)
            lease = await store.acquire(NETWORK, host(1))
            while lease.subnets not in (snapshot := await anext(watch)).leases:
                pass
        assert snapshot.config == CONFIG
