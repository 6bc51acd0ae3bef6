"""Bytes between the loop and a thread that reads or writes files: through a pipe, so that the slower side sets the pace.

A side that gives up closes its end, and the other one notices at its next read or write. Must not know what the bytes are.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import IO, BinaryIO, TypeVar

T = TypeVar("T")
CHUNK = 64 * 1024
PIPE = 1 << 20
"""Bytes that either side may be ahead; an unprivileged process may have less."""


async def in_own_thread(work: Callable[[], T]) -> T:
    """Call in a thread that ends with the work; a cancelled caller still waits for that end. Raises what the work does."""
    with_thread = ThreadPoolExecutor(max_workers=1)
    task = asyncio.ensure_future(asyncio.get_running_loop().run_in_executor(with_thread, work))
    with_thread.shutdown(wait=False)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        with suppress(Exception):
            await asyncio.wait([task])
        raise


async def from_thread(write: Callable[[BinaryIO], object]) -> AsyncGenerator[bytes, None]:
    """What `write` writes, called in a thread of its own; raises what it raises, once all is read that it wrote before.

    Closing the generator ends the thread: its writes then raise BrokenPipeError.
    """
    read_end, write_end = _pipe()

    def writing() -> None:
        with open(write_end, "wb", buffering=CHUNK) as out:
            write(out)

    work = asyncio.create_task(in_own_thread(writing))
    reader = asyncio.StreamReader(limit=CHUNK)
    loop = asyncio.get_running_loop()
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), _file(read_end, "rb"))
    try:
        while chunk := await reader.read(CHUNK):
            yield chunk
        await asyncio.shield(work)
    finally:
        transport.close()
        await _settled(work)


async def into_thread(chunks: AsyncIterator[bytes], read: Callable[[BinaryIO], T]) -> T:
    """Call `read` in a thread of its own with a file that gives these bytes; returns and raises what it does.

    What it does not read is left in the iterator. When that fails, `read` meets an early end, and the iterator's error is raised.
    """
    read_end, write_end = _pipe()

    def reading() -> T:
        with open(read_end, "rb", buffering=0) as source:
            return read(source)

    work = asyncio.create_task(in_own_thread(reading))
    try:
        await _feed(chunks, write_end)
        return await asyncio.shield(work)
    finally:
        await _settled(work)


async def _feed(chunks: AsyncIterator[bytes], write_end: int) -> None:
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.connect_write_pipe(lambda: asyncio.streams.FlowControlMixin(loop=loop), _file(write_end, "wb"))
    writer = asyncio.StreamWriter(transport, protocol, None, loop)
    try:
        async for chunk in chunks:
            writer.write(chunk)
            try:
                await writer.drain()
            except (BrokenPipeError, ConnectionResetError):  # it has read enough, or failed: its result says
                return
    finally:
        transport.close()


def _pipe() -> tuple[int, int]:
    ends = os.pipe2(os.O_CLOEXEC)
    with suppress(OSError):
        fcntl.fcntl(ends[1], fcntl.F_SETPIPE_SZ, PIPE)
    return ends


def _file(end: int, mode: str) -> IO[bytes]:
    """For a transport, which closes it."""
    return os.fdopen(end, mode, 0)


async def _settled(work: asyncio.Task[T]) -> None:
    """Wait for the end, whatever it is."""
    if not work.done():
        await asyncio.wait([work])
    if not work.cancelled():
        work.exception()
