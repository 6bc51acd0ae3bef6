"""A request and the kinds of answers to it, as handlers see them; must not know sockets, h11 or any resource."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias, TypeVar

from runtime.config import decode
from runtime.errors import InvalidParameter

T = TypeVar("T")

JSON_LIMIT = 4 * 1024 * 1024
"""Bytes of a JSON body; what is larger is no request but an attack."""
BODY_S = 60.0
"""For the whole of a JSON body; bodies that are streams take as long as they take."""
RAW_STREAM = "application/vnd.docker.raw-stream"
MULTIPLEXED_STREAM = "application/vnd.docker.multiplexed-stream"
Headers: TypeAlias = tuple[tuple[str, str], ...]


class Body(Protocol):
    """A request's body: bytes as they come, read once."""

    def __aiter__(self) -> AsyncIterator[bytes]: ...


@dataclass(frozen=True, slots=True)
class Query:
    """What stood behind the question mark: keys may repeat."""

    values: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def text(self, key: str, default: str = "") -> str:
        """The first value of a key."""
        return self.values.get(key, (default,))[0]

    def all(self, key: str) -> list[str]:
        """Every value of a key."""
        return list(self.values.get(key, ()))

    def flag(self, key: str, default: bool = False) -> bool:
        """A truth value, by the rule of Docker's own: anything but "", 0, no, false and none."""
        value = self.text(key).strip().lower()
        return default if key not in self.values else value not in ("", "0", "no", "false", "none")

    def number(self, key: str) -> int | None:
        """A whole number, None when absent; raises InvalidParameter."""
        value = self.text(key)
        try:
            return int(value) if value else None
        except ValueError as error:
            raise InvalidParameter(f'strconv.Atoi: parsing "{value}": invalid syntax') from error


@dataclass(frozen=True, slots=True)
class Request:
    """One call of the API."""

    method: str
    path: str
    """Decoded, without the version."""
    version: tuple[int, int]
    """That the client speaks; ours when it says none."""
    query: Query
    headers: Mapping[str, str]
    """By lower-case name."""
    body: Body
    arguments: Mapping[str, str] = field(default_factory=dict)
    """What stands in the path at the names of the route."""

    def header(self, name: str) -> str:
        return self.headers.get(name.lower(), "")

    async def read(self, limit: int = JSON_LIMIT) -> bytes:
        """The whole body; raises InvalidParameter when it is larger than `limit`, or does not come."""
        parts: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(BODY_S):
                async for part in self.body:
                    size += len(part)
                    if size > limit:
                        raise InvalidParameter(f"request body too large: expected at most {limit} bytes")
                    parts.append(part)
        except TimeoutError as error:
            raise InvalidParameter(f"request body incomplete after {BODY_S:.0f} s") from error
        return b"".join(parts)

    async def decoded(self, kind: type[T]) -> T:
        """The JSON body as a value, nothing as an empty object; raises InvalidParameter."""
        data = await self.read()
        content_type = self.header("content-type")
        media_type = content_type.partition(";")[0].strip().lower()
        if (data or content_type) and media_type != "application/json":
            raise InvalidParameter(f"unsupported Content-Type header ({content_type}): must be 'application/json'")
        return decode(data, kind)


@dataclass(frozen=True, slots=True)
class Json:
    """A JSON document."""

    document: Any
    status: int = 200
    headers: Headers = ()


@dataclass(frozen=True, slots=True)
class Empty:
    """Done; there is nothing to say."""

    status: int = 204
    headers: Headers = ()


@dataclass(frozen=True, slots=True)
class Text:
    """A few words."""

    text: str
    status: int = 200
    headers: Headers = ()


@dataclass(frozen=True, slots=True)
class Later:
    """A JSON document that is there only in a while, when `document` is done; the head of the answer goes out at once."""

    document: Callable[[], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Lines:
    """JSON documents, one a line, each sent as soon as it is there."""

    documents: AsyncIterator[Any]
    at_once: bool = False
    """The head goes out before the first document is there; else a failure before it still has a status of its own."""


@dataclass(frozen=True, slots=True)
class Bytes:
    """A stream of bytes of unknown length."""

    parts: AsyncIterator[bytes]
    content_type: str
    headers: Headers = ()
    at_once: bool = False
    """As in Lines."""


class Source(Protocol):
    """What a hijacked connection is read from: an asyncio.StreamReader."""

    async def read(self, n: int, /) -> bytes: ...


class Sink(Protocol):
    """What a hijacked connection is written to: an asyncio.StreamWriter."""

    def write(self, data: bytes, /) -> None: ...
    async def drain(self) -> None: ...
    def write_eof(self) -> None: ...
    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Hijack:
    """The connection itself, for as long as `talk` takes; it must neither close nor keep it."""

    talk: Callable[[Source, Sink], Awaitable[None]]
    content_type: str = RAW_STREAM
    unused: Callable[[], None] = lambda: None
    """Called in place of `talk` when the client has left before."""


Response: TypeAlias = Json | Empty | Text | Later | Lines | Bytes | Hijack
