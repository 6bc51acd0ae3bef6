"""This host as a BGP router: brings sessions and announcements to what they should be, and keeps the RIB; must not know the kernel.

Level-triggered: whatever happens (another config, a lease, an event of exabgp's, its death, a timer) is a reason to compare what it
has with what it should have. What exabgp says is `adjacencies`' business, what it is told `telling`'s. RFC 5882 §4.3 (BFD and BGP).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from bgp.adjacencies import Adjacencies
from bgp.aim import Aim
from bgp.bfd.client import BfdSpeaker
from bgp.bfd.service import ADMINISTRATIVELY_DOWN, BfdSettings
from bgp.neighbours import Neighbour
from bgp.speaker.speaker import Speaker
from bgp.telling import Telling
from flanneld.lease import IPAddress

RETRY_S = 2.0
"""After exabgp has refused something."""
PAUSE_S = 0.005
"""Between two rounds at least, so that a storm of events is one."""


class Router:
    """One speaker, and all that it is told and tells."""

    def __init__(
        self,
        speaker: Speaker,
        bfd: BfdSpeaker,
        max_paths: int,
        changed: Callable[[], None],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """`changed` is called whenever what the RIB has chosen may have changed."""
        self.adjacencies = Adjacencies(max_paths, now)
        self.bfd = bfd
        bfd.changed = self._bfd_changed
        self._speaker = speaker
        self._telling = Telling(speaker, self.adjacencies)
        self._changed = changed
        self._awake = asyncio.Event()
        self._aimed = asyncio.Event()
        """It is known what we are to be: what stands from before us is listened to, and brought to it, after that."""

    def follow(self, aim: Aim) -> None:
        """Be this; the same again does nothing."""
        if self._aimed.is_set() and aim == self.adjacencies.aim:
            return
        self._aimed.set()
        self.adjacencies.follow(aim)
        self._awake.set()

    def relook(self) -> None:
        """What is on the link may have changed."""
        self.adjacencies.rib.policy_changed(self.adjacencies.aim.policy)

    async def run(self) -> None:
        """Follow exabgp and BFD until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.bfd.run())
            tasks.create_task(self._listen())
            tasks.create_task(self._bring_for_ever())

    async def take_leave(self) -> None:
        """Withdraw everything; to be called when `run` has ended, for good."""
        await self._telling.take_leave()

    async def _listen(self) -> None:
        await self._aimed.wait()
        async for news in self._speaker.events():
            self.adjacencies.take(news)
            self._awake.set()

    def _bfd_changed(self, peer: IPAddress, up: bool, why: str) -> None:
        """A neighbour whose session stands, and that cannot be reached any more, is forgotten at once.

        What is kept of one whose session does not stand, which may be restarting, stays: BFD lives apart from BGP here, and still
        ends with it when a container does, so the C bit is clear, and then no end of BFD aborts a graceful restart (RFC 5882
        §4.3.2.2). BFD that comes up, or never was, says nothing of a session either.
        """
        if up or why == ADMINISTRATIVELY_DOWN or peer not in self.adjacencies.standing:
            return
        self.adjacencies.lose(peer, f"bfd: {why}")
        self._awake.set()

    async def _bring_for_ever(self) -> None:
        retry_s: float | None = None
        await self._aimed.wait()
        while True:
            waits = [wait for wait in (self.adjacencies.rest_s(), retry_s) if wait is not None]
            try:
                async with asyncio.timeout(min(waits, default=None)):
                    await self._awake.wait()
            except TimeoutError:
                pass
            self._awake.clear()
            self.adjacencies.drop_stale()
            self.adjacencies.say_conflicts()
            self._changed()
            neighbours = self.adjacencies.aim.neighbours
            self.bfd.follow({peer: _bfd_settings(each) for peer, each in neighbours.items() if each.bfd is not None})
            retry_s = None if await self._telling.bring() else RETRY_S
            await asyncio.sleep(PAUSE_S)


def _bfd_settings(neighbour: Neighbour) -> BfdSettings:
    timers = neighbour.bfd
    assert timers is not None  # noqa: S101  # asked by the caller
    return BfdSettings(neighbour.session.local, timers.interval_ms, timers.multiplier)
