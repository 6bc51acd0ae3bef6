"""COPY and ADD: files of the context, of another stage or of the network become a layer; must not know Dockerfiles nor images.

The target is written as the mounted image's own root would have it, links inside followed and never out of it (`linux/inroot.py`).
"""

from __future__ import annotations

import asyncio
import os
import posixpath
import stat
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from flanneld.linux.netns import unmount
from runtime.build.archives import open_archive, unpack_archive
from runtime.build.context import CONTEXT
from runtime.build.fetching import fetch
from runtime.build.ignore import Ignored
from runtime.build.sources import Source, Tree, checksum, find
from runtime.build.transfer import Marks, copy_file, copy_tree
from runtime.containers.users import find_user
from runtime.errors import EngineError, InvalidParameter
from runtime.linux.inroot import DIRECTORY, make_dirs_in, open_in, opened
from runtime.linux.overlay import mount_overlay

if TYPE_CHECKING:
    from runtime.images.layers import Committed, Layers

UPPER, WORK, ROOT = "upper", "work", "root"
URLS = ("http://", "https://")


@dataclass(frozen=True, slots=True)
class Copy:
    """One COPY or ADD, variables replaced."""

    add: bool
    """ADD: unpacks archives, fetches URLs."""
    sources: tuple[str, ...]
    target: str
    workdir: str
    owner: str = ""
    """--chown."""
    mode: str = ""
    """--chmod."""
    from_layer: str | None = None
    """--from: chain id of what it names; None: the context."""
    texts: tuple[tuple[str, str], ...] = ()
    """Here-documents: name, content; in `sources` as <<NAME."""

    @property
    def name(self) -> str:
        return "ADD" if self.add else "COPY"

    @property
    def path(self) -> str:
        """The target from the root, with its slash at the end if it has one."""
        ends = self.target.endswith(("/", "/.")) or self.target == "."
        return posixpath.normpath(posixpath.join("/", self.workdir, self.target)).rstrip("/") + ("/" if ends else "")


class Copying:
    """What the COPYs of one build share: its context, and where layers are made."""

    def __init__(self, layers: Layers, directory: Path, ignored: Ignored) -> None:
        """`directory`: the build's own; its `context` is there, and what is made meanwhile."""
        self._layers = layers
        self._temporary = directory
        self._context = directory / CONTEXT
        self._ignored = ignored

    async def directory(self, path: str, layer: str) -> Committed | None:
        """A layer with that directory; None: the image has it."""

        return await asyncio.to_thread(self.commit, layer, lambda root: os.close(make_dirs_in(root, path)))

    @asynccontextmanager
    async def prepared(self, copy: Copy) -> AsyncIterator[Prepared]:
        """The sources found and summed, while they are held; raises InvalidParameter naming the instruction."""
        stack = ExitStack()
        try:
            yield await asyncio.to_thread(self._prepare, copy, stack)
        finally:
            await asyncio.to_thread(stack.close)

    def _prepare(self, copy: Copy, stack: ExitStack) -> Prepared:
        try:
            sources = list(self._sources(copy, stack))
        except EngineError as error:
            raise InvalidParameter(f"{copy.name} failed: {error}") from error
        if len(sources) > 1 and not copy.path.endswith("/"):
            more = f"When using {copy.name} with more than one source file, the destination must be a directory and end with a /"
            raise InvalidParameter(more)
        return Prepared(copy, sources, self)

    def _sources(self, copy: Copy, stack: ExitStack) -> Iterator[Source]:
        texts = dict(copy.texts)
        plain = [source for source in copy.sources if not source.startswith("<<")]
        urls = [source for source in plain if copy.add and source.startswith(URLS)]
        if texts or urls:
            made = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=self._temporary)))
            for name, content in texts.items():
                (made / posixpath.basename(name)).write_text(content)
            own = Tree(stack.enter_context(opened(made)))
            yield from (Source(own, posixpath.basename(name), False) for name in texts)
            yield from (Source(own, fetch(url, made), False) for url in urls)
        if files := [source for source in plain if source not in urls]:
            tree = self._tree(copy, stack)
            for pattern in files:
                yield from find(tree, pattern)

    def _tree(self, copy: Copy, stack: ExitStack) -> Tree:
        if copy.from_layer is None:
            return Tree(stack.enter_context(opened(self._context)), self._ignored)
        return Tree(stack.enter_context(self._mounted(stack.enter_context(self._scratch()), copy.from_layer)))

    def commit(self, layer: str, write: Callable[[int], None]) -> Committed | None:
        """The layer that `write` makes upon that one, given the root's descriptor; None: it has changed nothing. Blocks."""
        with self._scratch() as scratch:
            with self._mounted(scratch, layer) as root:
                write(root)
            upper = scratch / UPPER
            return self._layers.commit(upper, layer, move=True) if os.listdir(upper) else None

    @contextmanager
    def _scratch(self) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(dir=self._temporary, prefix="build-") as scratch:
            yield Path(scratch)

    @contextmanager
    def _mounted(self, scratch: Path, layer: str) -> Iterator[int]:
        """The layer and those below as a root that may be written: its descriptor. What is written goes to `scratch`."""
        for name in (UPPER, WORK, ROOT):
            (scratch / name).mkdir(mode=0o755)
        lowers = self._layers.lower_dirs(layer) if layer else ()
        mount_overlay(lowers, scratch / UPPER, scratch / WORK, scratch / ROOT, volatile=True)
        try:
            with opened(scratch / ROOT) as root:
                yield root
        finally:
            unmount(scratch / ROOT)


class Prepared:
    """Sources that are there, and what to do with them."""

    def __init__(self, copy: Copy, sources: Sequence[Source], copying: Copying) -> None:
        self._copy = copy
        self._sources = sources
        self._copying = copying
        kind = "multi" if len(sources) > 1 else "dir" if sources[0].is_directory else "file"
        self.described = f"{kind}:{checksum(sources)} in {copy.path}"
        """What history says, and the cache goes by."""

    async def copy(self, layer: str) -> Committed | None:
        """The layer that it makes, upon that one; raises InvalidParameter."""
        return await asyncio.to_thread(self._copying.commit, layer, self._write)

    def _write(self, root: int) -> None:
        copy = self._copy
        try:
            marks = marks_for(copy, root)
            for source in self._sources:
                _write(copy, source, root, marks)
        except OSError as error:
            where = f" {error.filename}" if error.filename else ""
            raise InvalidParameter(f"{copy.name} failed: {(error.strerror or str(error)).lower()}{where}") from error


def _write(copy: Copy, source: Source, root: int, marks: Marks) -> None:
    if source.is_directory:
        with held(make_dirs_in(root, copy.path, owner=(marks.uid, marks.gid))) as directory:
            copy_tree(source, directory, marks)
    elif copy.add and (archive := open_archive(source)) is not None:
        with archive, held(make_dirs_in(root, copy.path)) as directory:
            unpack_archive(archive, directory)
    else:
        parent, name = _place(copy, source, root)
        with held(make_dirs_in(root, parent, owner=(marks.uid, marks.gid))) as directory:
            copy_file(source, directory, name, marks)


def _place(copy: Copy, source: Source, root: int) -> tuple[str, str]:
    """The directory and the name that one file goes to: into a directory that is there or meant, else under the target's name."""
    if copy.path.endswith("/") or _is_directory(root, copy.path):
        return copy.path, posixpath.basename(source.path)
    return posixpath.split(_link_followed(root, copy.path))


def _is_directory(root: int, path: str) -> bool:
    try:
        os.close(open_in(root, path, DIRECTORY))
    except OSError:
        return False
    return True


def _link_followed(root: int, path: str) -> str:
    """Where a link that stands at the target leads, one step: what is copied to it goes there."""
    try:
        with held(open_in(root, path, os.O_PATH | os.O_NOFOLLOW)) as found:
            if stat.S_ISLNK(os.fstat(found).st_mode):
                return posixpath.normpath(posixpath.join(posixpath.dirname(path), os.readlink("", dir_fd=found)))
    except FileNotFoundError:
        pass
    return path


@contextmanager
def held(descriptor: int) -> Iterator[int]:
    """A descriptor, closed at the end."""
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def marks_for(copy: Copy, root: int) -> Marks:
    """What --chown and --chmod ask for; names are those of the image being built. Raises InvalidParameter."""
    uid = gid = 0
    if copy.owner:
        owner = copy.owner if ":" in copy.owner else f"{copy.owner}:{copy.owner}"
        user = find_user(Path(f"/proc/self/fd/{root}"), owner)
        uid, gid = user.uid, user.gid
    if copy.mode and (not copy.mode.isdecimal() or set(copy.mode) & set("89") or int(copy.mode, 8) > 0o7777):
        raise InvalidParameter(f"{copy.name} failed: invalid --chmod {copy.mode!r}, expected an octal number")
    return Marks(uid, gid, int(copy.mode, 8) if copy.mode else None)
