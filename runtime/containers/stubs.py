"""The places that something is mounted at, made in a layer below the container's: not its doing, and in no diff or commit.

Docker has the same layer, between image and container. Must not know what is mounted there.
"""

from __future__ import annotations

import os
import posixpath
import stat
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from runtime.containers.record import Record
from runtime.linux.inroot import make_dirs_in, opened

_DIRECTORIES = ("/dev/pts", "/dev/shm", "/proc", "/sys")  # noqa: S108 - mount points of containers
_FILES = ("/.dockerenv", "/etc/hosts", "/etc/hostname", "/etc/resolv.conf", "/dev/console")
_MTAB = ("/etc/mtab", "/proc/mounts")
"""A link that old programs look for."""
_INIT = "/sbin/docker-init"
_KERNELS = ("/dev/", "/proc/", "/sys/")
"""What is below is not the image's."""


def make_stubs(root: Path, record: Record) -> None:
    """Make what the mounted image lacks; a place that cannot be made is left to the runtime, which says why. Raises OSError."""
    with opened(root) as inside:
        for path in (*_DIRECTORIES, *(target for target, is_file in _targets(record) if not is_file)):
            with suppress(OSError):
                os.close(make_dirs_in(inside, path))
        for path in (*_FILES, *(target for target, is_file in _targets(record) if is_file)):
            with suppress(OSError):
                _make_file(inside, path)
        with suppress(OSError):
            _make_link(inside, *_MTAB)


def _targets(record: Record) -> Iterable[tuple[str, bool]]:
    """Where the container's own mounts are, and whether a file is mounted there."""
    if record.host.init:
        yield _INIT, True
    tmpfs = (posixpath.normpath(target) for target in record.host.tmpfs)
    for target, source in (*((point.target, point.source) for point in record.mounts), *((target, "") for target in tmpfs)):
        if not target.startswith(_KERNELS):
            yield target, bool(source) and _is_file(source)


def _is_file(source: str) -> bool:
    try:
        return not stat.S_ISDIR(os.stat(source).st_mode)
    except OSError:
        return False


def _make_file(root: int, path: str) -> None:
    directory = make_dirs_in(root, posixpath.dirname(path))
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        os.close(os.open(posixpath.basename(path), flags, 0o755, dir_fd=directory))
    finally:
        os.close(directory)


def _make_link(root: int, path: str, target: str) -> None:
    directory = make_dirs_in(root, posixpath.dirname(path))
    try:
        os.symlink(target, posixpath.basename(path), dir_fd=directory)
    finally:
        os.close(directory)
