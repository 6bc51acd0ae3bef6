"""Packs a directory in overlayfs's form into a layer's archive: always the same bytes for the same files; must not know layers.

Names are sorted, directory by directory. Character devices 0/0 and `trusted.overlay.opaque` become whiteouts (OCI image-spec,
"Layer Filesystem Changeset").
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

from runtime.errors import EngineError
from runtime.images import tar_reader, tar_writer
from runtime.images.entry_files import TYPES, entry_of, xattrs_of
from runtime.images.extract import OPAQUE, OPAQUE_XATTR, WHITEOUT
from runtime.images.tar_reader import Entry

_COPY_BYTES = 1 << 20


def pack(directory: Path, write: Callable[[bytes], object]) -> int:
    """Write the archive of what is in the directory, not of itself; returns the bytes of its files. Blocking.

    Raises OSError, EngineError for directories too deep in one another, which whoever wrote them has made on purpose.
    """
    packing = _Packing(write)
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        packing.contents(descriptor, b"")
    except RecursionError as error:
        raise EngineError("directories are too deep in one another to be packed") from error
    finally:
        os.close(descriptor)
    packing.end()
    return packing.size


class _Packing:
    """One archive on its way out."""

    def __init__(self, write: Callable[[bytes], object]) -> None:
        self._out = write
        self._written = 0
        self._seen: dict[tuple[int, int], bytes] = {}
        """Files with several names: the one that was packed."""
        self.size = 0

    def _write(self, data: bytes) -> None:
        self._out(data)
        self._written += len(data)

    def end(self) -> None:
        """Close the archive."""
        self._write(tar_writer.end_of(self._written))

    def contents(self, directory: int, prefix: bytes) -> None:
        """Everything in an open directory, whose path in the archive with its slash is `prefix`."""
        if prefix and _is_opaque(directory):
            self._white_out(prefix + OPAQUE, os.fstat(directory))
        for name in sorted(os.fsencode(name) for name in os.listdir(directory)):
            self._entry(directory, name, prefix)

    def _entry(self, within: int, name: bytes, prefix: bytes) -> None:
        found = os.stat(name, dir_fd=within, follow_symlinks=False)
        kind = TYPES.get(stat.S_IFMT(found.st_mode))
        if kind is None:
            return  # a socket: worth nothing without the process that listens
        path = prefix + name
        if kind == tar_reader.CHARACTER_DEVICE and found.st_rdev == 0:
            self._white_out(prefix + WHITEOUT + name, found)
        elif kind == tar_reader.DIRECTORY:
            self._directory(within, name, path + b"/", found)
        elif found.st_nlink > 1 and (first := self._seen.setdefault((found.st_dev, found.st_ino), path)) != path:
            self._write(tar_writer.header(entry_of(path, tar_reader.HARD_LINK, found, link=first)))
        elif kind == tar_reader.FILE:
            self._file(within, name, path, found)
        else:
            link = os.readlink(name, dir_fd=within) if kind == tar_reader.SYMLINK else b""
            self._write(tar_writer.header(entry_of(path, kind, found, link=link)))

    def _white_out(self, path: bytes, like: os.stat_result) -> None:
        self._write(tar_writer.header(Entry(path, tar_reader.FILE, 0, like.st_uid, like.st_gid, 0, like.st_mtime_ns)))

    def _directory(self, within: int, name: bytes, path: bytes, found: os.stat_result) -> None:
        descriptor = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=within)
        try:
            self._write(tar_writer.header(entry_of(path, tar_reader.DIRECTORY, found, xattrs=xattrs_of(descriptor))))
            self.contents(descriptor, path)
        finally:
            os.close(descriptor)

    def _file(self, within: int, name: bytes, path: bytes, found: os.stat_result) -> None:
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=within)
        try:
            self._write(tar_writer.header(entry_of(path, tar_reader.FILE, found, xattrs=xattrs_of(descriptor))))
            left = found.st_size
            while left:
                # A file that shrinks meanwhile is filled up: its header has been written.
                data = os.read(descriptor, min(left, _COPY_BYTES)) or bytes(min(left, _COPY_BYTES))
                self._write(data)
                left -= len(data)
        finally:
            os.close(descriptor)
        self._write(tar_writer.padding(found.st_size))
        self.size += found.st_size


def _is_opaque(directory: int) -> bool:
    try:
        return os.getxattr(directory, OPAQUE_XATTR) == b"y"
    except OSError:
        return False
