"""An open watch: what arrives over it, and how it notices that nothing ever will; must not know which keys are watched."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from flanneld.etcd import rpc
from flanneld.etcd.call import Call, RpcError, Status
from flanneld.etcd.endpoint import Endpoint, EtcdUnavailable
from flanneld.etcd.values import Change, Compacted, change

PROBE_S = 5.0
"""How often a watch tries its connection: one that is deaf without knowing it is the worst there is. It asks for something, because
etcd hangs up on a client whose HTTP/2 pings come more often than its operator likes."""


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
            with unavailable(self._endpoint):
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
        return tuple(map(change, answer.events))

    def _require(self, revision: int) -> None:
        """Raise RpcError unless the store is as far as the watch has been: waiting for a future that once was, it would be deaf."""
        if revision < self._revision:
            raise RpcError(Status.UNAVAILABLE, f"went back from revision {self._revision} to {revision}")


@contextmanager
def unavailable(endpoint: Endpoint) -> Iterator[None]:
    """Whatever a watch fails of: the same watch may succeed later."""
    try:
        yield
    except RpcError as error:
        raise EtcdUnavailable(f"etcd at {endpoint}: {error}") from error
