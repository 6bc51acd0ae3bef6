"""The verbs of etcd's v3 API (etcdserverpb: KV, Lease, Watch) that stores need, over values; must not know connections."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
from aetcd import rpc

from flanneld.etcd.cluster import CallOptions, Cluster, EtcdLeaseGone, Member, details
from flanneld.etcd.endpoint import Endpoint, EtcdError, EtcdUnavailable, TlsFiles

PROBE_S = 5.0
"""How often a watch tries its connection. gRPC's own keepalive mostly notices a dead one, but not always, and a watch that is
deaf without knowing it is the worst there is."""


class Compacted(EtcdError):
    """The history that a watch was to start from is gone; list again."""


@dataclass(frozen=True, slots=True)
class KeyValue:
    """One key as it was read."""

    key: str
    value: bytes
    lease: int
    """The etcd lease that the key is attached to; 0: none, the key stays."""
    mod_revision: int


@dataclass(frozen=True, slots=True)
class Listing:
    """All keys of a prefix at one revision of the store."""

    revision: int
    keys: tuple[KeyValue, ...]


@dataclass(frozen=True, slots=True)
class Change:
    """One event of a watch."""

    key: str
    now: KeyValue | None
    """None: deleted."""


class EtcdClient:
    """One etcd cluster, reached through whichever endpoint answers.

    Calls raise EtcdUnavailable when none does, and EtcdRefused when waiting will not help. A call that failed over may have been
    carried out twice: a transaction then says that its condition did not hold, and its caller looks again.
    """

    def __init__(
        self, endpoints: Sequence[str], *, tls: TlsFiles | None = None, user: tuple[str, str] = ("", ""), timeout_s: float = 5.0
    ) -> None:
        """Make it inside the running loop. Raises EtcdRefused for a bad URL or TLS file. `user` is name and password."""
        self._cluster = Cluster(endpoints, tls or TlsFiles(), user, timeout_s)

    async def close(self) -> None:
        """Close all connections; a call in progress is cancelled."""
        await self._cluster.close()

    async def get(self, key: str) -> KeyValue | None:
        request = rpc.RangeRequest(key=key.encode())
        answer = await self._cluster.call(lambda member, options: member.kv.Range(request, **options))
        return next(map(_key_value, answer.kvs), None)

    async def get_prefix(self, prefix: str) -> Listing:
        request = _range(prefix)
        answer = await self._cluster.call(lambda member, options: member.kv.Range(request, **options))
        return Listing(answer.header.revision, tuple(map(_key_value, answer.kvs)))

    async def create(self, key: str, value: bytes, *, lease: int, prefix: str) -> Listing | None:
        """Write a key that is not there, and list `prefix` in the same transaction; None: it is there, or the etcd lease is not."""
        put = rpc.PutRequest(key=key.encode(), value=value, lease=lease)
        request = rpc.TxnRequest(
            compare=[rpc.Compare(result=rpc.Compare.EQUAL, target=rpc.Compare.VERSION, key=key.encode(), version=0)],
            success=[rpc.RequestOp(request_put=put), rpc.RequestOp(request_range=_range(prefix))],
        )
        answer = await self._transact(request)
        if answer is None:
            return None
        return Listing(answer.header.revision, tuple(map(_key_value, answer.responses[1].response_range.kvs)))

    async def replace(self, old: KeyValue, value: bytes, *, lease: int) -> bool:
        """Write over exactly `old`; False: the key has changed or gone since it was read, or the etcd lease is gone."""
        put = rpc.PutRequest(key=old.key.encode(), value=value, lease=lease)
        return await self._transact(_if_unchanged(old, rpc.RequestOp(request_put=put))) is not None

    async def delete(self, old: KeyValue) -> bool:
        """Delete exactly `old`; False: the key has changed or gone since it was read."""
        delete = rpc.DeleteRangeRequest(key=old.key.encode())
        return await self._transact(_if_unchanged(old, rpc.RequestOp(request_delete_range=delete))) is not None

    async def grant(self, ttl_s: int) -> int:
        """Make an etcd lease: keys attached to it go when it is not kept alive for `ttl_s`."""
        request = rpc.LeaseGrantRequest(TTL=ttl_s)
        answer = await self._cluster.call(lambda member, options: member.lease.LeaseGrant(request, **options))
        return int(answer.ID)

    async def keep_alive(self, lease: int) -> int:
        """Give the etcd lease its whole time again, and return that in seconds; 0: it is gone."""

        async def once(member: Member, options: CallOptions) -> int:
            stream = member.lease.LeaseKeepAlive(**options)
            try:
                await stream.write(rpc.LeaseKeepAliveRequest(ID=lease))
                answer = await anext(aiter(stream), None)
            finally:
                stream.cancel()
            if answer is None:
                raise EtcdUnavailable(f"etcd at {member.endpoint}: closed the stream instead of extending lease {lease:x}")
            return int(answer.TTL)

        return await self._cluster.call(once)

    async def time_to_live(self, lease: int) -> int:
        """Seconds that the etcd lease has left; 0: it is gone."""
        request = rpc.LeaseTimeToLiveRequest(ID=lease)
        answer = await self._cluster.call(lambda member, options: member.lease.LeaseTimeToLive(request, **options))
        return max(int(answer.TTL), 0)

    async def revoke(self, lease: int) -> None:
        """End the etcd lease and delete every key attached to it; nothing happens when it is gone."""
        request = rpc.LeaseRevokeRequest(ID=lease)
        try:
            await self._cluster.call(lambda member, options: member.lease.LeaseRevoke(request, **options))
        except EtcdLeaseGone:
            return

    @asynccontextmanager
    async def watch(self, prefix: str, start_revision: int) -> AsyncIterator[Watch]:
        """Open a watch at the member that answered last, and yield it once confirmed. It ends with an error and is not reopened."""
        member = self._cluster.current
        options = self._cluster.options(timeout_s=None)
        # A member that is cut off from the others then ends the watch instead of keeping silent.
        options["metadata"] += (("hasleader", "true"),)
        question = rpc.RangeRequest(key=prefix.encode(), count_only=True, serializable=True)
        probing = self._cluster.options(self._cluster.timeout_s)
        watch = Watch(member.endpoint, member.watch.Watch(**options), lambda: member.kv.Range(question, **probing))
        create = rpc.WatchCreateRequest(key=prefix.encode(), range_end=_prefix_end(prefix), start_revision=start_revision)
        try:
            await watch.open(rpc.WatchRequest(create_request=create), self._cluster.timeout_s)
            yield watch
        finally:
            await watch.close()

    async def _transact(self, request: Any) -> Any | None:
        try:
            answer = await self._cluster.call(lambda member, options: member.kv.Txn(request, **options))
        except EtcdLeaseGone:
            return None
        return answer if answer.succeeded else None


class Watch:
    """An open watch. It reads all the time, so that a slow consumer gets many changes at once and not a backlog."""

    def __init__(self, endpoint: Endpoint, stream: Any, probe: Callable[[], Awaitable[object]]) -> None:
        """`probe` asks the same member something over the same connection."""
        self._endpoint = endpoint
        self._probe = probe
        self._stream = stream
        self._answers = aiter(stream)
        self._arrived: asyncio.Queue[tuple[Change, ...] | EtcdError] = asyncio.Queue()
        self._tasks: set[asyncio.Task[None]] = set()

    async def changes(self) -> list[Change]:
        """All that has happened since the last call; waits until there is something. Raises Compacted, EtcdUnavailable."""
        changes: list[Change] = []
        while not changes or not self._arrived.empty():
            item = await self._arrived.get()
            if isinstance(item, EtcdError):
                raise item
            changes += item
        return changes

    async def open(self, request: Any, timeout_s: float) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                await self._stream.write(request)
                await self._read()
        except grpc.aio.AioRpcError as error:
            raise self._broken(error) from error
        except TimeoutError as error:
            raise EtcdUnavailable(f"etcd at {self._endpoint}: watch not confirmed in {timeout_s:g} s") from error
        # Tasks of their own: cancelling a gRPC read ends the stream, and `changes` must be free to be cancelled.
        self._tasks = {asyncio.create_task(self._read_on()), asyncio.create_task(self._probe_on())}

    async def close(self) -> None:
        self._stream.cancel()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _read_on(self) -> None:
        try:
            while True:
                self._arrived.put_nowait(await self._read())
        except EtcdError as error:
            self._arrived.put_nowait(error)
        except grpc.aio.AioRpcError as error:
            self._arrived.put_nowait(self._broken(error))

    async def _probe_on(self) -> None:
        """End a watch whose connection carries nothing any more; an answer of any kind, a refusal too, proves that it does."""
        while True:
            await asyncio.sleep(PROBE_S)
            try:
                await self._probe()
            except grpc.aio.AioRpcError as error:
                if error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                    self._arrived.put_nowait(self._broken(error))
                    return

    async def _read(self) -> tuple[Change, ...]:
        answer = await anext(self._answers, None)
        if answer is None:
            raise EtcdUnavailable(f"etcd at {self._endpoint}: closed the watch")
        if answer.compact_revision:
            raise Compacted(f"etcd at {self._endpoint}: history before revision {answer.compact_revision} is compacted")
        if answer.canceled:
            raise EtcdUnavailable(f"etcd at {self._endpoint}: cancelled the watch: {answer.cancel_reason}")
        return tuple(map(_change, answer.events))

    def _broken(self, error: grpc.aio.AioRpcError) -> EtcdUnavailable:
        return EtcdUnavailable(f"etcd at {self._endpoint}: {details(error)}")


def _range(prefix: str) -> Any:
    return rpc.RangeRequest(key=prefix.encode(), range_end=_prefix_end(prefix))


def _prefix_end(prefix: str) -> bytes:
    """The first key after all that begin with `prefix`: UTF-8 has no byte 0xff, so the last one can be raised."""
    raw = prefix.encode()
    return raw[:-1] + bytes((raw[-1] + 1,))


def _if_unchanged(old: KeyValue, operation: Any) -> Any:
    compare = rpc.Compare(result=rpc.Compare.EQUAL, target=rpc.Compare.MOD, key=old.key.encode(), mod_revision=old.mod_revision)
    return rpc.TxnRequest(compare=[compare], success=[operation])


def _key_value(kv: Any) -> KeyValue:
    # A key that is not UTF-8 is nobody's lease; it only has to be nameable.
    return KeyValue(kv.key.decode(errors="backslashreplace"), kv.value, kv.lease, kv.mod_revision)


def _change(event: Any) -> Change:
    now = _key_value(event.kv)
    return Change(now.key, now if event.type == rpc.Event.PUT else None)
