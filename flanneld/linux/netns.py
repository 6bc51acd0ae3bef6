"""Namespaces kept by files, and work done inside them: namespaces(7), mount_namespaces(7); must not know what they are for.

Only threads change namespace here, never the process: a thread enters, works, and ends. What it opened (sockets, files, child
processes) stays where it was opened.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from enum import IntFlag
from pathlib import Path
from typing import ParamSpec, TypeAlias, TypeVar

from flanneld.linux.netlink import Netlink

P = ParamSpec("P")
T = TypeVar("T")
Where: TypeAlias = str | Path | int
"""A namespace: the path of its file, or an open descriptor of one, which stays open."""


class Clone(IntFlag):
    """Kinds of namespace, and what else threads share (linux/sched.h)."""

    FS = 0x0000_0200  # root, working directory, umask
    NEWNS = 0x0002_0000
    NEWUTS = 0x0400_0000
    NEWNET = 0x4000_0000


class Mount(IntFlag):
    """Flags of mount(2) (linux/mount.h)."""

    NONE = 0
    BIND = 1 << 12
    MOVE = 1 << 13
    REC = 1 << 14
    PRIVATE = 1 << 18


_NS_GET_NSTYPE = 0xB703  # linux/nsfs.h
_MNT_DETACH = 2  # of umount2(2)
_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, where: object) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), str(where))


def unshare(kinds: Clone) -> None:
    """Give this thread new namespaces of these kinds; raises OSError."""
    _check(_libc.unshare(int(kinds)), kinds)


def setns(where: Where) -> None:
    """Move this thread into a namespace of any kind; raises OSError (EINVAL: not a namespace).

    A mount namespace wants a thread that has unshared Clone.FS, and resets its root and working directory.
    """
    if isinstance(where, int):
        _check(_libc.setns(where, 0), where)
        return
    descriptor = os.open(where, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _check(_libc.setns(descriptor, 0), where)
    finally:
        os.close(descriptor)


def is_network_namespace(descriptor: int) -> bool:
    """Whether an open file is one (ioctl_nsfs(2))."""
    try:
        return fcntl.ioctl(descriptor, _NS_GET_NSTYPE) == Clone.NEWNET
    except OSError:
        return False


def mount(source: str | Path, target: str | Path, kind: str = "", flags: Mount = Mount.NONE, options: str = "") -> None:
    """mount(2); raises OSError naming the target."""
    texts = (os.fsencode(source), os.fsencode(target), kind.encode())
    _check(_libc.mount(*texts, ctypes.c_ulong(flags), options.encode()), target)


def unmount(target: str | Path) -> None:
    """Take off everything mounted at `target`, busy or not; nothing happens when nothing is, or there is no such file."""
    while _libc.umount2(os.fsencode(target), _MNT_DETACH) == 0:
        pass
    if ctypes.get_errno() not in (errno.EINVAL, errno.ENOENT):
        _check(-1, target)


def in_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call in a thread of its own, which is free to change its namespaces; returns and raises what the function does."""
    with ThreadPoolExecutor(max_workers=1) as thread:
        return thread.submit(function, *args, **kwargs).result()


def run_in(where: Where, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call inside a namespace, in a thread of its own; returns and raises what the function does."""

    def entered() -> T:
        setns(where)
        return function(*args, **kwargs)

    return in_thread(entered)


def netlink_in(where: Where) -> Netlink:
    """A netlink socket of that network namespace, which it keeps alive until it is closed."""
    return run_in(where, Netlink)


def create(path: str | Path) -> None:
    """Make a network namespace that the new file `path` keeps alive, as `ip netns add` does; raises FileExistsError, OSError."""
    os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o444))
    try:
        in_thread(_keep_new, path)
    except BaseException:
        os.unlink(path)
        raise


def _keep_new(path: str | Path) -> None:
    unshare(Clone.NEWNET)
    mount("/proc/thread-self/ns/net", path, flags=Mount.BIND)


def delete(path: str | Path) -> None:
    """Stop keeping the namespace; it ends with the last process and socket inside. Nothing happens when there is none."""
    unmount(path)
    Path(path).unlink(missing_ok=True)
