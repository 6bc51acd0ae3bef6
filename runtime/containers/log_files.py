"""A log and its rotated predecessors (LOG.2, LOG.1, LOG: oldest first) read as one, while it is written and rotated; blocking.

Must not know what is asked of a log, nor who reads on after the end of what is there.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from runtime.containers.log_lines import LogLine, parse_line

CHUNK = 128 * 1024
"""Bytes read at a time: about a thousand lines."""
MAX_ENTRY = 4 << 20
"""Bytes; what goes on longer without a newline is no entry that we write, and is dropped."""
GAP = 2
"""So many names in a row that are missing are the end of the rotated files; one may be, in the middle of a rotation."""


@dataclass(slots=True)
class _File:
    """An open file and how far it has been read; renaming does not touch it."""

    descriptor: int
    position: int = 0
    inode: tuple[int, int] = field(init=False)

    def __post_init__(self) -> None:
        status = os.fstat(self.descriptor)
        self.inode = status.st_dev, status.st_ino

    @classmethod
    def open(cls, path: Path) -> Self | None:
        try:
            return cls(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
        except FileNotFoundError:
            return None

    def read(self) -> bytes:
        if os.fstat(self.descriptor).st_size < self.position:  # truncated by somebody else's rotation
            self.position = 0
        data = os.pread(self.descriptor, CHUNK, self.position)
        self.position += len(data)
        return data

    def close(self) -> None:
        os.close(self.descriptor)


class LogFiles:
    """Where one reader is. A thread may still be reading when its caller has given up and closes: hence the lock."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._closed = False
        self._current: _File | None = None
        self._newer: deque[_File] = deque()
        self._rest = b""
        """Of an entry whose newline is still to come."""
        self._inside = {1: False, 2: False}
        """By stream: whether the line is still going on."""

    def start(self, tail: int | None) -> None:
        """Begin with the oldest line there is, or with the last `tail` ones; raises OSError."""
        with self._lock:
            if self._closed:
                return
            self._newer.extend(self._opened_after(None))
            if tail is not None:
                _skip_to_tail(self._newer, tail)

    def read(self) -> list[LogLine] | None:
        """Some more lines, none for a piece of one; None: this was the end, for now. Raises OSError."""
        with self._lock:
            return None if self._closed else self._read()

    def finish(self) -> list[LogLine]:
        """What is left without a newline, if it makes sense."""
        rest, self._rest = self._rest, b""
        return self._parsed([rest])

    def close(self) -> None:
        """Let go of the files; nothing may follow."""
        with self._lock:
            self._closed = True
            for file in (self._current, *self._newer):
                if file is not None:
                    file.close()

    def _read(self) -> list[LogLine] | None:
        while True:
            if self._current is not None and (data := self._current.read()):
                return self._lines(data)
            if self._newer:  # found before the end was: so it was the end for good
                if last := self._advance():
                    return last
                continue
            self._newer.extend(self._opened_after(self._current))
            if not self._newer:
                return None

    def _advance(self) -> list[LogLine]:
        if self._current is not None:
            self._current.close()
        self._current = self._newer.popleft()
        return self.finish()

    def _lines(self, data: bytes) -> list[LogLine]:
        *entries, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > MAX_ENTRY:
            self._rest = b""
        return self._parsed(entries)

    def _parsed(self, entries: list[bytes]) -> list[LogLine]:
        lines = []
        for entry in entries:
            line = parse_line(entry)
            if line is None:
                continue
            if self._inside[line.stream]:
                line = LogLine(line.stream, line.time_ns, line.data, starts=False)
            self._inside[line.stream] = not line.ends
            lines.append(line)
        return lines

    def _opened_after(self, known: _File | None) -> list[_File]:
        """What has been begun since `known` was, oldest first.

        Opened newest first: whatever is renamed meanwhile is met twice, never missed.
        """
        found: dict[tuple[int, int], _File] = {}
        missing = 0
        for name in self._names():
            file = _File.open(name)
            if file is None:
                missing += 1
                if missing > GAP:
                    break
                continue
            missing = 0
            if file.inode in found or (known is not None and file.inode == known.inode):
                file.close()
                if file.inode not in found:
                    break
                continue
            found[file.inode] = file
        return list(reversed(found.values()))

    def _names(self) -> Iterator[Path]:
        yield self._path
        for number in itertools.count(1):
            yield self._path.with_name(f"{self._path.name}.{number}")


def _skip_to_tail(files: deque[_File], wanted: int) -> None:
    """Leave the last `wanted` lines to be read: files before them are closed and dropped."""
    seen, last = 0, True
    for index in range(len(files) - 1, -1, -1):
        for end, entry in _entries_backwards(files[index]):
            line = parse_line(entry)
            if line is None:
                continue
            if last and not line.ends:
                seen = 1  # a line that is not finished is one too
            last = False
            if line.ends:
                seen += 1
            if seen > wanted:
                files[index].position = end
                for _ in range(index):
                    files.popleft().close()
                return


def _entries_backwards(file: _File) -> Iterator[tuple[int, bytes]]:
    """Whole entries from the last to the first, each with the offset after its newline."""
    begin = os.fstat(file.descriptor).st_size
    rest = b""  # from `begin` up to the newline of the entry that was met last
    met_newline = False
    while begin > 0:
        size = min(CHUNK, begin)
        begin -= size
        block = os.pread(file.descriptor, size, begin) + rest
        pieces = block.split(b"\n")
        end = begin + len(block)
        for piece in reversed(pieces[1:]):
            if met_newline:
                yield end + 1, piece
            met_newline = True
            end -= len(piece) + 1
        rest = pieces[0]
        if len(rest) > MAX_ENTRY:
            return
    if met_newline:
        yield len(rest) + 1, rest
