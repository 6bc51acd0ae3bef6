"""What is at a path of a container: what `docker cp` asks before it copies; must not know how the answer is sent."""

from __future__ import annotations

import os
import posixpath
import stat
from contextlib import suppress
from dataclasses import dataclass

from runtime import clock
from runtime.errors import InvalidParameter
from runtime.linux.inroot import open_in

_MAX_LINKS = 255
_GO_TYPES = {
    stat.S_IFDIR: 1 << 31,
    stat.S_IFLNK: 1 << 27,
    stat.S_IFBLK: 1 << 26,
    stat.S_IFCHR: 1 << 26 | 1 << 21,
    stat.S_IFIFO: 1 << 25,
    stat.S_IFSOCK: 1 << 24,
}
_GO_BITS = {stat.S_ISUID: 1 << 23, stat.S_ISGID: 1 << 22, stat.S_ISVTX: 1 << 20}


@dataclass(frozen=True, slots=True)
class PathStat:
    """A file as the Engine API describes it; a symbolic link itself, not what it points to."""

    name: str
    size: int
    mode: int
    """Go's os.FileMode."""
    mtime: str
    link_target: str = ""
    """Of a link: the path at the end of all links, as far as it exists."""

    @property
    def is_directory(self) -> bool:
        return bool(self.mode & _GO_TYPES[stat.S_IFDIR])


def clean_path(path: str) -> str:
    """Absolute, without "..", but with the slash or dot at its end, which asks for a directory; raises InvalidParameter."""
    if not path or "\0" in path:
        raise InvalidParameter(f"bad parameter: invalid path {path!r}")
    clean = "/" + posixpath.normpath("/" + path).lstrip("/")
    last = path.rpartition("/")[2]
    if last == ".":
        return clean.rstrip("/") + "/."
    return clean if last or clean == "/" else clean + "/"


def base_name(path: str) -> str:
    """The last component of a clean path; "/" of the root."""
    return path.rstrip("/").rpartition("/")[2] or "/"


def stat_in(root: int, path: str) -> PathStat:
    """What is at a clean path below the root's descriptor; raises OSError, InvalidParameter (links in a circle)."""
    descriptor = open_in(root, path, os.O_PATH | os.O_NOFOLLOW)
    try:
        found = os.fstat(descriptor)
    finally:
        os.close(descriptor)
    target = _end_of_links(root, path) if stat.S_ISLNK(found.st_mode) else ""
    return PathStat(base_name(path), found.st_size, go_mode(found.st_mode), clock.text_of(found.st_mtime_ns), target)


def go_mode(mode: int) -> int:
    """A mode of stat(2) in Go's bits."""
    bits = sum(theirs for ours, theirs in _GO_BITS.items() if mode & ours)
    return mode & 0o777 | bits | _GO_TYPES.get(stat.S_IFMT(mode), 0)


def _end_of_links(root: int, path: str) -> str:
    """A text for the client, who asks again with it: nothing is opened by it."""
    done, todo, links = "/", path.split("/"), 0
    while todo:
        part = todo.pop(0)
        if part in ("", "."):
            continue
        if part == "..":
            done = posixpath.dirname(done)
            continue
        place = posixpath.join(done, part)
        link = _link_at(root, place)
        if link is None:
            done = place
            continue
        links += 1
        if links > _MAX_LINKS:
            raise InvalidParameter(f"too many links in {path}")
        todo = link.split("/") + todo
        done = "/" if link.startswith("/") else done
    return done


def _link_at(root: int, path: str) -> str | None:
    with suppress(OSError):
        descriptor = open_in(root, path, os.O_PATH | os.O_NOFOLLOW)
        try:
            return os.readlink("", dir_fd=descriptor)
        finally:
            os.close(descriptor)
    return None
