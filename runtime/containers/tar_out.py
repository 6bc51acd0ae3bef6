"""Files below a descriptor as a tar archive, as `docker cp` and `docker export` give it; must not know containers.

Names are looked up one component at a time from open directories, and nothing but regular files and directories is ever opened:
who changes the tree meanwhile may get one mixed of before and after, but never a file from elsewhere, nor have us wait for a FIFO.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from dataclasses import dataclass
from typing import BinaryIO

from runtime.images import tar_reader, tar_writer
from runtime.images.entry_files import TYPES, entry_of, xattrs_of
from runtime.linux.inroot import reopen

CHUNK = 256 * 1024
_HANDLE = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(slots=True)
class _Level:
    """An open directory on the way down."""

    descriptor: int
    names: list[bytes]
    """Still to come, the last one first."""
    prefix: bytes
    device: int


class TarOut:
    """One archive on its way out: what is to be in it, then its end."""

    def __init__(self, out: BinaryIO, foreign: frozenset[int] = frozenset()) -> None:
        """`foreign`: devices whose directories, met on the way down, are shown empty."""
        self._out = out
        self._foreign = foreign
        self._written = 0
        self._seen: dict[tuple[int, int], bytes] = {}
        """Files with several names: the one that is in the archive."""

    def add(self, descriptor: int, name: str) -> None:
        """What an O_PATH descriptor is of, and all below it, under this name; raises OSError. The descriptor is closed."""
        levels: list[_Level] = []
        try:
            self._add(descriptor, os.fsencode(name), os.fstat(descriptor).st_dev, levels)
            self._descend(levels)
        finally:
            _close(levels)

    def add_below(self, directory: int) -> None:
        """Everything in a directory, but not itself, under names that begin in it; raises OSError."""
        descriptor = reopen(directory, os.O_RDONLY | os.O_DIRECTORY)
        names = sorted(map(os.fsencode, os.listdir(descriptor)), reverse=True)
        levels = [_Level(descriptor, names, b"", os.fstat(descriptor).st_dev)]
        try:
            self._descend(levels)
        finally:
            _close(levels)

    def end(self) -> None:
        """Close the archive."""
        self._write(tar_writer.end_of(self._written))

    def _descend(self, levels: list[_Level]) -> None:
        while levels:
            level = levels[-1]
            if not level.names:
                os.close(levels.pop().descriptor)
                continue
            child = level.names.pop()
            with suppress(FileNotFoundError):
                handle = os.open(child, _HANDLE, dir_fd=level.descriptor)
                self._add(handle, level.prefix + child, level.device, levels)

    def _add(self, handle: int, path: bytes, parent_device: int, levels: list[_Level]) -> None:
        try:
            found = os.fstat(handle)
            kind = TYPES.get(stat.S_IFMT(found.st_mode))
            if kind is None:
                return
            if kind == tar_reader.DIRECTORY:
                shown = found.st_dev == parent_device or found.st_dev not in self._foreign
                levels.append(self._directory(handle, path.rstrip(b"/") + b"/", found, shown))
            elif found.st_nlink > 1 and (first := self._seen.setdefault((found.st_dev, found.st_ino), path)) != path:
                self._write(tar_writer.header(entry_of(path, tar_reader.HARD_LINK, found, link=first)))
            elif kind == tar_reader.FILE:
                self._file(handle, path, found)
            else:
                link = os.fsencode(os.readlink("", dir_fd=handle)) if kind == tar_reader.SYMLINK else b""
                self._write(tar_writer.header(entry_of(path, kind, found, link=link)))
        finally:
            os.close(handle)

    def _directory(self, handle: int, path: bytes, found: os.stat_result, shown: bool) -> _Level:
        directory = reopen(handle, os.O_RDONLY | os.O_DIRECTORY)
        try:
            names = sorted(map(os.fsencode, os.listdir(directory)), reverse=True) if shown else []
            self._write(tar_writer.header(entry_of(path, tar_reader.DIRECTORY, found, xattrs=xattrs_of(directory))))
        except BaseException:
            os.close(directory)
            raise
        return _Level(directory, names, path, found.st_dev)

    def _file(self, handle: int, path: bytes, found: os.stat_result) -> None:
        """As many bytes as the header says, zeros in place of those that have been cut off since."""
        file = reopen(handle, os.O_RDONLY | os.O_NOCTTY)
        try:
            self._write(tar_writer.header(entry_of(path, tar_reader.FILE, found, xattrs=xattrs_of(file))))
            left = found.st_size
            while left:
                data = os.read(file, min(left, CHUNK)) or bytes(min(left, CHUNK))
                self._write(data)
                left -= len(data)
            self._write(tar_writer.padding(found.st_size))
        finally:
            os.close(file)

    def _write(self, data: bytes) -> None:
        self._out.write(data)
        self._written += len(data)


def _close(levels: list[_Level]) -> None:
    for level in levels:
        os.close(level.descriptor)
