"""What the monitor and the engine say to each other, as bytes; must not know how the bytes travel.

A control connection is opened with `C`. The monitor answers with its state, and then says, in lines:

    waiting                    it has not been told to start
    starting                   its command (runc) is on its way
    running PID                there is a process
    failed LENGTH + reason     there is none, and why
    exit CODE NANOSECONDS      it has ended, when; the log is whole and the file `exit` is there
    ok | error ERRNO           answers, one to each command in their order

A client is let in by a digit, 1 stdin + 2 stdout + 4 stderr, and gets `+` before all else. Its output comes in Docker's frames
(stream, three zeros, length in four bytes, big-endian), or bare with a terminal.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

from runtime.errors import EngineError

CONTROL = b"C"
WELCOME = b"+"


@dataclass(frozen=True, slots=True)
class Waiting:
    """Nothing has been started."""


@dataclass(frozen=True, slots=True)
class Starting:
    """It is on its way."""


@dataclass(frozen=True, slots=True)
class Running:
    """There is a process."""

    pid: int


@dataclass(frozen=True, slots=True)
class Failed:
    """There will be none."""

    reason: str
    """The command's last words."""


@dataclass(frozen=True, slots=True)
class Exit:
    """The process has ended."""

    code: int
    """128 + signal when one has killed it."""
    at_ns: int
    """Since 1970."""


@dataclass(frozen=True, slots=True)
class Answer:
    """To the oldest command without one."""

    errno: int
    """0: done."""


Message: TypeAlias = Waiting | Starting | Running | Failed | Exit | Answer


class Decoder:
    """A control connection's bytes as messages."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[Message]:
        """What is complete with these bytes; raises EngineError when it is nothing that a monitor says."""
        self._rest += data
        while b"\n" in self._rest:
            line, rest = self._rest.split(b"\n", 1)
            if line.startswith(b"failed "):
                length = _number(line[7:])
                if len(rest) < length:
                    return
                self._rest = rest[length:]
                yield Failed(rest[:length].decode(errors="replace"))
            else:
                self._rest = rest
                yield parse_line(line)


def parse_line(line: bytes) -> Message:
    """A line without its end; raises EngineError."""
    match line.split(b" "):
        case [b"ok"]:
            return Answer(0)
        case [b"error", errno]:
            return Answer(_number(errno))
        case [b"waiting"]:
            return Waiting()
        case [b"starting"]:
            return Starting()
        case [b"running", pid]:
            return Running(_number(pid))
        case [b"exit", code, at_ns]:
            return Exit(_number(code), _number(at_ns))
        case [b"refused", *why]:
            raise EngineError(f"the monitor refuses: {b' '.join(why).decode(errors='replace')}")
        case _:
            raise EngineError(f"the monitor says {line[:80]!r}, expected a state, an answer or an exit")


def parse_exit(text: str) -> Exit | None:
    """The file `exit`: "CODE NANOSECONDS"; None when it is anything else."""
    words = text.split()
    if len(words) != 2 or not all(word.isascii() and word.isdigit() for word in words):
        return None
    return Exit(int(words[0]), int(words[1]))


def client(*, stdin: bool, stdout: bool, stderr: bool) -> bytes:
    """How a client begins that wants these streams."""
    return b"%d" % (stdin * 1 + stdout * 2 + stderr * 4)


def _number(word: bytes) -> int:
    if not word.isdigit():
        raise EngineError(f"the monitor says {word[:80]!r}, expected a number")
    return int(word)
