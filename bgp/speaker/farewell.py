"""The end of an exabgp that no daemon needs any more; must not know who has decided so."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import suppress

from bgp.process import Found, running_here
from bgp.speaker import child, commands
from bgp.speaker.connection import GREETING_S, Connection
from bgp.speaker.launcher.settings import Settings
from bgp.speaker.news import SpeakerError

LEAVE_S = 5.0
"""For neighbours to be told, and for exabgp to end by itself after that."""


def speakers_here() -> Iterator[Found]:
    """All in our network namespace, as far as we may see processes; a client of theirs does not notice."""
    return running_here(child.LAUNCHER)


async def part_with(speaker: Found) -> None:
    """Have it take leave of its neighbours, which forget its routes, and end; nothing happens when it has ended.

    A client that it has loses it. Raises ProcessError for a socket that is somebody else's.
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
