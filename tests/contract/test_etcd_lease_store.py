"""What only the etcd store promises: flannel's bytes, real etcd leases, and a watch that outlives its connection."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import pytest

from contract.store_world import NETWORK, EtcdWorld, host, nets, wish
from etcd_server import EtcdServer, etcd_server
from flanneld.config import parse_network
from flanneld.etcd import EtcdClient, Listing
from flanneld.flags import Options
from flanneld.lease import LeaseAttrs, Leases
from flanneld.store import LeaseLost, Snapshot, StoreError, StoreUnavailable
from flanneld.stores.etcd import EtcdLeaseStore, open_etcd_store

A_WHILE_S = 20
DAY_S = 86400
SUBNET = nets("10.5.72.0/24")


@pytest.fixture
async def world(etcd: EtcdServer) -> AsyncIterator[EtcdWorld]:
    made = EtcdWorld(etcd)
    yield made
    await made.close()


def watching(store: EtcdLeaseStore) -> aclosing[AsyncGenerator[Snapshot, None]]:
    return aclosing(store.watch())


async def until(watch: AsyncIterator[Snapshot], count: int) -> Leases:
    async with asyncio.timeout(A_WHILE_S):
        async for snapshot in watch:
            if len(snapshot.leases) == count:
                return snapshot.leases
    raise AssertionError("the watch ended")


def phrases(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name.startswith("flanneld.")]


async def put_with_ttl(world: EtcdWorld, attrs: str, ttl_s: int) -> int:
    """Write SUBNET's key as somebody else's tool would, and return its etcd lease."""
    lease = json.loads(world.server.ctl("lease", "grant", str(ttl_s), "-w", "json"))["ID"]
    world.server.ctl("put", world.key(SUBNET), attrs, f"--lease={lease:x}")
    return int(lease)


async def test_a_claim_is_written_as_flannel_writes_it(world: EtcdWorld) -> None:
    await world.store().acquire(NETWORK, host(1, data='{"VNI":1,"VtepMAC":"fa:4f:bb:a6:ee:c4"}'), wish(SUBNET))
    key, value = world.server.ctl("get", "--prefix", world.prefix).split("\n", 1)
    assert key == f"{world.prefix}/subnets/10.5.72.0-24"
    assert value == (
        '{"PublicIP":"192.0.2.1","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"fa:4f:bb:a6:ee:c4"}}\n'
    )


async def test_a_claim_is_attached_to_an_etcd_lease_of_a_day_which_renewal_extends(world: EtcdWorld) -> None:
    client, store = world.client(), world.store()
    lease = await store.acquire(NETWORK, host(1), wish(SUBNET))
    written = await client.get(world.key(SUBNET))
    assert written is not None
    assert await client.time_to_live(written.lease) == pytest.approx(DAY_S, abs=60)
    await store.renew(lease)
    await store.acquire(NETWORK, host(1))
    again = await client.get(world.key(SUBNET))
    assert again is not None
    assert again.lease == written.lease


async def test_a_lease_that_is_about_to_expire_is_renewed_in_time(world: EtcdWorld) -> None:
    old = await put_with_ttl(world, '{"PublicIP":"192.0.2.1"}', ttl_s=300)
    lease = await world.store().acquire(NETWORK, host(1))
    now = await world.client().get(world.key(lease.subnets))
    assert lease.subnets == SUBNET
    assert now is not None
    assert now.lease != old
    assert await world.client().time_to_live(now.lease) == pytest.approx(DAY_S, abs=60)


async def test_renew_of_a_key_whose_etcd_lease_was_revoked_says_that_it_is_lost(world: EtcdWorld) -> None:
    store = world.store()
    lease = await store.acquire(NETWORK, host(1), wish(SUBNET))
    written = await world.client().get(world.key(SUBNET))
    assert written is not None
    await world.client().revoke(written.lease)
    with pytest.raises(LeaseLost):
        await store.renew(lease)


async def test_a_lost_claim_leaves_no_etcd_lease_behind(world: EtcdWorld) -> None:
    before = set(world.server.ctl("lease", "list").split())
    await asyncio.gather(*(world.store().acquire(NETWORK, host(1 + n), wish(SUBNET)) for n in range(5)))
    assert (
        len(set(world.server.ctl("lease", "list").split()) - before - {"found", "leases"}) <= 6
    )  # 5, and the count that it prints


async def test_two_stores_of_one_host_that_race_end_with_one_lease(world: EtcdWorld) -> None:
    stores = [world.store() for _ in range(4)]
    leases = await asyncio.gather(*(store.acquire(NETWORK, host(1), wish(SUBNET)) for store in stores))
    assert {lease.subnets for lease in leases} == {SUBNET}


async def test_ipv6_only_hosts_do_not_take_each_others_lease(world: EtcdWorld) -> None:
    network = parse_network('{"EnableIPv4": false, "EnableIPv6": true, "IPv6Network": "fd00:5::/48"}')
    hosts = [replace(host(n, ipv6=True), public_ips=host(n, ipv6=True).public_ips[1:]) for n in (1, 2)]
    first, second = [await world.store().acquire(network, attrs) for attrs in hosts]
    assert first.subnets != second.subnets
    assert all(key.startswith(f"{world.prefix}/subnets/0.0.0.0-0&fd00:5:0:") for key in keys_of(world))


def keys_of(world: EtcdWorld) -> list[str]:
    return world.server.ctl("get", "--prefix", "--keys-only", world.prefix).split()


@pytest.mark.parametrize("value", ["", "garbage", "[]", '{"PublicIP":"1.2.3"}', "{}"])
async def test_garbage_is_ignored_named_once_and_never_handed_out(
    world: EtcdWorld, caplog: pytest.LogCaptureFixture, value: str
) -> None:
    world.server.ctl("put", world.key(SUBNET), value)
    world.server.ctl("put", f"{world.prefix}/subnets/what", value)
    store = world.store()
    async with watching(store) as watch:
        assert await until(watch, 0) == {}
        lease = await store.acquire(NETWORK, host(1), wish(SUBNET))
        assert lease.subnets != SUBNET
        assert set(await until(watch, 1)) == {lease.subnets}
    assert phrases(caplog) == ["lease ignored"] * 2


async def test_a_key_that_turns_into_garbage_is_no_lease_any_more(world: EtcdWorld) -> None:
    await world.store().acquire(NETWORK, host(1), wish(SUBNET))
    async with watching(world.store()) as watch:
        await until(watch, 1)
        world.server.ctl("put", world.key(SUBNET), "garbage")
        assert await until(watch, 0) == {}


async def test_garbage_over_our_key_is_written_over_by_hold_and_is_no_reservation(world: EtcdWorld) -> None:
    store = world.store()
    lease = await store.acquire(NETWORK, host(1), wish(SUBNET))
    world.server.ctl("put", world.key(SUBNET), "garbage")
    with pytest.raises(LeaseLost, match="nobody who can be named"):
        await store.renew(lease)
    again = await store.hold(lease, host(1))
    assert (again.subnets, again.created) == (lease.subnets, lease.created)
    written = await world.client().get(world.key(SUBNET))
    assert written is not None
    assert await world.client().time_to_live(written.lease) == pytest.approx(DAY_S, abs=60)
    assert (await store.renew(again)).created == again.created


async def test_other_keys_beside_the_leases_are_not_read(world: EtcdWorld, caplog: pytest.LogCaptureFixture) -> None:
    for key in ("config", "subnets", "subnets-of-another/10.5.1.0-24", "subnetsx"):
        world.server.ctl("put", f"{world.prefix}/{key}", "{}")
    assert await world.store().leases() == {}
    assert not caplog.records


async def test_watch_asks_for_nothing_per_lease(world: EtcdWorld) -> None:
    class CountingClient(EtcdClient):
        asked = 0

        async def get_prefix(self, prefix: str) -> Listing:
            self.asked += 1
            return await super().get_prefix(prefix)

        async def time_to_live(self, lease: int) -> int:
            raise AssertionError("a request for one lease")

    client = CountingClient([world.server.endpoint])
    store = world.store()
    async with aclosing(EtcdLeaseStore(client, world.prefix).watch()) as watch:
        for number in range(1, 6):
            await store.acquire(NETWORK, host(number))
            await until(watch, number)
        assert client.asked == 1
    await client.close()


async def test_watch_survives_a_compaction_that_overtakes_it(world: EtcdWorld, caplog: pytest.LogCaptureFixture) -> None:
    class SlowClient(EtcdClient):
        """Between its first list and its watch, history goes on and is compacted."""

        lists = 0

        async def get_prefix(self, prefix: str) -> Listing:
            listing = await super().get_prefix(prefix)
            self.lists += 1
            if self.lists == 1:
                await asyncio.gather(*(world.store().acquire(NETWORK, host(1 + n)) for n in range(3)))
                latest = await super().get_prefix(prefix)
                world.server.ctl("compact", str(latest.revision))
            return listing

    client = SlowClient([world.server.endpoint])
    async with aclosing(EtcdLeaseStore(client, world.prefix).watch()) as watch:
        assert len(await until(watch, 3)) == 3
    assert client.lists == 2
    await client.close()
    assert not phrases(caplog)


async def test_watch_survives_a_restart_of_etcd_and_says_so_in_two_lines(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with etcd_server(tmp_path) as server:
        world = EtcdWorld(server)
        async with watching(world.store()) as watch:
            await until(watch, 0)
            server.kill()
            waiting = asyncio.create_task(until(watch, 1))
            await asyncio.sleep(1)
            with pytest.raises(StoreUnavailable, match=rf"etcd at {server.endpoint}: connection refused"):
                await world.store().network()
            server.start()
            lease = await world.store().acquire(NETWORK, host(1))
            assert set(await waiting) == {lease.subnets}
        await world.close()
    assert phrases(caplog) == ["store is unreachable", "store is back"]


async def test_watch_waits_for_an_etcd_that_is_not_there_yet(tmp_path: Path) -> None:
    with etcd_server(tmp_path) as server:
        server.kill()
        world = EtcdWorld(server)
        async with watching(world.store()) as watch:
            waiting = asyncio.create_task(until(watch, 0))
            await asyncio.sleep(0.3)
            server.start()
            assert await waiting == {}
        await world.close()


async def test_a_wrong_option_is_a_store_error_that_names_it() -> None:
    with pytest.raises(StoreError, match="'nonsense': expected http://host:port"):
        open_etcd_store(replace(Options(), etcd_endpoints=("nonsense",)))
    with pytest.raises(StoreError, match="'/nowhere': no such file or directory"):
        open_etcd_store(replace(Options(), etcd_cafile="/nowhere"))


async def test_options_open_a_store(world: EtcdWorld) -> None:
    await world.configure('{"Network": "10.5.0.0/16"}')
    options = replace(Options(), etcd_endpoints=("http://127.0.0.1:9", world.server.endpoint), etcd_prefix=f"{world.prefix}/")
    store = open_etcd_store(options)
    assert await store.network() == NETWORK
    await store.acquire(NETWORK, LeaseAttrs(host(1).public_ips), wish(SUBNET))
    assert keys_of(world)[-1] == world.key(SUBNET)
    await store.close()
