"""One gRPC call, without its connection: how messages are framed, and how a call ends; must not know what the messages mean.

gRPC's doc/PROTOCOL-HTTP2.md: each message has a head of five bytes, and the status comes with the headers that end the stream.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from enum import IntEnum
from struct import Struct
from urllib.parse import unquote_to_bytes

_HEAD = Struct(">?I")
"""Before each message: whether it is compressed, and its length."""


class Status(IntEnum):
    """How a call ended: gRPC's doc/statuscodes.md."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


_OF_HTTP = {
    "400": Status.INTERNAL,
    "401": Status.UNAUTHENTICATED,
    "403": Status.PERMISSION_DENIED,
    "404": Status.UNIMPLEMENTED,
    "429": Status.UNAVAILABLE,
    "502": Status.UNAVAILABLE,
    "503": Status.UNAVAILABLE,
    "504": Status.UNAVAILABLE,
}
"""gRPC's doc/http-grpc-status-mapping.md: what a proxy means that speaks no gRPC. All others: unknown."""


class RpcError(Exception):
    """A call failed; its text is one line."""

    def __init__(self, status: Status, words: str = "") -> None:
        super().__init__(" ".join(words.split()) or status.name.lower())
        self.status = status


class ConnectionLost(RpcError):
    """The connection ended under the call, perhaps long ago and unnoticed; a new one may be had at once."""

    def __init__(self, why: str) -> None:
        super().__init__(Status.UNAVAILABLE, why)


class Call:
    """One call: messages out, messages in, an end. What arrives is kept until somebody asks for it."""

    def __init__(self, send: Callable[[bytes, bool], Awaitable[None]]) -> None:
        """`send` takes bytes, and whether they are the last ones."""
        self._send = send
        self._arrived: asyncio.Queue[bytes | RpcError | None] = asyncio.Queue()
        self._part = bytearray()
        self._over = False
        self._outcome: RpcError | None = RpcError(Status.UNKNOWN, "ended the call without a status")

    async def send(self, message: bytes, *, last: bool = False) -> None:
        """Send a message when the peer has room for it; nothing happens when the call has ended. `last`: no other will follow."""
        await self._send(_HEAD.pack(False, len(message)) + message, last)

    async def receive(self) -> bytes | None:
        """The next message; None: the peer has ended the call, and well. Raises RpcError. The end may be asked for again."""
        item = await self._arrived.get()
        if isinstance(item, bytes):
            return item
        self._arrived.put_nowait(item)
        if item is None:
            return None
        raise item

    @property
    def pending(self) -> bool:
        """True if `receive` would not wait."""
        return not self._arrived.empty()

    def headers_arrived(self, headers: Iterable[tuple[bytes, bytes]]) -> None:
        found = dict(headers)
        http = found.get(b":status", b"200").decode("latin-1")
        if http != "200":
            self.end(RpcError(_OF_HTTP.get(http, Status.UNKNOWN), f"answers with HTTP status {http}"))
        elif b"grpc-status" in found:
            self._outcome = _outcome(found[b"grpc-status"], found.get(b"grpc-message", b""))

    def data_arrived(self, data: bytes) -> None:
        self._part += data
        while len(self._part) >= _HEAD.size and not self._over:
            compressed, size = _HEAD.unpack_from(self._part)
            if compressed:
                self.end(RpcError(Status.INTERNAL, "sent a compressed message, which nobody had asked for"))
                return
            if len(self._part) < _HEAD.size + size:
                return
            self._arrived.put_nowait(bytes(memoryview(self._part)[_HEAD.size : _HEAD.size + size]))
            del self._part[: _HEAD.size + size]

    def ended(self) -> None:
        """The peer has said all."""
        self.end(self._outcome)

    def end(self, error: RpcError | None) -> None:
        """What `receive` says after the messages that have arrived; the first end counts."""
        if not self._over:
            self._over = True
            self._arrived.put_nowait(error)


def _outcome(status: bytes, message: bytes) -> RpcError | None:
    """None: well. The message is percent-encoded UTF-8."""
    try:
        known = Status(int(status))
    except ValueError:
        known = Status.UNKNOWN
    return None if known is Status.OK else RpcError(known, unquote_to_bytes(message).decode(errors="replace"))
