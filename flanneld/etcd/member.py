"""One etcd member to call: connected when it is needed, and again when the connection was lost; must not know what it is asked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from flanneld.etcd.call import Call, ConnectionLost, RpcError, Status
from flanneld.etcd.connection import Connection
from flanneld.etcd.endpoint import Endpoint, Trust, words
from flanneld.etcd.rpc import Method

MAX_QUESTIONS = 100
"""Asked at one time; the time limit of more begins when it is their turn. RFC 9113 §6.5.2: servers should allow as many."""
_NEXT_ADDRESS_S = 0.25
"""For how long one of a name's addresses is tried alone: RFC 8305 §8."""


@dataclass(frozen=True, slots=True)
class CallOptions:
    """What every call carries besides its message."""

    metadata: tuple[tuple[str, str], ...]
    timeout_s: float | None
    """For the whole call; None: no end."""


class Member:
    """One endpoint, over one connection at a time."""

    def __init__(self, endpoint: Endpoint, trust: Trust | None) -> None:
        """`trust` is needed for https."""
        self.endpoint = endpoint
        self._trust = trust if endpoint.tls else None
        self._connection: Connection | None = None
        self._connecting = asyncio.Lock()
        self._turn = asyncio.Semaphore(MAX_QUESTIONS)

    async def close(self) -> None:
        """Close the connection; calls in progress fail."""
        if self._connection:
            await self._connection.close()

    def reconnect(self) -> None:
        """Give up the connection; the next call makes another."""
        if self._connection:
            self._connection.abort(ConnectionLost("given up: our address has changed"))

    async def ask(self, method: Method, question: Any, options: CallOptions) -> Any:
        """One message to one answer; raises RpcError."""
        async with self._turn, self.open(method, options) as call:
            await call.send(question.SerializeToString(), last=True)
            answer = await call.receive()
            if answer is None or await call.receive() is not None:
                raise RpcError(Status.INTERNAL, f"answers {method.path} with less or more than one message")
            return method.read(answer)

    @asynccontextmanager
    async def open(self, method: Method, options: CallOptions) -> AsyncIterator[Call]:
        """A call that lasts as long as the context; raises RpcError, also when the time is over."""
        began = asyncio.get_running_loop().time()
        limit = asyncio.timeout(options.timeout_s)
        try:
            async with limit:
                connection = await self._connected()
                async with connection.call(method.path, (*_limit(options.timeout_s), *options.metadata)) as call:
                    yield call
        except TimeoutError as error:
            if not limit.expired():
                raise  # whoever uses the call has limits of his own
            self._give_up(began)
            raise RpcError(Status.DEADLINE_EXCEEDED, f"no answer in {options.timeout_s:g} s") from error

    async def _connected(self) -> Connection:
        async with self._connecting:
            if self._connection is None or self._connection.error:
                self._connection = await self._connect()
            return self._connection

    async def _connect(self) -> Connection:
        host, port = self.endpoint.host, self.endpoint.port
        try:
            context = self._trust.context() if self._trust is not None else None
            streams = await asyncio.open_connection(host, port, ssl=context, happy_eyeballs_delay=_NEXT_ADDRESS_S)
        except OSError as error:
            raise RpcError(Status.UNAVAILABLE, words(error)) from error
        return Connection(*streams, "https" if self.endpoint.tls else "http", self.endpoint.target)

    def _give_up(self, began: float) -> None:
        """End a connection that has carried nothing since then: it is dead, whatever TCP still hopes."""
        if self._connection and self._connection.heard_at < began:
            self._connection.abort(RpcError(Status.UNAVAILABLE, "has fallen silent"))


def _limit(timeout_s: float | None) -> tuple[tuple[str, str], ...]:
    """Tell the server, so that it does not work for nobody."""
    return () if timeout_s is None else (("grpc-timeout", f"{timeout_s * 1000:.0f}m"),)
