"""The end of an exabgp that no daemon needs any more; must not know who has decided so."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from bgp.speaker import child, commands
from bgp.speaker.connection import Connection
from bgp.speaker.launcher.settings import Settings
from bgp.speaker.news import SpeakerError

GREETING_S = 5.0
LEAVE_S = 5.0
"""For neighbours to be told, and for exabgp to end by itself after that."""
DIRECTORY = "--directory="


@dataclass(frozen=True, slots=True)
class Found:
    """An exabgp of ours."""

    pid: int
    directory: Path


def speakers_here() -> Iterator[Found]:
    """All in our network namespace, as far as we may see processes; a client of theirs does not notice."""
    here = os.stat("/proc/thread-self/ns/net")
    for entry in sorted(Path("/proc").glob("[0-9]*"), key=lambda path: int(path.name)):
        with suppress(OSError):  # it has ended meanwhile, or is not ours to look at
            words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
            directory = next((word.removeprefix(DIRECTORY) for word in words if word.startswith(DIRECTORY)), "")
            if child.LAUNCHER in words and directory and os.path.samestat(os.stat(entry / "ns/net"), here):
                yield Found(int(entry.name), Path(directory))


async def part_with(speaker: Found) -> None:
    """Have it take leave of its neighbours, which forget its routes, and end; nothing happens when it has ended.

    A client that it has loses it. Raises SpeakerError for a socket that is somebody else's.
    """
    settings = Settings(speaker.directory, (), 0, "", 0.0, "")
    try:
        reader, writer, pid = await child.connect(settings)
    except OSError:  # nobody listens: it is stuck, or has ended
        await child.end(settings, speaker.pid)
        return
    connection = Connection(reader, writer, lambda news: None)
    try:
        with suppress(TimeoutError, SpeakerError):
            async with asyncio.timeout(GREETING_S):
                await connection.greeting()
                await connection.ended(commands.LEAVE)
    finally:
        connection.close()
    await child.end(settings, pid, LEAVE_S)
