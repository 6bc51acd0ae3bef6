"""A tar archive unpacked into a container's files, as `docker cp` does it; must not know containers.

The container may run, and change its files meanwhile. Every path is resolved below the root's descriptor by the kernel
(openat2(2)), so that a link leads where it leads in the container; the last component is made by calls that follow none.
"""

from __future__ import annotations

import errno
import os
import posixpath
import shutil
import stat
from contextlib import suppress
from dataclasses import dataclass
from typing import BinaryIO

from runtime.errors import InvalidParameter
from runtime.images import tar_reader
from runtime.images.decompress import decompressed
from runtime.images.entry_files import device_of, set_xattrs, times_of, write_data
from runtime.images.tar_reader import Entry, TarReader
from runtime.linux.inroot import DIRECTORY, make_dirs_in, open_in

_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_SAME_FILE = os.O_WRONLY | os.O_TRUNC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Extraction:
    """What the client wants of an unpacking."""

    no_overwrite_dir_non_dir: bool = False
    """Replacing a directory by something else, or the reverse, is an error."""
    copy_uid_gid: bool = False
    """All is to belong to the container's user, not to whom the archive says."""


def unpack(root: int, destination: str, source: BinaryIO, how: Extraction, owner: tuple[int, int] | None = None) -> None:
    """Unpack an archive, compressed or not, into a directory of the container (an absolute path); blocking.

    Everything is given to `owner` (uid, gid), if any. Raises InvalidParameter (the archive, or where it wants to go), OSError; what
    has been unpacked by then stays.
    """
    unpacking = _Unpacking(root, destination, how, owner)
    try:
        reader = TarReader(decompressed(source.read))
        for entry in reader:
            try:
                unpacking.place(entry, reader)
            except OSError as error:
                raise OSError(error.errno, error.strerror, os.fsdecode(entry.name[:200])) from error
        unpacking.finish()
    finally:
        unpacking.close()


class _Unpacking:
    def __init__(self, root: int, destination: str, how: Extraction, owner: tuple[int, int] | None) -> None:
        self._root = root
        self._destination = destination
        self._how = how
        self._owner = owner
        self._parent = ("", -1)
        """The last entry's directory: its path and a descriptor of it."""
        self._directories: dict[str, Entry] = {}
        """Their times are set last: what is made inside changes them."""

    def close(self) -> None:
        if self._parent[1] >= 0:
            os.close(self._parent[1])
        self._parent = ("", -1)

    def place(self, entry: Entry, reader: TarReader) -> None:
        path = self._inside(entry.name)
        parent, name = posixpath.split(path)
        if path == self._destination:
            return  # it is there, and remains what it is
        within = self._directory(parent)
        there = _stat(name, within)
        if there is not None and not self._keeps(entry, path, there):
            if entry.type == tar_reader.FILE and _is_busy(name, within, there):
                self._overwrite(within, name, entry, reader)
                return
            _remove(name, within, there)
            there = None
        if entry.type == tar_reader.FILE:
            self._file(os.open(name, _NEW_FILE, 0o600, dir_fd=within), entry, reader)
        elif entry.type == tar_reader.DIRECTORY:
            self._make_directory(within, name, entry, there is not None)
            self._directories[path] = entry
        else:
            self._special(within, name, entry)

    def finish(self) -> None:
        """Set directories' times."""
        for path, entry in reversed(self._directories.items()):
            with suppress(OSError):  # gone or replaced meanwhile, by the container
                descriptor = open_in(self._root, path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
                try:
                    os.utime(descriptor, ns=times_of(entry))
                finally:
                    os.close(descriptor)

    def _inside(self, name: bytes) -> str:
        """Where a name of the archive is, from the root."""
        path = posixpath.normpath(posixpath.join(self._destination, os.fsdecode(name).lstrip("/")))
        if path != self._destination and not path.startswith(self._destination.rstrip("/") + "/"):
            raise InvalidParameter(f'"{os.fsdecode(name[:200])}" is outside of "{self._destination}"')
        return path

    def _directory(self, path: str) -> int:
        if self._parent[1] < 0 or self._parent[0] != path:
            self.close()
            self._parent = (path, make_dirs_in(self._root, path))
        return self._parent[1]

    def _keeps(self, entry: Entry, path: str, there: os.stat_result) -> bool:
        """Whether what is there may stay, because both are directories."""
        was, becomes = stat.S_ISDIR(there.st_mode), entry.type == tar_reader.DIRECTORY
        if was is not becomes and self._how.no_overwrite_dir_non_dir:
            kinds = ("directory", "non-directory") if was else ("non-directory", "directory")
            raise InvalidParameter(f'cannot overwrite {kinds[0]} "{path}" with {kinds[1]} "{self._destination}"')
        return was and becomes

    def _overwrite(self, within: int, name: str, entry: Entry, reader: TarReader) -> None:
        """A mount point, such as /etc/hosts, cannot be replaced; its content can. Owner and mode remain."""
        descriptor = os.open(name, _SAME_FILE, dir_fd=within)
        try:
            write_data(descriptor, entry, reader)
        finally:
            os.close(descriptor)

    def _file(self, descriptor: int, entry: Entry, reader: TarReader) -> None:
        try:
            write_data(descriptor, entry, reader)
            # In this order: a new owner clears set-id bits and capabilities.
            os.fchown(descriptor, *self._owner_of(entry))
            os.fchmod(descriptor, entry.mode)
            set_xattrs(descriptor, entry)
            os.utime(descriptor, ns=times_of(entry))
        finally:
            os.close(descriptor)

    def _make_directory(self, within: int, name: str, entry: Entry, exists: bool) -> None:
        if not exists:
            os.mkdir(name, 0o700, dir_fd=within)
        descriptor = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=within)
        try:
            os.fchown(descriptor, *self._owner_of(entry))
            os.fchmod(descriptor, entry.mode)
            set_xattrs(descriptor, entry)
        finally:
            os.close(descriptor)

    def _special(self, within: int, name: str, entry: Entry) -> None:
        match entry.type:
            case tar_reader.HARD_LINK:
                self._link(within, name, entry)
                return  # its owner and times are the file's
            case tar_reader.SYMLINK:
                os.symlink(entry.link, os.fsencode(name), dir_fd=within)
            case tar_reader.FIFO:
                os.mknod(name, entry.mode | stat.S_IFIFO, dir_fd=within)
            case _:
                kind = stat.S_IFCHR if entry.type == tar_reader.CHARACTER_DEVICE else stat.S_IFBLK
                os.mknod(name, entry.mode | kind, device_of(entry), dir_fd=within)
        os.chown(name, *self._owner_of(entry), dir_fd=within, follow_symlinks=False)
        os.utime(name, ns=times_of(entry), dir_fd=within, follow_symlinks=False)

    def _link(self, within: int, name: str, entry: Entry) -> None:
        parent, target = posixpath.split(self._inside(entry.link))
        source = open_in(self._root, parent, DIRECTORY)
        try:
            os.link(target, name, src_dir_fd=source, dst_dir_fd=within, follow_symlinks=False)
        except PermissionError as error:
            raise InvalidParameter(f"{name}: no hard link can be made to {parent}/{target}") from error
        finally:
            os.close(source)

    def _owner_of(self, entry: Entry) -> tuple[int, int]:
        return self._owner or (entry.uid, entry.gid)


def _stat(name: str, within: int) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=within, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _is_busy(name: str, within: int, there: os.stat_result) -> bool:
    """Whether it is a file that something is mounted on; removes it when it is not."""
    if not stat.S_ISREG(there.st_mode):
        return False
    try:
        os.unlink(name, dir_fd=within)
    except OSError as error:
        if error.errno == errno.EBUSY:
            return True
        raise
    return False


def _remove(name: str, within: int, there: os.stat_result) -> None:
    with suppress(FileNotFoundError):
        if stat.S_ISDIR(there.st_mode):
            shutil.rmtree(name, dir_fd=within)
        else:
            os.unlink(name, dir_fd=within)
