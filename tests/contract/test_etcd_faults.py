"""The etcd store while etcd loses members, its leader, its history or its data, or is slow, or the connection breaks.

After each of these the watch shows what has happened meanwhile, and what happens next; what is claimed stays where it was.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from contract.store_world import CONFIG, NETWORK, host, nets, wish
from etcd_server import EtcdServer, etcd_cluster, etcd_server, grpc_proxy
from flanneld.etcd import EtcdClient, Listing
from flanneld.lease import Lease
from flanneld.store import Snapshot, StoreUnavailable
from flanneld.stores.etcd import EtcdLeaseStore
from unsteady_relay import UnsteadyRelay, unsteady_relay

A_WHILE_S = 30
SOON_S = 5
"""What takes milliseconds, on a machine that is busy."""
TIMEOUT_S = 1.0
"""For each try, and between two probes of a watch: a fifth of the product's, so that tests take a fifth of the time."""
PREFIX = "/net"
SUBNET = nets("10.5.72.0/24")


@pytest.fixture(autouse=True)
def in_a_hurry(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr("flanneld.etcd.watch.PROBE_S", TIMEOUT_S)
    caplog.set_level(logging.INFO)


@pytest.fixture(scope="module")
def members(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[EtcdServer]]:
    with etcd_cluster(tmp_path_factory.mktemp("cluster")) as started:
        yield started


@pytest.fixture
def cluster(members: list[EtcdServer]) -> Iterator[list[EtcdServer]]:
    """Three members, the leader first, without any keys; all run again afterwards."""
    members[0].ctl("del", "--prefix", PREFIX)
    leader = leader_of(members)
    yield sorted(members, key=lambda member: member is not leader)
    for member in members:
        member.resume()
    for member in members:
        member.start()
    for member in members:
        assert member.answers()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EtcdServer]:
    with etcd_server(tmp_path) as started:
        yield started


def leader_of(members: Sequence[EtcdServer]) -> EtcdServer:
    for member in members:
        status = json.loads(member.ctl("endpoint", "status", "-w", "json"))[0]["Status"]
        if status["leader"] == status["header"]["member_id"]:
            return member
    raise AssertionError("there is no leader")


@asynccontextmanager
async def store_at(*endpoints: str, timeout_s: float = TIMEOUT_S) -> AsyncIterator[EtcdLeaseStore]:
    store = EtcdLeaseStore(EtcdClient(endpoints, timeout_s=timeout_s), PREFIX)
    try:
        yield store
    finally:
        await store.close()


@dataclass
class Watcher:
    """A store's watch, followed to its latest snapshot."""

    latest: Snapshot | None = None
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def follow(self, store: EtcdLeaseStore) -> None:
        async with aclosing(store.watch()) as watch:
            async for snapshot in watch:
                async with self.changed:
                    self.latest = snapshot
                    self.changed.notify_all()

    async def shows(self, *leases: Lease, config: str | None = None) -> None:
        """Wait until these leases, and no others, are there, with these attributes and beside this config."""
        wanted = {lease.subnets: lease.attrs for lease in leases}

        def there() -> bool:
            latest = self.latest
            return latest is not None and latest.config == config and {one: it.attrs for one, it in latest.leases.items()} == wanted

        async with asyncio.timeout(A_WHILE_S), self.changed:
            await self.changed.wait_for(there)


@asynccontextmanager
async def watched(store: EtcdLeaseStore) -> AsyncIterator[Watcher]:
    """Its watch, after the first snapshot."""
    watcher = Watcher()
    following = asyncio.create_task(watcher.follow(store))
    try:
        async with asyncio.timeout(A_WHILE_S), watcher.changed:
            await watcher.changed.wait_for(lambda: watcher.latest is not None)
        yield watcher
    finally:
        following.cancel()
        await asyncio.wait((following,))


async def patiently(store: EtcdLeaseStore, number: int) -> Lease:
    """What a host does that has to have a lease: ask until there is an answer."""
    async with asyncio.timeout(A_WHILE_S):
        while True:
            try:
                return await store.acquire(NETWORK, host(number))
            except StoreUnavailable:
                await asyncio.sleep(0.05)


async def shows_what_comes(watcher: Watcher, store: EtcdLeaseStore, *before: Lease) -> list[Lease]:
    """Two more hosts come: the first one's lease is the first answer, the second one's has to be seen soon."""
    first = await patiently(store, 101)
    await watcher.shows(*before, first)
    second = await store.acquire(NETWORK, host(102))
    began = time.monotonic()
    await watcher.shows(*before, first, second)
    took_s = time.monotonic() - began
    print(f"shown {took_s:.3f} s after it was written")
    assert took_s < SOON_S
    return [first, second]


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name.startswith("flanneld.")]


def was_cut(relay: UnsteadyRelay) -> bool:
    return relay.pieces_left is None


def losses(caplog: pytest.LogCaptureFixture) -> int:
    """How often the store was away: more than once on a machine that is too busy; one line for each change of state."""
    lines = said(caplog)
    count = len(lines) // 2
    assert lines == ["store is unreachable", "store is back"] * count
    return count


def urls(members: Sequence[EtcdServer]) -> list[str]:
    return [member.endpoint for member in members]


@pytest.mark.parametrize("which", ["leader", "follower"])
async def test_a_member_that_dies_under_a_watch_is_left_for_another(
    cluster: list[EtcdServer], which: str, caplog: pytest.LogCaptureFixture
) -> None:
    ours = cluster if which == "leader" else cluster[::-1]
    async with store_at(*urls(ours)) as store, store_at(*urls(cluster)[::-1]) as other, watched(store) as watcher:
        before = await other.acquire(NETWORK, host(1))
        await watcher.shows(before)
        ours[0].kill()
        await shows_what_comes(watcher, other, before)
        assert (await store.renew(before)).created == before.created
    assert losses(caplog) >= 1


async def test_a_leader_that_hands_over_is_no_event(cluster: list[EtcdServer], caplog: pytest.LogCaptureFixture) -> None:
    heir = json.loads(cluster[1].ctl("endpoint", "status", "-w", "json"))[0]["Status"]["header"]["member_id"]
    async with store_at(*urls(cluster)) as store, store_at(*urls(cluster)[::-1]) as other, watched(store) as watcher:
        cluster[0].ctl("move-leader", f"{heir:x}")
        assert leader_of(cluster) is cluster[1]
        await shows_what_comes(watcher, other)
    assert losses(caplog) <= 1


async def test_a_member_that_falls_silent_under_a_watch_is_left_for_another(
    cluster: list[EtcdServer], caplog: pytest.LogCaptureFixture
) -> None:
    ours = cluster[::-1]
    async with store_at(*urls(ours)) as store, store_at(*urls(cluster)) as other, watched(store) as watcher:
        ours[0].pause()
        began = time.monotonic()
        first = await patiently(other, 1)
        await watcher.shows(first)
        print(f"left after {time.monotonic() - began:.1f} s")
        await shows_what_comes(watcher, other, first)
    assert losses(caplog) >= 1


async def test_a_member_that_is_cut_off_from_the_others_is_not_listened_to(
    cluster: list[EtcdServer], caplog: pytest.LogCaptureFixture
) -> None:
    alone, *others = cluster[::-1]
    async with store_at(alone.endpoint) as store, watched(store) as watcher:
        for member in others:
            member.pause()
        async with asyncio.timeout(A_WHILE_S):
            while store.status.reachable:  # noqa: ASYNC110  # nobody tells of it
                await asyncio.sleep(0.05)
        for member in others:
            member.resume()
        await shows_what_comes(watcher, store)
    assert losses(caplog) >= 1


async def test_a_store_that_takes_two_seconds_for_each_answer_serves_all_calls(
    server: EtcdServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with unsteady_relay(server.port) as relay, store_at(f"http://127.0.0.1:{relay.port}", timeout_s=5) as store:
        held = await store.acquire(NETWORK, host(1), wish(SUBNET))
        relay.delay_s = 2.0

        async def watch(expected: asyncio.Task[Lease]) -> None:
            async with watched(store) as watcher:
                await watcher.shows(held, await expected)

        async with asyncio.TaskGroup() as together:
            claim = together.create_task(store.acquire(NETWORK, host(2)))
            renewal = together.create_task(store.renew(held))
            together.create_task(watch(claim))
        assert (renewal.result().subnets, renewal.result().created) == (SUBNET, held.created)
    assert said(caplog) == []


async def test_what_was_compacted_while_the_watch_was_cut_is_listed_again(
    server: EtcdServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        unsteady_relay(server.port) as relay,
        store_at(f"http://127.0.0.1:{relay.port}") as store,
        store_at(server.endpoint) as other,
        watched(store) as watcher,
    ):
        gone, kept = await other.acquire(NETWORK, host(1)), await other.acquire(NETWORK, host(2))
        await watcher.shows(gone, kept)
        relay.cut(closed=True)
        await other.release(gone)
        server.ctl("put", f"{PREFIX}/config", CONFIG)
        kept = await other.acquire(NETWORK, host(2, data='"new"'))
        revision = json.loads(server.ctl("get", "x", "-w", "json"))["header"]["revision"]
        server.ctl("compact", "--physical", str(revision))
        relay.reopen()
        await watcher.shows(kept, config=CONFIG)
    assert losses(caplog) >= 1


@pytest.mark.parametrize("pieces", range(6))
async def test_a_connection_that_breaks_anywhere_in_a_claim_leaves_that_claim_and_no_other(server: EtcdServer, pieces: int) -> None:
    async with unsteady_relay(server.port) as relay, store_at(f"http://127.0.0.1:{relay.port}") as store:
        relay.pieces_left = pieces
        lease = await store.acquire(NETWORK, host(1), wish(SUBNET))
        (held,) = (await store.leases()).values()
        assert lease.subnets == SUBNET
        assert (held.subnets, held.created) == (lease.subnets, lease.created)


async def test_a_connection_that_breaks_under_a_long_list_is_made_again(
    server: EtcdServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with unsteady_relay(server.port) as relay, store_at(f"http://127.0.0.1:{relay.port}", timeout_s=5) as store:
        for number in range(20):
            server.ctl("put", f"{PREFIX}/nonsense/{number}", "x" * 100_000)
        relay.pieces_left = 5
        async with watched(store) as watcher:
            assert was_cut(relay)
            await shows_what_comes(watcher, store)
    assert said(caplog) == []


async def test_a_store_that_was_restored_from_an_old_snapshot_is_listed_again(
    server: EtcdServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with store_at(server.endpoint) as store, watched(store) as watcher:
        old = await store.acquire(NETWORK, host(1))
        server.ctl("snapshot", "save", str(tmp_path / "old"))
        later = [await store.acquire(NETWORK, host(2 + n)) for n in range(3)]
        await watcher.shows(old, *later)
        await asyncio.to_thread(server.restore, tmp_path / "old")
        await watcher.shows(old)
        again = [await store.hold(lease, lease.attrs) for lease in later]
        assert [lease.subnets for lease in again] == [lease.subnets for lease in later]
        await watcher.shows(old, *again)
        await shows_what_comes(watcher, store, old, *again)
    assert losses(caplog) >= 1


async def test_a_watch_never_waits_for_a_revision_that_is_still_to_come(
    server: EtcdServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class OvertakenClient(EtcdClient):
        """Between its first list and its watch, the store goes back."""

        lists = 0

        async def get_prefix(self, prefix: str) -> Listing:
            listing = await super().get_prefix(prefix)
            self.lists += 1
            if self.lists == 1:
                await asyncio.to_thread(server.restore, tmp_path / "old")
            return listing

    server.ctl("snapshot", "save", str(tmp_path / "old"))
    async with store_at(server.endpoint) as other:
        for number in range(1, 4):
            await other.acquire(NETWORK, host(number))
        client = OvertakenClient([server.endpoint], timeout_s=5)
        async with watched(EtcdLeaseStore(client, PREFIX)) as watcher:
            await shows_what_comes(watcher, other)
        await client.close()
    assert losses(caplog) >= 1


async def test_a_proxy_that_keeps_the_connection_over_a_restore_makes_nobody_deaf(
    server: EtcdServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server.ctl("snapshot", "save", str(tmp_path / "old"))
    with grpc_proxy(server) as url:
        async with store_at(url, timeout_s=5) as store, store_at(server.endpoint) as other, watched(store) as watcher:
            before = [await other.acquire(NETWORK, host(number)) for number in (1, 2, 3)]
            await watcher.shows(*before)
            await asyncio.sleep(2 * TIMEOUT_S)  # a few probes
            assert said(caplog) == []
            await asyncio.to_thread(server.restore, tmp_path / "old")
            await shows_what_comes(watcher, other)
    assert losses(caplog) >= 1
