from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import BinaryIO

import pytest

from runtime.piped import from_thread, in_own_thread, into_thread


async def chunks_of(size: int, count: int) -> AsyncIterator[bytes]:
    for number in range(count):
        yield bytes([number % 256]) * size


async def test_what_a_thread_writes_is_read() -> None:
    def write(out: BinaryIO) -> None:
        out.writelines(bytes([number]) * 33_333 for number in range(100))

    data = b"".join([chunk async for chunk in from_thread(write)])
    assert data == b"".join(bytes([number]) * 33_333 for number in range(100))


async def test_what_a_thread_fails_with_comes_after_what_it_wrote() -> None:
    def write(out: BinaryIO) -> None:
        out.write(b"before")
        raise ValueError("then")

    chunks = from_thread(write)
    assert await anext(chunks) == b"before"
    with pytest.raises(ValueError, match="then"):
        await anext(chunks)


async def test_a_reader_that_leaves_ends_the_thread() -> None:
    ended = threading.Event()

    def write(out: BinaryIO) -> None:
        try:
            while True:
                out.write(bytes(100_000))
        finally:
            ended.set()

    async with aclosing(from_thread(write)) as chunks:
        assert await anext(chunks)
    assert ended.is_set()


async def test_a_writer_waits_for_its_reader() -> None:
    written = 0

    def write(out: BinaryIO) -> None:
        nonlocal written
        for _ in range(1000):
            written += out.write(bytes(100_000))

    async with aclosing(from_thread(write)) as chunks:
        await anext(chunks)
        await asyncio.sleep(0.1)
        assert written < 4_000_000


async def test_a_thread_reads_what_comes() -> None:
    assert await into_thread(chunks_of(10_000, 300), lambda source: sum(iter(lambda: len(source.read(7777)), 0))) == 3_000_000


async def test_a_thread_that_has_enough_ends_the_sending() -> None:
    assert await into_thread(chunks_of(100_000, 1_000_000), lambda source: source.read(1)) == b"\0"


async def test_a_sender_that_fails_is_an_early_end_for_the_thread() -> None:
    seen: list[bytes] = []

    async def broken() -> AsyncIterator[bytes]:
        yield b"half"
        raise ConnectionResetError("gone")

    with pytest.raises(ConnectionResetError, match="gone"):
        await into_thread(broken(), lambda source: seen.append(b"".join(iter(lambda: source.read(100), b""))))
    assert seen == [b"half"]


async def test_a_cancelled_caller_waits_for_its_thread() -> None:
    begun, go_on, done = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        go_on.wait(5)
        done.set()

    task = asyncio.create_task(in_own_thread(work))
    await asyncio.to_thread(begun.wait)
    task.cancel()
    asyncio.get_running_loop().call_later(0.05, go_on.set)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert done.is_set()


async def test_nothing_stays_open() -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        await into_thread(chunks_of(10, 10), lambda source: source.read(1))
        async with aclosing(from_thread(lambda out: out.write(b"x"))) as chunks:
            await anext(chunks)
    await asyncio.sleep(0.05)
    assert len(os.listdir("/proc/self/fd")) <= before + 1
