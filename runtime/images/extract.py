"""Unpacks a layer's archive, which nobody trusts, into a directory in the form that overlayfs wants; must not know of layers.

Two rules keep it inside. No name has ".." in it, and a name's directory is opened with openat2(2) as if ours were "/", so that a
symlink of the archive's leads where it would lead in the container. And the last component is never followed: what is there is
removed, and the new thing made with O_EXCL or a call that cannot follow.

Whiteouts (OCI image-spec, "Layer Filesystem Changeset") become character devices 0/0 and `trusted.overlay.opaque`. Modes, owners,
times and attributes of directories are set last: a setgid bit, a default ACL or a time would not survive what is made inside.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from flanneld.linux import netns
from runtime.images import tar_reader
from runtime.images.entry_files import device_of, set_xattrs, times_of, write_data
from runtime.images.limits import BadArchive, Limits, shown
from runtime.images.tar_reader import Entry, TarReader
from runtime.linux.inroot import make_dirs_in, open_in
from runtime.linux.trees import remove_tree

WHITEOUT = b".wh."
OPAQUE = b".wh..wh..opq"
OPAQUE_XATTR = "trusted.overlay.opaque"
_AUFS = b".wh..wh."
"""What aufs kept for itself, and old images still have."""
_OPEN_DIRECTORIES = 128
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_WHITEOUT_DEVICE = 0


def extract(chunks: Iterator[bytes], directory: int, limits: Limits) -> int:
    """Unpack an archive into the open, empty directory; returns the bytes of its files. Blocking; needs root.

    Raises BadArchive, OSError; what is there then is worth nothing.
    """

    def work() -> int:
        # Not the process's: this thread's own. What is made gets the very mode that the archive says.
        netns.unshare(netns.Clone.FS)
        os.umask(0)
        extraction = Extraction(directory, limits)
        try:
            return extraction.run(TarReader(chunks))
        finally:
            extraction.close()

    return netns.in_thread(work)


class Extraction:
    """One archive on its way into one directory."""

    def __init__(self, root: int, limits: Limits) -> None:
        self._root = root
        self._limits = limits
        self._open: dict[bytes, int] = {}
        """Directories by path, without symlinks resolved, until one of them is removed."""
        self._directories: dict[bytes, Entry] = {}
        """What is to be set at the end."""
        self.size = 0

    def close(self) -> None:
        """Forget every open directory."""
        for descriptor in self._open.values():
            os.close(descriptor)
        self._open.clear()

    def run(self, reader: TarReader) -> int:
        """Unpack everything; returns the bytes of all files."""
        for count, entry in enumerate(reader):
            if count >= self._limits.entries:
                raise BadArchive(f"the archive has more than {self._limits.entries} entries")
            try:
                self._place(entry, reader)
            except OSError as error:
                raise _named(error, entry.name) from error
        for path, entry in self._directories.items():
            self._finish_directory(path, entry)
        return self.size

    def _place(self, entry: Entry, reader: TarReader) -> None:
        parent, name = _split(entry.name)
        if WHITEOUT in entry.name and self._is_mark(parent, name):
            return
        if not name:
            if entry.type == tar_reader.DIRECTORY:
                self._directories[b""] = entry
        elif entry.type == tar_reader.FILE:
            self._file(parent, name, entry, reader)
        elif entry.type == tar_reader.DIRECTORY:
            self._make_directory(parent, name, entry)
        else:
            self._special(parent, name, entry)

    def _is_mark(self, parent: bytes, name: bytes) -> bool:
        """Do what a name that means something else than a file says, and whether it did."""
        if name == OPAQUE:
            os.setxattr(self._directory(parent), OPAQUE_XATTR, b"y")
        elif name.startswith(WHITEOUT) and not name.startswith(_AUFS):
            self._white_out(parent, name[len(WHITEOUT) :])
        else:
            return name.startswith(_AUFS) or parent.startswith(_AUFS)
        return True

    def _directory(self, path: bytes) -> int:
        """A descriptor of the directory, made when it is not there; it stays ours."""
        found = self._open.get(path)
        if found is not None:
            return found
        if len(self._open) >= _OPEN_DIRECTORIES:
            self.close()
        text = os.fsdecode(path)
        try:
            descriptor = open_in(self._root, text, _DIRECTORY)
        except FileNotFoundError:
            os.close(make_dirs_in(self._root, text))
            descriptor = open_in(self._root, text, _DIRECTORY)
        self._open[path] = descriptor
        return descriptor

    def _file(self, parent: bytes, name: bytes, entry: Entry, reader: TarReader) -> None:
        if entry.extents and entry.extents[-1][0] > self._limits.bytes:
            raise BadArchive(f"a sparse file of {entry.extents[-1][0]} bytes, expected at most {self._limits.bytes}")
        within = self._directory(parent)
        try:
            descriptor = os.open(name, _NEW_FILE, entry.mode, dir_fd=within)
        except FileExistsError:
            self._clear(parent, name)
            descriptor = os.open(name, _NEW_FILE, entry.mode, dir_fd=within)
        try:
            if entry.size or entry.extents:
                write_data(descriptor, entry, reader)
                self.size += entry.extents[-1][0] if entry.extents else entry.size
            # In this order: a new owner clears set-id bits, and data clears these and capabilities.
            if entry.uid or entry.gid:
                os.fchown(descriptor, entry.uid, entry.gid)
            if entry.mode & 0o7000:
                os.fchmod(descriptor, entry.mode)
            if entry.xattrs:
                set_xattrs(descriptor, entry)
            os.utime(descriptor, ns=times_of(entry))
        finally:
            os.close(descriptor)

    def _make_directory(self, parent: bytes, name: bytes, entry: Entry) -> None:
        within = self._directory(parent)
        path = parent + b"/" + name if parent else name
        try:
            os.mkdir(name, 0o755, dir_fd=within)
        except FileExistsError:
            there = os.stat(name, dir_fd=within, follow_symlinks=False)
            if not stat.S_ISDIR(there.st_mode):
                self._clear(parent, name)
                os.mkdir(name, 0o755, dir_fd=within)
                if _is_whiteout(there):
                    # The layer removes what was below and begins anew.
                    os.setxattr(self._directory(path), OPAQUE_XATTR, b"y")
        self._directories[path] = entry

    def _finish_directory(self, path: bytes, entry: Entry) -> None:
        parent, _, name = path.rpartition(b"/")
        try:
            descriptor = os.open(name or b".", _DIRECTORY | os.O_NOFOLLOW, dir_fd=self._directory(parent))
        except OSError as error:
            raise _named(error, path) from error
        try:
            os.fchown(descriptor, entry.uid, entry.gid)
            os.fchmod(descriptor, entry.mode)
            set_xattrs(descriptor, entry)
            os.utime(descriptor, ns=times_of(entry))
        finally:
            os.close(descriptor)

    def _special(self, parent: bytes, name: bytes, entry: Entry) -> None:
        within = self._directory(parent)
        try:
            self._make_special(within, name, entry)
        except FileExistsError:
            if entry.type == tar_reader.HARD_LINK and _split(entry.link) == (parent, name):
                return
            self._clear(parent, name)
            self._make_special(within, name, entry)
        if entry.type == tar_reader.HARD_LINK:
            return  # the file has its owner and times from its own entry
        os.chown(name, entry.uid, entry.gid, dir_fd=within, follow_symlinks=False)
        os.utime(name, ns=times_of(entry), dir_fd=within, follow_symlinks=False)

    def _make_special(self, within: int, name: bytes, entry: Entry) -> None:
        match entry.type:
            case tar_reader.SYMLINK:
                os.symlink(entry.link, name, dir_fd=within)
            case tar_reader.HARD_LINK:
                parent, target = _split(entry.link)
                # Not through `_directory`, which would make what is missing, and might close `within`.
                source = open_in(self._root, os.fsdecode(parent), _DIRECTORY)
                try:
                    os.link(target, name, src_dir_fd=source, dst_dir_fd=within, follow_symlinks=False)
                except PermissionError as error:
                    raise BadArchive(f"{shown(entry.name)}: no hard link can be made to {shown(entry.link)}") from error
                finally:
                    os.close(source)
            case tar_reader.FIFO:
                os.mknod(name, entry.mode | stat.S_IFIFO, dir_fd=within)
            case _:
                kind = stat.S_IFCHR if entry.type == tar_reader.CHARACTER_DEVICE else stat.S_IFBLK
                os.mknod(name, entry.mode | kind, device_of(entry), dir_fd=within)

    def _white_out(self, parent: bytes, name: bytes) -> None:
        if name in (b"", b".", b".."):
            raise BadArchive(f"a whiteout of {shown(name)}")
        within = self._directory(parent)
        try:
            os.mknod(name, stat.S_IFCHR, _WHITEOUT_DEVICE, dir_fd=within)
        except FileExistsError:
            # It hides what is below, not what this layer has there: a file does that by itself.
            if stat.S_ISDIR(os.stat(name, dir_fd=within, follow_symlinks=False).st_mode):
                os.setxattr(self._directory(parent + b"/" + name if parent else name), OPAQUE_XATTR, b"y")

    def _clear(self, parent: bytes, name: bytes) -> None:
        """Remove what an earlier entry of the same name made; the descriptor of `parent` stays open."""
        within = self._directory(parent)
        try:
            os.unlink(name, dir_fd=within)
        except IsADirectoryError:
            remove_tree(Path(f"/proc/self/fd/{within}", os.fsdecode(name)))
        path = parent + b"/" + name if parent else name
        for other in [other for other in self._directories if other == path or other.startswith(path + b"/")]:
            del self._directories[other]
        # What was removed may have been a directory, or a symlink to one, on any of these paths.
        for other in [other for other in self._open if other != parent]:
            os.close(self._open.pop(other))


def _split(name: bytes) -> tuple[bytes, bytes]:
    """Directory and last component, without slashes at the ends and without dots; ("", "") is the root. Raises BadArchive."""
    head, _, base = name.rpartition(b"/")
    if base not in (b"", b".", b".."):
        return _clean(head), base
    head, _, base = _clean(name).rpartition(b"/")
    return head, base


@lru_cache(1024)
def _clean(path: bytes) -> bytes:
    parts = [part for part in path.split(b"/") if part not in (b"", b".")]
    if b".." in parts:
        raise BadArchive(f"{shown(path)} leads out of the archive")
    return b"/".join(parts)


def _named(error: OSError, name: bytes) -> Exception:
    """An archive's own contradictions (a file inside a file, a name too long) are its fault; a full disk is not."""
    theirs = (errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EEXIST, errno.EXDEV, errno.EISDIR, errno.ENOENT)
    if error.errno in (*theirs, errno.EINVAL, errno.EMLINK):
        return BadArchive(f"{shown(name)}: {(error.strerror or '').lower()}")
    return OSError(error.errno, error.strerror, os.fsdecode(name[:200]))


def _is_whiteout(there: os.stat_result) -> bool:
    return stat.S_ISCHR(there.st_mode) and there.st_rdev == _WHITEOUT_DEVICE
