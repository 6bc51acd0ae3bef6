"""Directory trees that nobody trusts, removed and measured however deep they are, and nothing outside of them touched.

Root in a container makes directories within directories for as long as it likes, beyond the longest path and any stack. Must not
know whose the trees are.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from pathlib import Path

_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class _Place:
    """The one directory that is open while a tree is walked."""

    def __init__(self, path: Path) -> None:
        self.descriptor = os.open(path, _FLAGS)

    def move(self, name: str) -> None:
        """Into a directory of this one, or out of it; links are not followed. Raises OSError."""
        there = os.open(name, _FLAGS | os.O_NOFOLLOW, dir_fd=self.descriptor)
        os.close(self.descriptor)
        self.descriptor = there

    def close(self) -> None:
        os.close(self.descriptor)


def remove_tree(path: Path) -> None:
    """Remove a directory and all that is in it, or a file; nothing happens when it is not there. Blocking.

    Nobody else may move what is in it meanwhile. Raises OSError, with EBUSY when something is mounted in it, which is not removed.
    """
    with suppress(FileNotFoundError):
        top = path.lstat()
        if not stat.S_ISDIR(top.st_mode):
            path.unlink()
            return
        place = _Place(path.parent)
        try:
            _remove(place, path.name, top.st_dev)
        finally:
            place.close()


def _remove(place: _Place, name: str, device: int) -> None:
    entered: list[str] = []
    waiting = [[name]]
    """Directories still to be removed, of each level down to where we are."""
    while waiting:
        if waiting[-1]:
            entered.append(waiting[-1].pop())
            place.move(entered[-1])
            if os.fstat(place.descriptor).st_dev != device:
                raise OSError(errno.EBUSY, "something is mounted there", entered[-1])
            waiting.append(_emptied(place.descriptor))
            continue
        waiting.pop()
        if entered:
            place.move("..")
            os.rmdir(entered.pop(), dir_fd=place.descriptor)


def _emptied(directory: int) -> list[str]:
    """Remove all that is no directory; returns the names of those that are."""
    with os.scandir(directory) as entries:
        found = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
    for name, is_directory in found:
        if not is_directory:
            os.unlink(name, dir_fd=directory)
    return [name for name, is_directory in found if is_directory]


def discard_tree(path: Path) -> None:
    """The same for what is in nobody's way: what cannot be removed stays."""
    with suppress(OSError):
        remove_tree(path)


def size_of(path: Path) -> int:
    """Bytes of the files below, hard links counted once. Blocking.

    What vanishes meanwhile, and what is deeper than a path can say, does not count.
    """
    seen: set[tuple[int, int]] = set()
    total = 0
    waiting = [str(path)]
    while waiting:
        with suppress(OSError), os.scandir(waiting.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)
                    continue
                with suppress(OSError):
                    status = entry.stat(follow_symlinks=False)
                    total += 0 if (status.st_dev, status.st_ino) in seen else status.st_size
                    seen.add((status.st_dev, status.st_ino))
    return total
