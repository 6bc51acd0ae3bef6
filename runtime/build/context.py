"""A build's context: an archive that nobody trusts, unpacked where nothing but the build looks; must not know Dockerfiles."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import AsyncIterator
from pathlib import Path

from runtime.errors import InvalidParameter
from runtime.images.decompress import decompressed
from runtime.images.extract import extract
from runtime.images.limits import Limits, limited
from runtime.linux.inroot import open_in, opened

CONTEXT = "context"
LIMITS = Limits(entries=5_000_000)
TEXT_BYTES = 4 << 20
"""Of a Dockerfile or .dockerignore."""


async def receive(archive: AsyncIterator[bytes], directory: Path) -> None:
    """Unpack the archive (plain or compressed) as `directory/context`; raises InvalidParameter, OSError."""
    received = directory / "context.tar"
    with received.open("wb") as file:
        async for chunk in archive:
            await asyncio.to_thread(file.write, chunk)
    await asyncio.to_thread(_unpack, received, directory / CONTEXT)
    received.unlink()


def _unpack(received: Path, target: Path) -> None:
    target.mkdir()
    descriptor = os.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with received.open("rb") as file:
            extract(limited(decompressed(file.read), file.tell, LIMITS), descriptor, LIMITS)
    finally:
        os.close(descriptor)


def read_text(directory: Path, path: str) -> str | None:
    """A text of the context's, links inside it followed; None: there is no such file. Raises InvalidParameter."""
    with opened(directory / CONTEXT) as root:
        try:
            descriptor = open_in(root, path, os.O_RDONLY | os.O_NONBLOCK)
        except (OSError, ValueError):
            return None
    with open(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise InvalidParameter(f"{path} of the build context is no file")
        data = file.read(TEXT_BYTES + 1)
    if len(data) > TEXT_BYTES:
        raise InvalidParameter(f"{path} of the build context is longer than {TEXT_BYTES} bytes")
    return data.decode(errors="replace")
