"""A client and a process, connected: what the one types goes to the other, what that says comes back, and how it ended.

Must not know how the client's streams travel, nor whether the process was added to a container or is its first.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from runtime.containers.monitor import Stream
from runtime.cri.streaming.remote import Inlet, Remote
from runtime.errors import EngineError

READ = 64 << 10
_HEAD = 8
"""Docker's frame: stream (1 stdout, 2 stderr), three zeros, length in four bytes, big-endian."""
_STDERR = 2


@dataclass(frozen=True, slots=True)
class Command:
    """A process with its streams."""

    stream: Stream
    tty: bool
    """Then all its output is one, and bare."""
    resize: Callable[[int, int], Awaitable[None]]
    """Height, width."""
    outcome: Callable[[], Awaitable[dict[str, Any]]]
    """How it went, once its output has ended."""


async def converse(command: Command, remote: Remote) -> None:
    """Until the process has no more to say, and then close its stream; raises ConnectionError when the client leaves before."""
    tasks = [
        asyncio.create_task(_type(remote.stdin, command.stream.writer)),
        asyncio.create_task(_size(remote.sizes, command.resize)),
    ]
    try:
        await (_bare(command.stream.reader, remote) if command.tty else _framed(command.stream.reader, remote))
        await remote.finish(await command.outcome())
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        command.stream.writer.close()


async def _type(stdin: Inlet, writer: asyncio.StreamWriter) -> None:
    """What comes after the process has closed its end goes nowhere."""
    try:
        while data := await stdin.read():
            writer.write(data)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()
    except OSError:
        stdin.drop()


async def _size(sizes: Inlet, resize: Callable[[int, int], Awaitable[None]]) -> None:
    """Documents one after the other; one that makes no sense, or comes when there is no terminal any more, changes nothing."""
    decoder, text = json.JSONDecoder(), ""
    while data := await sizes.read():
        text = (text + data.decode(errors="replace")).lstrip()[-READ:]
        while text:
            try:
                size, end = decoder.raw_decode(text)
            except ValueError:
                break
            text = text[end:].lstrip()
            with suppress(EngineError, TypeError, KeyError, ValueError):
                await resize(int(size["Height"]), int(size["Width"]))


async def _bare(reader: asyncio.StreamReader, remote: Remote) -> None:
    while data := await reader.read(READ):
        await remote.stdout(data)


async def _framed(reader: asyncio.StreamReader, remote: Remote) -> None:
    with suppress(asyncio.IncompleteReadError):
        while True:
            head = await reader.readexactly(_HEAD)
            send = remote.stderr if head[0] == _STDERR else remote.stdout
            left = int.from_bytes(head[4:], "big")
            while left:
                data = await reader.read(min(left, READ))
                if not data:
                    return
                left -= len(data)
                await send(data)
