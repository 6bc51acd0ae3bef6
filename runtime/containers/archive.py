"""`docker cp`: files of a container, running or not, out as a tar and in again; must not know how the bytes travel.

With the text of Docker's errors, by which the CLI decides what the user has meant.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import aclosing, contextmanager
from typing import TYPE_CHECKING, BinaryIO

from runtime.containers.path_stat import PathStat, base_name, clean_path, stat_in
from runtime.containers.tar_in import Extraction, unpack
from runtime.containers.tar_out import TarOut
from runtime.containers.users import find_user
from runtime.containers.view import View, view_of
from runtime.errors import EngineError, InvalidParameter, NotFound
from runtime.linux.inroot import open_in
from runtime.piped import from_thread, in_own_thread, into_thread

if TYPE_CHECKING:
    from runtime.containers.container import Container
    from runtime.containers.record import Record

__all__ = ["Extraction", "PathStat", "get_archive", "put_archive", "stat_path"]

_CLIENTS_FAULT = (
    errno.ENOTDIR,
    errno.ELOOP,
    errno.ENAMETOOLONG,
    errno.EEXIST,
    errno.EISDIR,
    errno.EXDEV,
    errno.ENOENT,
    errno.EINVAL,
)


async def stat_path(container: Container, path: str) -> PathStat:
    """What is at the path; raises NotFound, InvalidParameter, EngineError."""
    clean = clean_path(path)
    async with view_of(container) as view:
        with _told(container, path):
            return await in_own_thread(lambda: view.enter(lambda root: stat_in(root, clean)))


async def get_archive(container: Container, path: str) -> tuple[PathStat, AsyncGenerator[bytes, None]]:
    """What is at the path, and a tar of it, whose entries begin with the path's last component; raises as `stat_path` does.

    The archive is to be read or closed.
    """
    found: list[PathStat] = []
    chunks = _archive(container, path, found.append)
    await anext(chunks)  # nothing yet; but from here on the generator's end gives back what it holds, even when nobody reads it
    return found[0], chunks


async def put_archive(container: Container, path: str, stream: AsyncIterator[bytes], how: Extraction) -> None:
    """Unpack a tar, compressed or not, into the directory at the path.

    Raises NotFound, InvalidParameter (no directory, read-only, no archive), EngineError. What was unpacked until then stays.
    """
    clean = clean_path(path)
    async with view_of(container) as view:
        owner = await in_own_thread(lambda: _owner(view, container.record)) if how.copy_uid_gid else None

        def place(root: int, source: BinaryIO) -> None:
            with _told(container, path):
                destination = _writable_directory(root, clean, container.record)
            with _placed(container, clean):
                unpack(root, destination, source, how, owner)

        await into_thread(stream, lambda source: view.enter(lambda root: place(root, source)))


async def _archive(container: Container, path: str, tell: Callable[[PathStat], None]) -> AsyncGenerator[bytes, None]:
    clean = clean_path(path)
    async with view_of(container) as view:
        with _told(container, path):
            tell(await in_own_thread(lambda: view.enter(lambda root: stat_in(root, clean))))
        yield b""

        def write(root: int, out: BinaryIO) -> None:
            with _told(container, path):
                descriptor = open_in(root, clean, os.O_PATH | os.O_NOFOLLOW)
                archive = TarOut(out, view.foreign)
                archive.add(descriptor, base_name(clean))
                archive.end()

        async with aclosing(from_thread(lambda out: view.enter(lambda root: write(root, out)))) as chunks:
            async for chunk in chunks:
                yield chunk


def _writable_directory(root: int, clean: str, record: Record) -> str:
    """The path without what it may have at its end; raises InvalidParameter, OSError."""
    descriptor = open_in(root, clean, os.O_PATH)
    try:
        if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise InvalidParameter("extraction point is not a directory")
        if os.fstatvfs(descriptor).f_flag & os.ST_RDONLY:
            raise InvalidParameter(_read_only(clean, record))
    finally:
        os.close(descriptor)
    return clean.removesuffix("/.").rstrip("/") or "/"


def _read_only(path: str, record: Record) -> str:
    in_volume = any(path == point.target or path.startswith(point.target + "/") for point in record.mounts)
    return "mounted volume is marked read-only" if in_volume else "container rootfs is marked read-only"


def _owner(view: View, record: Record) -> tuple[int, int] | None:
    """The container's user; None: none was named, and archives keep their owners."""
    if not record.config.user:
        return None
    user = find_user(view.root, record.config.user)
    return user.uid, user.gid


@contextmanager
def _told(container: Container, path: str) -> Iterator[None]:
    """What the kernel says of a path, in Docker's words."""
    try:
        yield
    except (BrokenPipeError, EngineError):
        raise
    except FileNotFoundError as error:
        raise NotFound(f"Could not find the file {path} in container {container.name}") from error
    except OSError as error:
        raise _translated(error, path) from error


@contextmanager
def _placed(container: Container, clean: str) -> Iterator[None]:
    """What the kernel says of an archive's entry."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.EROFS:
            raise InvalidParameter(_read_only(clean, container.record)) from error
        raise _translated(error, error.filename) from error


def _translated(error: OSError, path: str) -> EngineError:
    text = f"{path}: {(error.strerror or str(error)).lower()}"
    return InvalidParameter(text) if error.errno in _CLIENTS_FAULT else EngineError(text)
