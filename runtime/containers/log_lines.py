"""Lines of containers' logs as they are written: json-file, Docker's, and CRI's format; pure, must not know where they are kept.

json-file: {"log":"text\n","stream":"stdout","time":"2026-11-23T15:50:53.123456789Z"}
CRI:       2026-11-23T15:50:53.123456789Z stdout F text

A line too long for one entry is several; the entry that ends it has the newline, or the tag F.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import msgspec

from runtime.clock import nanoseconds_of

STREAMS = {"stdout": 1, "stderr": 2}
"""By the numbers of Docker's framing."""
_CRI_STREAMS = {b"stdout": 1, b"stderr": 2}


class LogLine(msgspec.Struct, frozen=True, gc=False):
    """A line, or a piece of a long one."""

    stream: int
    """1: standard output, 2: standard error."""
    time_ns: int
    data: bytes
    """With its newline, which all pieces but the last lack."""
    starts: bool = True
    """False: goes on where the piece of that stream before it ended; it wants no time stamp of its own."""

    @property
    def ends(self) -> bool:
        """Whether this is the last piece of its line."""
        return self.data.endswith(b"\n")


class _JsonEntry(msgspec.Struct, gc=False):
    log: str = ""
    stream: str = ""
    time: str = ""
    attrs: dict[str, Any] | None = None


_decoder = msgspec.json.Decoder(_JsonEntry)


def parse_line(entry: bytes) -> LogLine | None:
    """An entry of either format, without its newline; None: broken, as the last one is after a power cut."""
    try:
        return _parse_json(entry) if entry[:1] == b"{" else _parse_cri(entry)
    except (KeyError, ValueError):  # msgspec's errors are ValueErrors
        return None


def _parse_json(entry: bytes) -> LogLine:
    found = _decoder.decode(entry)
    return LogLine(STREAMS[found.stream], _time_ns(found.time), found.log.encode(errors="surrogateescape"))


def _parse_cri(entry: bytes) -> LogLine:
    time, stream, tags, data = entry.split(b" ", 3)
    ended = tags.split(b":", 1)[0] != b"P"
    return LogLine(_CRI_STREAMS[stream], _time_ns(time.decode()), data + b"\n" if ended else data)


def _time_ns(text: str) -> int:
    """The form that we write without a round through datetime: most lines share their second with the one before."""
    if len(text) > 20 and text[19] == "." and text[-1] == "Z":
        digits = text[20:-1]
        if len(digits) <= 9 and digits.isdecimal():
            return _second_ns(text[:19]) + int(digits.ljust(9, "0"))
    return nanoseconds_of(text)


@lru_cache(maxsize=64)
def _second_ns(text: str) -> int:
    return nanoseconds_of(f"{text}Z")
