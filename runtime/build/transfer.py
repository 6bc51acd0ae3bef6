"""Files copied from one directory tree into another, by descriptors, links never followed; must not know why."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from dataclasses import dataclass

from runtime.build.sources import CAPABILITY, Source
from runtime.linux.inroot import DIRECTORY, open_in

_BLOCK = 1 << 24


@dataclass(frozen=True, slots=True)
class Marks:
    """What copies get, whatever their originals have."""

    uid: int = 0
    gid: int = 0
    mode: int | None = None
    """Permissions; None: the original's."""


def copy_file(source: Source, directory: int, name: str, marks: Marks) -> None:
    """A file, links to it followed, under a new name in that directory; what has the name is replaced. Raises OSError."""
    descriptor = open_in(source.tree.root, source.path, os.O_PATH)
    try:
        _copy(descriptor, directory, name, marks)
    finally:
        os.close(descriptor)


def copy_tree(source: Source, directory: int, marks: Marks) -> None:
    """What is in a directory, into another one: directories of one name are merged, all else is replaced. Raises OSError."""
    _copy_into(source, source.path, directory, marks)


def _copy_into(source: Source, path: str, directory: int, marks: Marks) -> None:
    tree = source.tree
    inside = open_in(tree.root, path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for name in sorted(os.listdir(inside)):
            child = f"{path}/{name}".lstrip("/")
            found = os.stat(name, dir_fd=inside, follow_symlinks=False)
            if stat.S_ISDIR(found.st_mode):
                _copy_directory(source, child, found, directory, marks)
            elif not tree.hides(child):
                descriptor = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=inside)
                try:
                    _copy(descriptor, directory, name, marks)
                finally:
                    os.close(descriptor)
    finally:
        os.close(inside)


def _copy_directory(source: Source, path: str, found: os.stat_result, directory: int, marks: Marks) -> None:
    """A hidden directory is made only if something in it is not hidden."""
    name = path.rpartition("/")[2]
    if source.tree.hides(path) and not _shows(source, path):
        return
    try:
        existing = os.stat(name, dir_fd=directory, follow_symlinks=False)
        if not stat.S_ISDIR(existing.st_mode):
            os.unlink(name, dir_fd=directory)
            raise FileNotFoundError(name)
    except FileNotFoundError:
        os.mkdir(name, dir_fd=directory)
    made = os.open(name, DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    try:
        _copy_into(source, path, made, marks)
        _mark(made, found, marks)
    finally:
        os.close(made)


def _shows(source: Source, path: str) -> bool:
    inside = open_in(source.tree.root, path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with os.scandir(inside) as entries:
            for entry in entries:
                child = f"{path}/{entry.name}"
                if not source.tree.hides(child) or (entry.is_dir(follow_symlinks=False) and _shows(source, child)):
                    return True
        return False
    finally:
        os.close(inside)


def _copy(descriptor: int, directory: int, name: str, marks: Marks) -> None:
    """One thing that is no directory, from its O_PATH descriptor."""
    found = os.fstat(descriptor)
    _clear(directory, name)
    if stat.S_ISLNK(found.st_mode):
        os.symlink(os.readlink("", dir_fd=descriptor), name, dir_fd=directory)
        os.chown(name, marks.uid, marks.gid, dir_fd=directory, follow_symlinks=False)
        os.utime(name, ns=(found.st_mtime_ns, found.st_mtime_ns), dir_fd=directory, follow_symlinks=False)
        return
    if stat.S_ISREG(found.st_mode):
        made = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=directory)
        try:
            _fill(descriptor, made)
            _mark(made, found, marks)
        finally:
            os.close(made)
        return
    os.mknod(name, found.st_mode, found.st_rdev, dir_fd=directory)
    made = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    try:
        _mark(made, found, marks)
    finally:
        os.close(made)


def _clear(directory: int, name: str) -> None:
    """Make way for a file; a directory in its place is an error of the Dockerfile's."""
    with suppress(FileNotFoundError):
        os.unlink(name, dir_fd=directory)


def _fill(source: int, target: int) -> None:
    readable = os.open(f"/proc/self/fd/{source}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        offset = 0
        while copied := os.sendfile(target, readable, offset, _BLOCK):  # copy_file_range(2) ends at file systems' borders
            offset += copied
        with suppress(OSError):
            os.setxattr(target, CAPABILITY, os.getxattr(readable, CAPABILITY))
    finally:
        os.close(readable)


def _mark(descriptor: int, found: os.stat_result, marks: Marks) -> None:
    """Owner, mode and time, by the path of a descriptor that may be O_PATH; the mode last: a change of owner takes setuid away."""
    path = f"/proc/self/fd/{descriptor}"
    os.chown(path, marks.uid, marks.gid)
    os.chmod(path, stat.S_IMODE(found.st_mode) if marks.mode is None else marks.mode)
    os.utime(path, ns=(found.st_mtime_ns, found.st_mtime_ns))
