"""Between an archive's entry and a file: what either says of the other; must not know where files are, nor who names them."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import suppress

from runtime.images import tar_reader
from runtime.images.limits import BadArchive, shown
from runtime.images.tar_reader import Entry, TarReader

TYPES = {
    stat.S_IFREG: tar_reader.FILE,
    stat.S_IFLNK: tar_reader.SYMLINK,
    stat.S_IFCHR: tar_reader.CHARACTER_DEVICE,
    stat.S_IFBLK: tar_reader.BLOCK_DEVICE,
    stat.S_IFDIR: tar_reader.DIRECTORY,
    stat.S_IFIFO: tar_reader.FIFO,
}
"""What can be archived: a socket is worth nothing without the process that listens."""
KEPT_XATTRS = ("user.", "security.capability")
"""Attributes that belong to a file wherever it is; the others are the host's, or overlayfs's."""
_LAST_NS = (1 << 63) - 1


def entry_of(
    path: bytes, kind: bytes, found: os.stat_result, *, link: bytes = b"", xattrs: tuple[tuple[bytes, bytes], ...] = ()
) -> Entry:
    """The entry for a file."""
    is_device = kind in (tar_reader.CHARACTER_DEVICE, tar_reader.BLOCK_DEVICE)
    return Entry(
        path,
        kind,
        stat.S_IMODE(found.st_mode),
        found.st_uid,
        found.st_gid,
        found.st_size if kind == tar_reader.FILE else 0,
        found.st_mtime_ns,
        link,
        (os.major(found.st_rdev), os.minor(found.st_rdev)) if is_device else (0, 0),
        xattrs,
    )


def xattrs_of(descriptor: int) -> tuple[tuple[bytes, bytes], ...]:
    """An open file's attributes that an archive takes along; none on a file system that has none."""
    with suppress(OSError):
        keys = sorted(key for key in os.listxattr(descriptor) if key.startswith(KEPT_XATTRS))
        return tuple((os.fsencode(key), os.getxattr(descriptor, key)) for key in keys)
    return ()


def write_data(descriptor: int, entry: Entry, reader: TarReader) -> None:
    """Give an open, empty file the data of the reader's present entry, with holes where the archive has them.

    Raises BadArchive, OSError.
    """
    if entry.extents is not None:
        _write_pieces(descriptor, entry.extents, reader.data())
    elif (whole := reader.whole()) is not None:
        _write(descriptor, whole)  # a small file: most are
    else:
        for piece in reader.data():
            _write(descriptor, piece)


def _write(descriptor: int, piece: memoryview) -> None:
    while (written := os.write(descriptor, piece)) < len(piece):
        piece = piece[written:]


def _write_pieces(descriptor: int, extents: tuple[tuple[int, int], ...], data: Iterator[memoryview]) -> None:
    piece = memoryview(b"")
    for offset, length in extents:
        os.lseek(descriptor, offset, os.SEEK_SET)
        while length:
            piece = piece or next(data, piece)
            if not piece:
                raise BadArchive("a sparse file has less data than its map says")
            _write(descriptor, piece[:length])
            length, piece = length - len(piece[:length]), piece[length:]
    os.truncate(descriptor, extents[-1][0])


def set_xattrs(descriptor: int, entry: Entry) -> None:
    """Give an open file what attributes of the entry's its file system can keep; raises OSError."""
    for key, value in entry.xattrs:
        # The kernel and we speak to each other in trusted.*: an archive could make overlayfs show other layers' files.
        if key.startswith(b"trusted."):
            continue
        try:
            os.setxattr(descriptor, key, value)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EPERM, errno.EINVAL, errno.ERANGE):
                raise


def times_of(entry: Entry) -> tuple[int, int]:
    """Access and modification; a time that no file can have is 1970, as in Docker."""
    at = entry.mtime_ns if 0 <= entry.mtime_ns <= _LAST_NS else 0
    return at, at


def device_of(entry: Entry) -> int:
    """Raises BadArchive for a number that no device has."""
    with suppress(OverflowError):
        return os.makedev(*entry.device)
    raise BadArchive(f"{shown(entry.name)} is the device {entry.device}")
