"""The verbs of etcd's v3 API (etcdserverpb: KV, Lease, Watch) that stores need, over values; must not know connections."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import replace
from typing import Any

from flanneld.etcd import rpc
from flanneld.etcd.call import ConnectionLost, RpcError, Status
from flanneld.etcd.cluster import Cluster, EtcdLeaseGone
from flanneld.etcd.endpoint import EtcdUnavailable, TlsFiles
from flanneld.etcd.member import CallOptions, Member
from flanneld.etcd.values import KeyValue, Listing, key_value
from flanneld.etcd.watch import Watch, unavailable


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
        return next(map(key_value, answer.kvs), None)

    async def get_prefix(self, prefix: str) -> Listing:
        request = _range(prefix)
        answer = await self._cluster.call(lambda member, options: member.ask(rpc.RANGE, request, options))
        return Listing(answer.header.revision, tuple(map(key_value, answer.kvs)))

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
            return Listing(answer.header.revision, tuple(map(key_value, answer.responses[1].response_range.kvs)))
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
                    with unavailable(member.endpoint):
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


def _range(prefix: str) -> Any:
    return rpc.RangeRequest(key=prefix.encode(), range_end=_prefix_end(prefix))


def _prefix_end(prefix: str) -> bytes:
    """The first key after all that begin with `prefix`: UTF-8 has no byte 0xff, so the last one can be raised."""
    raw = prefix.encode()
    return raw[:-1] + bytes((raw[-1] + 1,))


def _if_unchanged(old: KeyValue, operation: Any) -> Any:
    compare = rpc.Compare(result=rpc.Compare.EQUAL, target=rpc.Compare.MOD, key=old.key.encode(), mod_revision=old.mod_revision)
    return rpc.TxnRequest(compare=[compare], success=[operation])
