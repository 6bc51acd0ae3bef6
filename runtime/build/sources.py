"""What COPY and ADD name: files of a context or of another image found by patterns, and the checksum that the cache knows them by;
must not know where they go.
"""

from __future__ import annotations

import hashlib
import os
import posixpath
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from runtime.build.ignore import Ignored, compile_pattern
from runtime.errors import InvalidParameter
from runtime.linux.inroot import open_in, reopen

_WILD = frozenset("*?[")
_BLOCK = 1 << 20
CAPABILITY = "security.capability"
"""The one extended attribute that decides what a program may do."""


@dataclass(frozen=True, slots=True)
class Tree:
    """Where sources are looked for: nothing outside of it is ever found."""

    root: int
    """Descriptor of its directory."""
    ignored: Ignored | None = None

    def hides(self, path: str) -> bool:
        return self.ignored is not None and path in self.ignored


@dataclass(frozen=True, slots=True)
class Source:
    """One file or directory to copy, links on the way to it followed."""

    tree: Tree
    path: str
    """Relative to the tree; "": all of it."""
    is_directory: bool


def find(tree: Tree, pattern: str) -> list[Source]:
    """What a source of COPY means; raises InvalidParameter when it means nothing."""
    cleaned = posixpath.normpath("/" + pattern).lstrip("/")
    if not _WILD & set(cleaned):
        return [_source(tree, cleaned, pattern)]
    matches = compile_pattern(cleaned, f"illegal pattern {pattern!r}").fullmatch
    found = [_source(tree, path, pattern) for path in sorted(paths(tree)) if matches(path)]
    if not found:
        raise InvalidParameter("no source files were specified")
    return found


def _source(tree: Tree, path: str, pattern: str) -> Source:
    missing = f"file not found in build context or excluded by .dockerignore: stat {pattern}: file does not exist"
    if path and tree.hides(path) and not any(tree.ignored is not None and one not in tree.ignored for one in _below(tree, path)):
        raise InvalidParameter(missing)
    try:
        descriptor = open_in(tree.root, path, os.O_PATH)
    except OSError as error:
        raise InvalidParameter(missing) from error
    try:
        return Source(tree, path, stat.S_ISDIR(os.fstat(descriptor).st_mode))
    finally:
        os.close(descriptor)


def _below(tree: Tree, path: str) -> Iterator[str]:
    return (one for one in paths(tree) if one.startswith(path + "/"))


def paths(tree: Tree) -> Iterator[str]:
    """Every path of a tree but the hidden ones, a directory before what is in it."""
    yield from _walk(tree, "")


def _walk(tree: Tree, directory: str) -> Iterator[str]:
    descriptor = open_in(tree.root, directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with os.scandir(descriptor) as entries:
            names = sorted((entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries)
    finally:
        os.close(descriptor)
    for name, is_directory in names:
        path = posixpath.join(directory, name)
        if not tree.hides(path):
            yield path
        if is_directory:
            yield from _walk(tree, path)


def checksum(sources: Iterable[Source]) -> str:
    """A digest of names, kinds, modes, owners and contents of all that would be copied; times do not count."""
    total = hashlib.sha256()
    for source in sources:
        total.update(f"{posixpath.basename(source.path)}\0{source.is_directory}\n".encode())
        if not source.is_directory:
            total.update(_of_file(source.tree, source.path, follow=True))
            continue
        below = (path for path in paths(source.tree) if not source.path or path.startswith(source.path + "/"))
        for path in below:
            total.update(path.removeprefix(source.path).encode(errors="surrogateescape") + _of_file(source.tree, path))
    return total.hexdigest()


def _of_file(tree: Tree, path: str, *, follow: bool = False) -> bytes:
    descriptor = open_in(tree.root, path, os.O_PATH if follow else os.O_PATH | os.O_NOFOLLOW)
    try:
        found = os.fstat(descriptor)
        digest = hashlib.sha256(f"{found.st_mode} {found.st_uid} {found.st_gid} {found.st_rdev}\n".encode())
        if stat.S_ISLNK(found.st_mode):
            digest.update(os.fsencode(os.readlink("", dir_fd=descriptor)))
        elif stat.S_ISREG(found.st_mode):
            with open(reopen(descriptor, os.O_RDONLY), "rb") as file:
                while block := file.read(_BLOCK):
                    digest.update(block)
        return digest.digest()
    finally:
        os.close(descriptor)
