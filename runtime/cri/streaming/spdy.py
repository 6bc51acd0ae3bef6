"""SPDY/3.1 frames (the Chromium project's draft 3.1), as far as Kubernetes speaks it: bytes to events and back, no I/O.

    control frame    1 bit 1, 15 bits version (3), 16 bits type, 8 bits flags, 24 bits length, payload
    data frame       1 bit 0, 31 bits stream, 8 bits flags, 24 bits length, payload
    names, values    32 bits number of pairs, each name and value with 32 bits of length in front; deflated, with a dictionary,
                     in one stream for all frames of a direction

Kubernetes' own implementation neither keeps to flow control nor grants any: what it sends comes until the connection is full, so
windows are not counted here either. Must not know what streams are for.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

VERSION = 3
SYN_STREAM, SYN_REPLY, RST_STREAM, PING, GOAWAY = 1, 2, 3, 6, 7
FIN = 1
"""Flag: nothing more comes from this side of the stream."""
CANCEL = 5
"""Of RST_STREAM: the stream is not wanted any more."""
REFUSED = 3
MOST_HEADER_BYTES = 64 << 10
"""Of names and values, inflated: a few bytes can stand for very many."""
MOST_CONTROL_BYTES = 64 << 10
"""Of a control frame."""
MOST_DATA_BYTES = (1 << 24) - 1
_HEAD = struct.Struct(">II")
_CONTROL = 1 << 31
_STREAM = _CONTROL - 1

_WORDS = (
    "options head post put delete trace accept accept-charset accept-encoding accept-language accept-ranges age allow "
    "authorization cache-control connection content-base content-encoding content-language content-length content-location "
    "content-md5 content-range content-type date etag expect expires from host if-match if-modified-since if-none-match if-range "
    "if-unmodified-since last-modified location max-forwards pragma proxy-authenticate proxy-authorization range referer "
    "retry-after server te trailer transfer-encoding upgrade user-agent vary via warning www-authenticate method get status "
    "200_OK version HTTP/1.1 url public set-cookie keep-alive origin"
)
_REST = (
    "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505203 Non-Authoritative Information"
    "204 No Content301 Moved Permanently400 Bad Request401 Unauthorized403 Forbidden404 Not Found500 Internal Server Error"
    "501 Not Implemented503 Service UnavailableJan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 "
    "Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMTchunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,"
    "text/plain,text/javascript,publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0."
)
DICTIONARY = b"".join(struct.pack(">I", len(word)) + word.replace("_", " ").encode() for word in _WORDS.split()) + _REST.encode()
"""Draft 3 §2.6.10.1; its Adler-32 is e3c6a7c2."""


class SpdyError(Exception):
    """The peer does not speak SPDY/3.1: the connection is of no use any more."""


@dataclass(frozen=True, slots=True)
class Opened:
    """A stream of the peer's."""

    stream: int
    headers: Mapping[str, str]
    """Names in lower case."""
    is_last: bool = False
    """The peer will send nothing on it."""


@dataclass(frozen=True, slots=True)
class Replied:
    """The peer has taken a stream of ours."""

    stream: int
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Data:
    """Bytes of a stream; `is_last`: the peer has nothing more to send on it."""

    stream: int
    data: bytes
    is_last: bool = False


@dataclass(frozen=True, slots=True)
class Reset:
    """The peer does not want the stream any more."""

    stream: int


@dataclass(frozen=True, slots=True)
class Pinged:
    """The peer wants to hear the same number, if it is one of its own."""

    number: int


@dataclass(frozen=True, slots=True)
class Left:
    """The peer opens no more streams."""


Event: TypeAlias = Opened | Replied | Data | Reset | Pinged | Left


class Frames:
    """One side of a connection: what came so far, and the two directions' compression. For one thread."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._inflate = zlib.decompressobj(zdict=DICTIONARY)
        self._deflate = zlib.compressobj(zdict=DICTIONARY)

    def feed(self, data: bytes) -> Iterator[Event]:
        """What has come, by bytes cut anywhere; to be iterated to its end. Raises SpdyError."""
        self._buffer += data
        while len(self._buffer) >= _HEAD.size:
            first, second = _HEAD.unpack_from(self._buffer)
            flags, length = second >> 24, second & 0xFFFFFF
            if first & _CONTROL and length > MOST_CONTROL_BYTES:
                raise SpdyError(f"a control frame of {length} bytes, expected {MOST_CONTROL_BYTES} at most")
            end = _HEAD.size + length
            if len(self._buffer) < end:
                return
            payload = bytes(self._buffer[_HEAD.size : end])
            del self._buffer[:end]
            if not first & _CONTROL:
                yield Data(first, payload, bool(flags & FIN))
            elif (event := self._control(first, flags, payload)) is not None:
                yield event

    def _control(self, first: int, flags: int, payload: bytes) -> Event | None:
        version, kind = first >> 16 & 0x7FFF, first & 0xFFFF
        if version != VERSION:
            raise SpdyError(f"SPDY version {version}, expected {VERSION}")
        try:
            match kind:
                case 1:  # SYN_STREAM: stream, associated stream, priority and slot in 2 bytes, headers
                    return Opened(_number(payload), self._headers(payload[10:]), bool(flags & FIN))
                case 2:  # SYN_REPLY: stream, headers
                    return Replied(_number(payload), self._headers(payload[4:]))
                case 3:  # RST_STREAM: stream, status
                    return Reset(_number(payload))
                case 6:  # PING: a number
                    return Pinged(struct.unpack_from(">I", payload)[0])
                case 7:  # GOAWAY: the last stream taken, status
                    return Left()
                case 8:  # HEADERS: stream, headers; nobody uses them, but compression goes through them
                    self._headers(payload[4:])
        except (struct.error, zlib.error, UnicodeDecodeError) as error:
            raise SpdyError(f"a frame of type {kind} that makes no sense: {error}") from error
        return None

    def _headers(self, data: bytes) -> dict[str, str]:
        text = self._inflate.decompress(data, MOST_HEADER_BYTES)
        if self._inflate.unconsumed_tail:
            raise SpdyError(f"headers of more than {MOST_HEADER_BYTES} bytes")
        (count,), at = struct.unpack_from(">I", text), 4
        headers: dict[str, str] = {}
        for _ in range(count):
            name, at = _text(text, at)
            headers[name.lower()], at = _text(text, at)
        return headers

    def open(self, stream: int, headers: Mapping[str, str], *, is_last: bool = False) -> bytes:
        """Begin a stream of ours."""
        body = struct.pack(">IIH", stream, 0, 0) + self._packed(headers)
        return _frame(SYN_STREAM, body, FIN if is_last else 0)

    def reply(self, stream: int, headers: Mapping[str, str] | None = None) -> bytes:
        """Take a stream of the peer's."""
        return _frame(SYN_REPLY, struct.pack(">I", stream) + self._packed(headers or {}))

    def _packed(self, headers: Mapping[str, str]) -> bytes:
        parts = [struct.pack(">I", len(headers))]
        for name, value in headers.items():
            for text in (name.lower().encode(), value.encode()):
                parts += [struct.pack(">I", len(text)), text]
        return self._deflate.compress(b"".join(parts)) + self._deflate.flush(zlib.Z_SYNC_FLUSH)


def data(stream: int, payload: bytes, *, is_last: bool = False) -> bytes:
    """Bytes of a stream, MOST_DATA_BYTES at most; `is_last`: nothing more comes from us."""
    return _HEAD.pack(stream & _STREAM, (FIN if is_last else 0) << 24 | len(payload)) + payload


def reset(stream: int, status: int = CANCEL) -> bytes:
    """We do not want the stream any more."""
    return _frame(RST_STREAM, struct.pack(">II", stream, status))


def ping(number: int) -> bytes:
    """Ask for, or give back, a number."""
    return _frame(PING, struct.pack(">I", number))


def go_away(last_stream: int) -> bytes:
    """We take no more streams of the peer's after that one."""
    return _frame(GOAWAY, struct.pack(">II", last_stream, 0))


def _frame(kind: int, body: bytes, flags: int = 0) -> bytes:
    return _HEAD.pack(_CONTROL | VERSION << 16 | kind, flags << 24 | len(body)) + body


def _number(payload: bytes) -> int:
    stream: int = struct.unpack_from(">I", payload)[0]
    return stream & _STREAM


def _text(data: bytes, at: int) -> tuple[str, int]:
    (length,) = struct.unpack_from(">I", data, at)
    end = at + 4 + length
    if end > len(data):
        raise SpdyError("headers are cut off")
    return data[at + 4 : end].decode(), end
