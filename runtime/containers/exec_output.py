"""A command's output, taken out of Docker's frames and bounded; must not know where it comes from."""

from __future__ import annotations

from dataclasses import dataclass

_HEAD = 8
"""Stream (1 stdout, 2 stderr), three zeros, length in four bytes, big-endian."""


@dataclass(frozen=True, slots=True)
class ExecResult:
    """How a command ended and what it said."""

    code: int
    output: bytes
    """Of stdout."""
    stderr: bytes
    both: bytes
    """As it came."""


class Output:
    """The beginning of each stream, and of both."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._kept = {1: bytearray(), 2: bytearray()}
        self._both = bytearray()
        self._head = bytearray()
        self._left = 0
        """Bytes of the present frame that are still to come."""

    def feed(self, data: bytes) -> None:
        """Take bytes, cut anywhere."""
        view = memoryview(data)
        while view:
            if self._left == 0:
                need = _HEAD - len(self._head)
                self._head += view[:need]
                view = view[need:]
                if len(self._head) < _HEAD:
                    return
                self._left = int.from_bytes(self._head[4:], "big")
            taken = view[: self._left]
            view = view[len(taken) :]
            self._left -= len(taken)
            self._keep(self._head[0], taken)
            if self._left == 0:
                self._head.clear()

    def _keep(self, stream: int, data: memoryview) -> None:
        for kept in (self._kept.get(stream), self._both):
            if kept is not None:
                kept += data[: max(0, self._limit - len(kept))]

    def result(self, code: int) -> ExecResult:
        """What has been kept."""
        return ExecResult(code, bytes(self._kept[1]), bytes(self._kept[2]), bytes(self._both))
