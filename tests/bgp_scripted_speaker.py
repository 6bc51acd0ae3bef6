"""A BGP speaker that does nothing but write down what it is told, and says what a test has it say; and a router that it serves."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from bgp.bfd.client import BfdSpeaker
from bgp.events import Opened
from bgp.path import Asn
from bgp.router import Router
from bgp.session import Channel, Session
from bgp.speaker.commands import Announcement, fingerprint
from bgp.speaker.news import News, SpeakerError, Synced
from bgp.speaker.speaker import Speaker
from flanneld.lease import IPAddress, IPNetwork

WITHIN_S = 5.0
"""For what takes a few turns of the event loop."""


class ScriptedSpeaker:
    """Stands for `Speaker`."""

    def __init__(self) -> None:
        self.told: list[tuple[object, ...]] = []
        """Every command: its name, the neighbour, and what it is about."""
        self.refused: set[tuple[str, IPAddress]] = set()
        """Commands, by name and neighbour, that it does not carry out."""
        self._news: asyncio.Queue[News] = asyncio.Queue()

    def say(self, *news: News) -> None:
        for one in news:
            self._news.put_nowait(one)

    async def events(self) -> AsyncIterator[News]:
        while True:
            yield await self._news.get()

    async def add(self, session: Session) -> None:
        self._do("add", session.peer, session)

    async def delete(self, peer: IPAddress) -> None:
        self._do("delete", peer)

    async def announce(self, peer: IPAddress, announcements: Iterable[Announcement], *others: IPAddress) -> None:
        for one in (peer, *others):
            self._do("announce", one, *sorted(str(each.prefix) for each in announcements))

    async def withdraw(self, peer: IPAddress, prefixes: Iterable[IPNetwork], *others: IPAddress) -> None:
        for one in (peer, *others):
            self._do("withdraw", one, *sorted(map(str, prefixes)))

    async def end_of_rib(self, peer: IPAddress, channel: Channel) -> None:
        self._do("end of rib", peer, channel)

    async def refresh(self, peer: IPAddress, channel: Channel) -> None:
        self._do("refresh", peer, channel)

    async def teardown(self, peer: IPAddress) -> None:
        self._do("teardown", peer)

    def _do(self, command: str, peer: IPAddress, *what: object) -> None:
        if (command, peer) in self.refused:
            raise SpeakerError(f"{command} {peer}: not this one")
        self.told.append((command, peer, *what))


@dataclass
class Scripted:
    """A router that runs, and its speaker."""

    speaker: ScriptedSpeaker
    router: Router
    changes: list[int] = field(default_factory=list)
    """One for each time that the router said that its choices may have changed."""

    def commands(self, *names: str) -> list[tuple[object, ...]]:
        """What was told, of these kinds (all, without names)."""
        return [told for told in self.speaker.told if not names or told[0] in names]

    async def says(self, *news: News) -> None:
        """Have the speaker say something, and the router do all that follows."""
        self.speaker.say(*news)
        await self.rest()

    async def rest(self) -> None:
        """Wait until the router has nothing to do: some rounds after all has been said."""
        await asyncio.sleep(0.05)

    async def until(self, look: Callable[[], object]) -> None:
        until = time.monotonic() + WITHIN_S
        while not look():
            assert time.monotonic() < until, self.speaker.told
            await asyncio.sleep(0.005)


@asynccontextmanager
async def scripted(now: Callable[[], float] = time.monotonic) -> AsyncIterator[Scripted]:
    """A router, running."""
    speaker, changes = ScriptedSpeaker(), list[int]()
    router = Router(cast("Speaker", speaker), BfdSpeaker(Path("/nonexistent")), 8, lambda: changes.append(1), now)
    running = asyncio.create_task(router.run())
    try:
        yield Scripted(speaker, router, changes)
        assert not running.done(), running
    finally:
        running.cancel()
        await asyncio.wait((running,))


def opened(peer: IPAddress, graceful_restart_s: int | None = 120) -> Opened:
    """Its OPEN."""
    return Opened(peer, Asn(64512), str(peer), 9, graceful_restart_s)


def synced(*standing: Session, others: Iterable[Session] = (), **rest: object) -> Synced:
    """These sessions are established, and those others there."""
    sessions = {session.peer: fingerprint(session) for session in (*standing, *others)}
    usual: dict[str, object] = {
        "opened": {session.peer: opened(session.peer) for session in standing},
        "paths": (),
        "announced": {},
    }
    return Synced(sessions, **(usual | rest))  # type: ignore[arg-type]  # what a test leaves out is empty
