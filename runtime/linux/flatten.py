"""Layers copied into one directory, for file systems on which overlayfs cannot have its upper one; must not know mounts.

What overlayfs would show, made by hand: from the lowest layer up, a character device 0/0 removes, an opaque directory removes what
is in it, and everything else replaces what is not a directory as well.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

_OVERLAY = "trusted.overlay."
_OPAQUE = "trusted.overlay.opaque"


def flatten(lowers: Sequence[Path], upper: Path) -> None:
    """Copy the layers, topmost first in the list, into the empty directory `upper`. Blocking; raises OSError."""
    for lower in reversed(lowers):
        _Copy().directory(os.path.realpath(lower), str(upper))


class _Copy:
    """One layer on its way into the copy of those below it."""

    def __init__(self) -> None:
        self._names: dict[tuple[int, int], str] = {}
        """Files with several names: where the first is now."""

    def directory(self, source: str, target: str) -> None:
        """What is in `source` over what is in `target`, and then its own attributes."""
        with suppress(OSError):
            if os.getxattr(source, _OPAQUE) == b"y":
                for name in os.listdir(target):
                    _remove(os.path.join(target, name))
        for name in os.listdir(source):
            self._one(os.path.join(source, name), os.path.join(target, name))
        _copy_attributes(source, target, os.stat(source))

    def _one(self, source: str, target: str) -> None:
        found = os.lstat(source)
        is_directory = stat.S_ISDIR(found.st_mode)
        if not (is_directory and os.path.isdir(target) and not os.path.islink(target)):
            _remove(target)
            if stat.S_ISCHR(found.st_mode) and found.st_rdev == 0:
                return None
            if is_directory:
                os.mkdir(target)
        if is_directory:
            return self.directory(source, target)
        first = self._names.setdefault((found.st_dev, found.st_ino), target)
        if first != target:
            return os.link(first, target, follow_symlinks=False)
        if stat.S_ISREG(found.st_mode):
            shutil.copyfile(source, target)
        elif stat.S_ISLNK(found.st_mode):
            os.symlink(os.readlink(source), target)
        else:
            os.mknod(target, found.st_mode, found.st_rdev)
        return _copy_attributes(source, target, found)


def _remove(path: str) -> None:
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    else:
        with suppress(FileNotFoundError):
            os.unlink(path)


def _copy_attributes(source: str, target: str, found: os.stat_result) -> None:
    os.chown(target, found.st_uid, found.st_gid, follow_symlinks=False)
    if not stat.S_ISLNK(found.st_mode):
        os.chmod(target, stat.S_IMODE(found.st_mode))
    for key in os.listxattr(source, follow_symlinks=False):
        if not key.startswith(_OVERLAY):
            with suppress(OSError):
                os.setxattr(target, key, os.getxattr(source, key, follow_symlinks=False), follow_symlinks=False)
    os.utime(target, ns=(found.st_atime_ns, found.st_mtime_ns), follow_symlinks=False)
