"""`docker export`: a container's root as a tar, without what is mounted over it; must not know how the bytes travel."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from runtime.containers.tar_out import TarOut
from runtime.linux.inroot import opened
from runtime.piped import from_thread

if TYPE_CHECKING:
    from runtime.containers.container import Container


async def export(container: Container) -> AsyncGenerator[bytes, None]:
    """The archive, in pieces; names have no slash in front, and the root itself is not in it. Raises EngineError, OSError."""
    async with container.mounted() as root, aclosing(from_thread(lambda out: write_root(root, out))) as chunks:
        async for chunk in chunks:
            yield chunk


def write_root(root: Path, out: BinaryIO) -> None:
    """Write the archive of everything below the directory; blocking, raises OSError."""
    archive = TarOut(out)
    with opened(root) as directory:
        archive.add_below(directory)
    archive.end()
