"""Paths that a container means, opened as a process of it would and never outside of its root: openat2(2).

Symlinks inside are followed, absolute ones from the root; `..` above the root stays there; links that jump (/proc/PID/root,
/proc/PID/fd) are refused: with the host's /proc mounted they lead anywhere. Must not know what is opened or why.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath

_SYS_OPENAT2 = 437  # on every architecture
_RESOLVE_NO_MAGICLINKS = 0x02  # linux/openat2.h
_RESOLVE_IN_ROOT = 0x10
ATTEMPTS = 64
"""The kernel says EAGAIN whenever anything anywhere was renamed while it walked over a `..`."""
DIRECTORY = os.O_PATH | os.O_DIRECTORY
"""Flags of a descriptor to start from."""

_libc = ctypes.CDLL(None, use_errno=True)


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


def open_in(root: int, path: str, flags: int, mode: int = 0) -> int:
    """Open `path` as if the directory `root` were "/"; close-on-exec. Raises OSError naming `path`, ValueError for a NUL in it."""
    if "\0" in path:
        raise ValueError("expected a path without NUL")
    how = _OpenHow(flags | os.O_CLOEXEC, mode, _RESOLVE_IN_ROOT | _RESOLVE_NO_MAGICLINKS)
    code = 0
    for _ in range(ATTEMPTS):
        arguments = (ctypes.c_int(root), os.fsencode(path or "."), ctypes.byref(how), ctypes.c_size_t(ctypes.sizeof(how)))
        descriptor: int = _libc.syscall(ctypes.c_long(_SYS_OPENAT2), *arguments)
        if descriptor >= 0:
            return descriptor
        code = ctypes.get_errno()
        if code not in (errno.EAGAIN, errno.EINTR):
            break
    raise OSError(code, os.strerror(code), path)


def reopen(descriptor: int, flags: int) -> int:
    """A second descriptor of what an O_PATH one names, fit for reading or writing; raises OSError."""
    return os.open(f"/proc/self/fd/{descriptor}", flags | os.O_CLOEXEC)


def make_dirs_in(root: int, path: str, mode: int = 0o755, owner: tuple[int, int] | None = None) -> int:
    """`mkdir -p` inside the root, and a descriptor (O_PATH) of the directory; new ones get mode and owner. Raises OSError.

    A dangling symlink on the way is an error: what it names is not made.
    """
    with suppress(FileNotFoundError):
        return open_in(root, path, DIRECTORY)
    parts = PurePosixPath("/", path).parts[1:]
    made = os.open(".", DIRECTORY | os.O_CLOEXEC, dir_fd=root)
    for count, part in enumerate(parts, 1):
        try:
            child = _child(root, made, "/".join(parts[:count]), part, mode, owner)
        finally:
            os.close(made)
        made = child
    return made


def _child(root: int, parent: int, path: str, name: str, mode: int, owner: tuple[int, int] | None) -> int:
    try:
        os.mkdir(name, mode, dir_fd=parent)
    except FileExistsError:
        return open_in(root, path, DIRECTORY)
    made = os.open(name, DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    try:
        os.chmod(f"/proc/self/fd/{made}", mode)  # mkdir(2) has cut it by our umask
        if owner is not None:
            os.chown(f"/proc/self/fd/{made}", *owner)
    except BaseException:
        os.close(made)
        raise
    return made


@contextmanager
def opened(path: Path) -> Iterator[int]:
    """A directory to resolve in, as an O_PATH descriptor; raises OSError."""
    descriptor = os.open(path, DIRECTORY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
