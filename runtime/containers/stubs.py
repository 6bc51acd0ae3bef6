"""The places that something is mounted at, made in a layer below the container's: not its doing, and in no diff or commit.

Docker has the same layer, between image and container. Must not know what is mounted there.
"""

from __future__ import annotations

import os
import posixpath
import re
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
_TMPFS_MODE = 0o1777
_OCTAL = re.compile(r"[0-7]{1,4}")
_KERNELS = ("/dev/", "/proc/", "/sys/")
"""What is below is not the image's."""


def make_stubs(root: Path, record: Record) -> None:
    """Make what the mounted image lacks; a place that cannot be made is left to the runtime, which says why. Raises OSError."""
    with opened(root) as inside:
        for path in (*_DIRECTORIES, *(target for target, is_file in _targets(record) if not is_file)):
            with suppress(OSError):
                os.close(make_dirs_in(inside, path))
        for path, mode in _tmpfs(record):
            with suppress(OSError):
                os.close(make_dirs_in(inside, posixpath.dirname(path)))
                os.close(make_dirs_in(inside, path, mode))
        for path in (*_FILES, *(target for target, is_file in _targets(record) if is_file)):
            with suppress(OSError):
                _make_file(inside, path)
        with suppress(OSError):
            _make_link(inside, *_MTAB)


def _targets(record: Record) -> Iterable[tuple[str, bool]]:
    """Where the container's own mounts are, and whether a file is mounted there."""
    if record.host.init:
        yield _INIT, True
    for point in record.mounts:
        if point.type != "tmpfs" and not point.target.startswith(_KERNELS):
            yield point.target, bool(point.source) and _is_file(point.source)


def _tmpfs(record: Record) -> Iterable[tuple[str, int]]:
    """Where they are, and the modes they are to have: runc gives a tmpfs the mode of the directory that it covers."""
    asked = [(posixpath.normpath(target), options) for target, options in record.host.tmpfs.items()]
    asked += [(point.target, ",".join(point.options)) for point in record.mounts if point.type == "tmpfs"]
    for target, options in asked:
        if not target.startswith(_KERNELS):
            given = [option.removeprefix("mode=") for option in options.split(",") if option.startswith("mode=")]
            yield target, int(given[-1], 8) if given and _OCTAL.fullmatch(given[-1]) else _TMPFS_MODE


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
