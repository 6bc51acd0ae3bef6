"""A container's files as a process of it would see them, for work that is done from outside; must not know what work.

A running container has its own mount namespace: /proc/PID/root leads into it, with every volume and tmpfs. For one that does not
run, the root file system is mounted, and its volumes and binds over that, in a mount namespace that lasts as long as the work's
thread. Either way the work gets a descriptor of the root, and resolves every path from it with openat2(2) (`runtime.linux.inroot`).
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from flanneld.linux.netns import Clone, Mount, mount, unshare
from runtime.containers.bundle import etc_files
from runtime.containers.record import MountPoint, Record
from runtime.errors import Conflict
from runtime.linux.inroot import DIRECTORY, make_dirs_in, open_in, opened
from runtime.linux.mountinfo import Mounted, mounts_of

if TYPE_CHECKING:
    from runtime.containers.container import Container

T = TypeVar("T")
_READ_ONLY_BIND = Mount(1 | 1 << 5 | 1 << 12)  # MS_RDONLY, MS_REMOUNT, MS_BIND: linux/mount.h
ENDED = "the container has ended meanwhile"
_HELD = frozenset({"bind", "volume"})
"""Mounts that have something to show while the container does not run."""


@dataclass(frozen=True, slots=True)
class Over:
    """Something of the host's at a path of the container's."""

    source: Path
    target: str
    writable: bool = True


@dataclass(frozen=True, slots=True)
class View:
    """Where a container's root is, and what has to be mounted over it."""

    root: Path
    over: tuple[Over, ...] = ()
    read_only: bool = False
    """The root, not what is mounted over it. A running container's own mounts know that themselves."""
    foreign: frozenset[int] = frozenset()
    """Devices (st_dev) of what the runtime mounts into every container, such as /proc: not the container's files."""

    def enter(self, work: Callable[[int], T]) -> T:
        """Call with the root's descriptor (O_PATH); raises Conflict (the container has ended), OSError and what the work does.

        Must run in a thread of its own that ends afterwards: its mount namespace and umask are not the process's any more.
        """
        unshare(Clone.FS)
        os.umask(0)
        if self.over or self.read_only:
            self._furnish()
        try:
            root = os.open(self.root, DIRECTORY | os.O_CLOEXEC)
        except (FileNotFoundError, ProcessLookupError) as error:
            raise Conflict(ENDED) from error
        try:
            return work(root)
        finally:
            os.close(root)

    def _furnish(self) -> None:
        unshare(Clone.NEWNS)
        mount("none", "/", flags=Mount.REC | Mount.PRIVATE)
        with opened(self.root) as root:
            for over in self.over:
                os.close(_make_target(root, over))
        if self.read_only:
            mount(self.root, self.root, flags=Mount.BIND)
            mount("none", self.root, flags=_READ_ONLY_BIND)
        with opened(self.root) as root:
            for over in self.over:
                _lay(root, over)


@asynccontextmanager
async def view_of(container: Container) -> AsyncIterator[View]:
    """How to get at its files while the context lasts; raises Conflict, EngineError, OSError."""
    pid = container.record.life.pid
    if pid:
        try:
            foreign = foreign_devices(mounts_of(pid), container.record.mounts)
        except OSError as error:
            raise Conflict(ENDED) from error
        yield View(Path(f"/proc/{pid}/root"), foreign=foreign)
        return
    async with container.mounted() as root:
        yield View(root, _over(container.record, container.directory), container.record.host.readonly_rootfs)


def foreign_devices(mounted: tuple[Mounted, ...], points: tuple[MountPoint, ...]) -> frozenset[int]:
    """What is mounted that neither is the root nor was asked for."""
    asked = tuple(point.target for point in points)
    own = {found.device for found in mounted if found.target == "/" or any(_is_below(found.target, target) for target in asked)}
    return frozenset(found.device for found in mounted) - own


def _is_below(path: str, parent: str) -> bool:
    return path == parent or path.startswith(parent.rstrip("/") + "/")


def _over(record: Record, directory: Path) -> tuple[Over, ...]:
    """Outer ones first."""
    points = {
        point.target: Over(Path(point.source), point.target, point.writable) for point in record.mounts if point.type in _HELD
    }
    files = {target: Over(source, target) for target, source in etc_files(directory).items()}
    found = {**files, **points}
    return tuple(found[target] for target in sorted(found) if found[target].source.exists())


def _make_target(root: int, over: Over) -> int:
    """A descriptor of where it goes, made when it is missing."""
    if over.source.is_dir():
        return make_dirs_in(root, over.target)
    parent, _, name = over.target.rpartition("/")
    try:
        return open_in(root, over.target, os.O_PATH)
    except FileNotFoundError:
        within = make_dirs_in(root, parent)
    try:
        return os.open(name, os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644, dir_fd=within)
    finally:
        os.close(within)


def _lay(root: int, over: Over) -> None:
    below = open_in(root, over.target, os.O_PATH)
    try:
        mount(over.source, f"/proc/self/fd/{below}", flags=Mount.BIND | Mount.REC)
    finally:
        os.close(below)
    if not over.writable:
        top = open_in(root, over.target, DIRECTORY if over.source.is_dir() else os.O_PATH)
        try:
            mount("none", f"/proc/self/fd/{top}", flags=_READ_ONLY_BIND)
        finally:
            os.close(top)
