"""`docker diff`: how a container's writable layer differs from what is below it; must not know how either is mounted.

Layers are in overlayfs's form (kernel's Documentation/filesystems/overlayfs.rst): a character device 0/0 hides what is below it,
and a directory with `trusted.overlay.opaque` what is below in the same place. The writable layer changes while its container runs:
it is walked by descriptors, so that no link leads out of it.
"""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from runtime.containers.container import Container

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_OPAQUE = "trusted.overlay.opaque"
_S = 1_000_000_000


class Kind(IntEnum):
    """By the API's numbers."""

    MODIFIED = 0
    ADDED = 1
    DELETED = 2


@dataclass(frozen=True, slots=True)
class Change:
    """One path that is not as the image has it."""

    kind: Kind
    path: str


@dataclass(frozen=True, slots=True)
class _Place:
    """A directory of the writable layer, and those below that it is merged with, topmost first."""

    path: str
    upper: int
    lowers: tuple[int, ...]
    names: list[str]
    """Still to be looked at."""

    def close(self) -> None:
        for descriptor in (self.upper, *self.lowers):
            os.close(descriptor)


async def changes(container: Container, lowers: Sequence[Path]) -> list[Change]:
    """What the container has changed over these layers (topmost first); raises OSError."""
    return await asyncio.to_thread(list_changes, container.upper, lowers)


def list_changes(upper: Path, lowers: Sequence[Path]) -> list[Change]:
    """In the order of paths, each change with its parents, as Docker lists them; blocking, raises OSError."""
    with ExitStack() as opened:
        descriptors = []
        for directory in (upper, *lowers):
            descriptors.append(os.open(directory, _DIRECTORY & ~os.O_NOFOLLOW))
            opened.callback(os.close, descriptors[-1])
        walk = _Walk()
        try:
            walk.begin("", os.dup(descriptors[0]), tuple(map(os.dup, descriptors[1:])), replaced=False)
            walk.run()
        finally:
            walk.close()
    return sorted(walk.found.values(), key=lambda change: change.path.split("/"))


class _Walk:
    def __init__(self) -> None:
        self.found: dict[str, Change] = {}
        self._places: list[_Place] = []

    def close(self) -> None:
        for place in self._places:
            place.close()

    def begin(self, path: str, upper: int, lowers: tuple[int, ...], *, replaced: bool) -> None:
        """Go into a directory; the descriptors are the walk's now. `replaced`: nothing of those below shines through."""
        names: list[str] = []
        self._places.append(_Place(path, upper, lowers, names))
        names.extend(os.listdir(upper))
        if replaced:
            for name in {name for lower in lowers for name in os.listdir(lower)}.difference(names):
                if _below(lowers, name) is not None:
                    self._tell(Kind.DELETED, f"{path}/{name}")

    def run(self) -> None:
        while self._places:
            place = self._places[-1]
            if not place.names:
                self._places.pop().close()
                continue
            with suppress(FileNotFoundError):
                self._look(place, place.names.pop())

    def _look(self, place: _Place, name: str) -> None:
        found = os.stat(name, dir_fd=place.upper, follow_symlinks=False)
        below = _below(place.lowers, name)
        path = f"{place.path}/{name}"
        if _is_whiteout(found):
            if below is not None:
                self._tell(Kind.DELETED, path)
        elif stat.S_ISDIR(found.st_mode):
            self._enter(place, name, found, below)
        elif below is None:
            self._tell(Kind.ADDED, path)
        elif _differ(found, below):
            self._tell(Kind.MODIFIED, path)

    def _enter(self, place: _Place, name: str, found: os.stat_result, below: os.stat_result | None) -> None:
        path = f"{place.path}/{name}"
        upper = os.open(name, _DIRECTORY, dir_fd=place.upper)
        replaced = _is_opaque(upper)
        if below is None:
            self._tell(Kind.ADDED, path)
        elif replaced or _differ(found, below):
            self._tell(Kind.MODIFIED, path)
        self.begin(path, upper, _merged(place.lowers, name), replaced=replaced)

    def _tell(self, kind: Kind, path: str) -> None:
        self.found[path] = Change(kind, path)
        while (path := path.rpartition("/")[0]) and path not in self.found:  # of what is there, the parents are
            self.found[path] = Change(Kind.MODIFIED, path)


def _below(lowers: Sequence[int], name: str) -> os.stat_result | None:
    """What these layers show by that name."""
    for lower in lowers:
        with suppress(FileNotFoundError):
            found = os.stat(name, dir_fd=lower, follow_symlinks=False)
            return None if _is_whiteout(found) else found
    return None


def _merged(lowers: Sequence[int], name: str) -> tuple[int, ...]:
    """The directories of that name that are merged; what is below a file, a whiteout or an opaque one is not seen."""
    found: list[int] = []
    for lower in lowers:
        try:
            found.append(os.open(name, _DIRECTORY, dir_fd=lower))
        except FileNotFoundError:
            continue
        except OSError:  # ENOTDIR, ELOOP: something else hides the rest
            break
        if _is_opaque(found[-1]):
            break
    return tuple(found)


def _is_whiteout(found: os.stat_result) -> bool:
    return stat.S_ISCHR(found.st_mode) and found.st_rdev == 0


def _is_opaque(directory: int) -> bool:
    try:
        return os.getxattr(directory, _OPAQUE) == b"y"
    except OSError:
        return False


def _differ(one: os.stat_result, other: os.stat_result) -> bool:
    """Opening a file for writing copies it up, unchanged: no change. A directory's size and time say no more than its entries."""
    if (one.st_mode, one.st_uid, one.st_gid, one.st_rdev) != (other.st_mode, other.st_uid, other.st_gid, other.st_rdev):
        return True
    if stat.S_ISDIR(one.st_mode):
        return False
    return one.st_size != other.st_size or not _same_time(one.st_mtime_ns, other.st_mtime_ns)


def _same_time(one: int, other: int) -> bool:
    """A time that came through an archive has whole seconds."""
    return one == other or ((one % _S == 0 or other % _S == 0) and one // _S == other // _S)
