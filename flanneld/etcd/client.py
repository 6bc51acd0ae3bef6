"""The verbs of etcd's v3 API (etcdserverpb: KV, Lease, Watch) that stores need, over values; must not know connections."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from typing import Any

from flanneld.etcd import rpc
from flanneld.etcd.call import Call, ConnectionLost, RpcError, Status
from flanneld.etcd.cluster import Cluster, EtcdLeaseGone
from flanneld.etcd.endpoint import Endpoint, EtcdError, EtcdUnavailable, TlsFiles
from flanneld.etcd.member import CallOptions, Member

PROBE_S = 5.0
"""How often a watch tries its connection: one that is deaf without knowing it is the worst there is. It asks for something, because
etcd hangs up on a client whose HTTP/2 pings come more often than its operator likes."""


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
    create_revision: int


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
    carried out twice: a transaction then says that its condition did not hold, and its caller looks again; `create` does by itself.
    """

    def __init__(
        self, endpoints: Sequence[str], *, tls: TlsFiles | None = None, user: tuple[str, str] = ("", ""), timeout_s: float = 5.0
    ) -> None:
        """Make it inside the running loop. Raises EtcdRefused for a bad URL or TLS file. `user` is name and password."""
        self._cluster = Cluster(endpoints, tls or TlsFiles(), user, timeout_s)

    async def close(self) -> None:
        """Close all connections; a call in progress is cancelled."""
        await self._cluster.close()

    def reconnect(self) -> None:
        """Give up all connections; calls in progress are made again on new ones, a watch ends."""
        self._cluster.reconnect()

    async def get(self, key: str) -> KeyValue | None:
        request = rpc.RangeRequest(key=key.encode())
        answer = await self._cluster.call(lambda member, options: member.ask(rpc.RANGE, request, options))
        return next(map(_key_value, answer.kvs), None)

    async def get_prefix(self, prefix: str) -> Listing:
        request = _range(prefix)
        answer = await self._cluster.call(lambda member, options: member.ask(rpc.RANGE, request, options))
        return Listing(answer.header.revision, tuple(map(_key_value, answer.kvs)))

    async def create(self, key: str, value: bytes, *, lease: int, prefix: str) -> Listing | None:
        """Write a key that is not there, and list `prefix` in the same transaction; None: it is there, or the etcd lease is not.

        A key that is there with this etcd lease was written by a first try whose answer got lost: listed as it is now.
        """
        put = rpc.PutRequest(key=key.encode(), value=value, lease=lease)
        request = rpc.TxnRequest(
            compare=[rpc.Compare(result=rpc.Compare.EQUAL, target=rpc.Compare.VERSION, key=key.encode(), version=0)],
            success=[rpc.RequestOp(request_put=put), rpc.RequestOp(request_range=_range(prefix))],
        )
        answer = await self._transact(request)
        if answer is not None:
            return Listing(answer.header.revision, tuple(map(_key_value, answer.responses[1].response_range.kvs)))
        there = await self.get(key) if lease else None
        return await self.get_prefix(prefix) if there is not None and there.lease == lease else None

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
        answer = await self._cluster.call(lambda member, options: member.ask(rpc.LEASE_GRANT, request, options))
        return int(answer.ID)

    async def keep_alive(self, lease: int) -> int:
        """Give the etcd lease its whole time again, and return that in seconds; 0: it is gone."""

        async def once(member: Member, options: CallOptions) -> int:
            async with member.open(rpc.LEASE_KEEP_ALIVE, options) as call:
                await call.send(rpc.LeaseKeepAliveRequest(ID=lease).SerializeToString(), last=True)
                answer = await call.receive()
            if answer is None:
                raise RpcError(Status.UNAVAILABLE, f"closed the stream instead of extending lease {lease:x}")
            return int(rpc.LEASE_KEEP_ALIVE.read(answer).TTL)

        return await self._cluster.call(once)

    async def time_to_live(self, lease: int) -> int:
        """Seconds that the etcd lease has left; 0: it is gone."""
        request = rpc.LeaseTimeToLiveRequest(ID=lease)
        answer = await self._cluster.call(lambda member, options: member.ask(rpc.LEASE_TIME_TO_LIVE, request, options))
        return max(int(answer.TTL), 0)

    async def revoke(self, lease: int) -> None:
        """End the etcd lease and delete every key attached to it; nothing happens when it is gone."""
        request = rpc.LeaseRevokeRequest(ID=lease)
        try:
            await self._cluster.call(lambda member, options: member.ask(rpc.LEASE_REVOKE, request, options))
        except EtcdLeaseGone:
            return

    @asynccontextmanager
    async def watch(self, prefix: str, start_revision: int) -> AsyncIterator[Watch]:
        """Open a watch at the member that answered last, and yield it once confirmed. It ends with an error and is not reopened.

        `start_revision` follows a list's: a store that has not come that far was restored from an old snapshot, and is unavailable
        until it is listed again.
        """
        member, timeout_s = self._cluster.current, self._cluster.timeout_s
        options = self._cluster.options(timeout_s=None)
        # A member that is cut off from the others then ends the watch instead of keeping silent.
        options = replace(options, metadata=(*options.metadata, ("hasleader", "true")))
        create = rpc.WatchCreateRequest(key=prefix.encode(), range_end=_prefix_end(prefix), start_revision=start_revision)
        # Not `serializable`: a proxy would answer that from what it remembers.
        question = rpc.RangeRequest(key=prefix.encode(), count_only=True)
        async with AsyncExitStack() as stack:
            stack.enter_context(self._left_if_silent(member))
            try:
                async with asyncio.timeout(timeout_s):
                    with _unavailable(member.endpoint):
                        call = await stack.enter_async_context(member.open(rpc.WATCH, options))
                        watch = Watch(member.endpoint, call, start_revision - 1)
                        await watch.open(rpc.WatchRequest(create_request=create))
            except TimeoutError as error:
                raise EtcdUnavailable(f"etcd at {member.endpoint}: watch not confirmed in {timeout_s:g} s") from error
            await stack.enter_async_context(watch.probed(lambda: member.ask(rpc.RANGE, question, self._cluster.options(timeout_s))))
            yield watch

    @contextmanager
    def _left_if_silent(self, member: Member) -> Iterator[None]:
        """A member that does not answer, or has lost the others, is asked last; one that hung up may be back already."""
        try:
            yield
        except EtcdUnavailable as error:
            if not isinstance(error.__cause__, ConnectionLost):
                self._cluster.leave(member)
            raise

    async def _transact(self, request: Any) -> Any | None:
        try:
            answer = await self._cluster.call(lambda member, options: member.ask(rpc.TXN, request, options))
        except EtcdLeaseGone:
            return None
        return answer if answer.succeeded else None


class Watch:
    """An open watch. What arrives is kept, so that a slow consumer gets many changes at once."""

    def __init__(self, endpoint: Endpoint, call: Call, revision: int) -> None:
        """`revision`: what is known of the store."""
        self.heard_at = time.monotonic()
        """When the member last said something, to a probe too."""
        self._endpoint = endpoint
        self._call = call
        self._revision = revision

    async def changes(self) -> list[Change]:
        """All that has happened since the last call; waits until there is something. Raises Compacted, EtcdUnavailable."""
        changes: list[Change] = []
        while not changes or self._call.pending:
            with _unavailable(self._endpoint):
                changes += await self._read()
        return changes

    async def open(self, request: Any) -> None:
        """Ask for the watch and wait until it is confirmed. Raises Compacted, EtcdUnavailable, RpcError."""
        await self._call.send(request.SerializeToString())
        await self._read()

    @asynccontextmanager
    async def probed(self, probe: Callable[[], Awaitable[Any]]) -> AsyncIterator[None]:
        """Within the context, a connection that carries nothing any more ends the watch. `probe` asks something over it."""
        probing = asyncio.create_task(self._probe_on(probe))
        try:
            yield
        finally:
            probing.cancel()
            await asyncio.wait((probing,))

    async def _probe_on(self, probe: Callable[[], Awaitable[Any]]) -> None:
        """An answer of any kind, a refusal too, proves that the connection works."""
        while True:
            await asyncio.sleep(PROBE_S)
            try:
                self._require((await probe()).header.revision)
            except RpcError as error:
                if error.status in (Status.UNAVAILABLE, Status.DEADLINE_EXCEEDED):
                    self._call.end(error)
                    return
            self.heard_at = time.monotonic()

    async def _read(self) -> tuple[Change, ...]:
        data = await self._call.receive()
        if data is None:
            raise EtcdUnavailable(f"etcd at {self._endpoint}: closed the watch")
        self.heard_at = time.monotonic()
        answer = rpc.WATCH.read(data)
        if answer.compact_revision:
            raise Compacted(f"etcd at {self._endpoint}: history before revision {answer.compact_revision} is compacted")
        if answer.canceled:
            raise EtcdUnavailable(f"etcd at {self._endpoint}: cancelled the watch: {answer.cancel_reason}")
        self._require(answer.header.revision)
        self._revision = answer.header.revision
        return tuple(map(_change, answer.events))

    def _require(self, revision: int) -> None:
        """Raise RpcError unless the store is as far as the watch has been: waiting for a future that once was, it would be deaf."""
        if revision < self._revision:
            raise RpcError(Status.UNAVAILABLE, f"went back from revision {self._revision} to {revision}")


@contextmanager
def _unavailable(endpoint: Endpoint) -> Iterator[None]:
    """Whatever a watch fails of: the same watch may succeed later."""
    try:
        yield
    except RpcError as error:
        raise EtcdUnavailable(f"etcd at {endpoint}: {error}") from error


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
    return KeyValue(kv.key.decode(errors="backslashreplace"), kv.value, kv.lease, kv.mod_revision, kv.create_revision)


def _change(event: Any) -> Change:
    now = _key_value(event.kv)
    return Change(now.key, now if event.type == rpc.Event.PUT else None)
