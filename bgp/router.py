"""This host as a BGP router: brings sessions and announcements to what they should be, and keeps the RIB; must not know the kernel.

Level-triggered: whatever happens (another config, a lease, an event of exabgp's, its death, a timer) is a reason to compare what it
has with what it should have. RFC 4724 §4.2 (what is kept while a neighbour restarts), RFC 5882 §4.3 (BFD and BGP).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from bgp.admission import ImportPolicy
from bgp.bfd.service import ADMINISTRATIVELY_DOWN, BfdService, BfdSettings
from bgp.events import Announced, Down, EndOfRib, Opened, Up, Withdrawn
from bgp.exports import Origination, Reflection, announcements
from bgp.neighbours import Neighbour, Neighbourhood
from bgp.path import Asn, Path
from bgp.peer import UNKNOWN, PeerInfo
from bgp.rib import Rib
from bgp.speaker.commands import Announcement, fingerprint
from bgp.speaker.news import Lost, News, SpeakerError, Synced
from bgp.speaker.speaker import Speaker
from flanneld.lease import Family, IPAddress, IPNetwork
from flanneld.log import Log, Once

log = Log(__name__)

RETRY_S = 2.0
"""After exabgp has refused something."""
PAUSE_S = 0.005
"""Between two rounds at least, so that a storm of events is one."""
TOLD_S = 2.0
"""Of a session that stood before we came nobody says whether the neighbour has told all; after so long it has."""


@dataclass(frozen=True, slots=True)
class Aim:
    """What this router is to be."""

    neighbourhood: Neighbourhood = field(default_factory=lambda: Neighbourhood(()))
    origination: Origination = field(default_factory=Origination)
    policy: ImportPolicy = field(default_factory=lambda: ImportPolicy(()))

    @property
    def neighbours(self) -> Mapping[IPAddress, Neighbour]:
        return {neighbour.session.peer: neighbour for neighbour in self.neighbourhood.neighbours}


@dataclass(slots=True)
class Standing:
    """One session that is established."""

    opened: Opened
    since: float
    """When we first knew of it."""
    told: dict[IPNetwork, Announcement | None] = field(default_factory=dict)
    """What we have announced; None: not known with what attributes."""
    ended: bool = False
    """We have said the end of our RIB."""
    heard_at: float | None = None
    """From when on the neighbour has told all; None: not yet."""


class Router:
    """One speaker, and all that it is told and tells."""

    def __init__(
        self, speaker: Speaker, max_paths: int, changed: Callable[[], None], now: Callable[[], float] = time.monotonic
    ) -> None:
        """`changed` is called whenever what the RIB has chosen may have changed."""
        self.standing: dict[IPAddress, Standing] = {}
        self.downs: dict[IPAddress, str] = {}
        """Why the last session, or attempt, with a neighbour has ended."""
        self.lost: str = "not connected to exabgp yet"
        """Why nothing is known of the sessions; "" while it is."""
        self.aim = Aim()
        self.rib = Rib(self.aim.policy, max_paths)
        self.bfd = BfdService(self._bfd_changed)
        self._speaker = speaker
        self._changed = changed
        self._now = now
        self._sessions: dict[IPAddress, str] = {}
        """As exabgp has them, with their fingerprints."""
        self._openings: dict[IPAddress, Opened] = {}
        """The last OPEN of each neighbour."""
        self._heard: frozenset[IPAddress] = frozenset()
        """Whom the RIB listens to."""
        self._awake = asyncio.Event()
        self._dead: list[IPAddress] = []
        """Neighbours that BFD has found dead, and whose sessions still stand."""
        self._said = Once(log)

    def follow(self, aim: Aim) -> None:
        """Be this; the same again does nothing."""
        if aim == self.aim:
            return
        before, self.aim = self.aim, aim
        if aim.policy != before.policy:
            self.rib.policy_changed(aim.policy)
        self._listen_to_wanted()
        self._awake.set()

    def relook(self) -> None:
        """What is on the link may have changed."""
        self.rib.policy_changed(self.aim.policy)

    def heard_all(self, peer: IPAddress) -> bool:
        """True if the neighbour has told all that it has."""
        standing = self.standing.get(peer)
        return standing is not None and standing.heard_at is not None and standing.heard_at <= self._now()

    @property
    def settled(self) -> bool:
        """True if all neighbours have told all that they have."""
        return not self.lost and all(map(self.heard_all, self.aim.neighbours))

    async def run(self) -> None:
        """Follow exabgp until cancelled."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._listen())
                tasks.create_task(self._bring_for_ever())
        finally:
            self.bfd.close()

    async def _listen(self) -> None:
        async for news in self._speaker.events():
            self.take(news)
            self._awake.set()

    def take(self, news: News) -> None:
        """What exabgp says."""
        match news:
            case Synced():
                self._take_synced(news)
            case Lost(why):
                self.lost = why
                for peer in list(self.standing):
                    self._take_down(peer, "exabgp lost", hard=False)
                self._sessions = {}
            case Opened(peer):
                self._openings[peer] = news
            case Up(peer):
                self.standing[peer] = Standing(self._opening(peer), self._now())
                self._listen_to_wanted()
                self.rib.up(peer)
                log.info("bgp session up", peer=peer)
            case Down(peer, why, hard):
                self._take_down(peer, why, hard)
            case Announced(peer, paths):
                self.rib.announced(peer, paths)
            case Withdrawn(peer, prefixes):
                self.rib.withdrawn(peer, prefixes)
            case EndOfRib(peer, family):
                self._take_end(peer, family)

    def _take_synced(self, news: Synced) -> None:
        self.lost = ""
        self._sessions = dict(news.sessions)
        told_at = self._now() + TOLD_S
        self.standing = {
            peer: Standing(opened, self._now(), dict.fromkeys(news.announced.get(peer, ())), heard_at=told_at)
            for peer, opened in news.opened.items()
        }
        self._listen_to_wanted()
        told: dict[IPAddress, list[Path]] = {}
        for path in news.paths:
            told.setdefault(path.peer, []).append(path)
        for peer in self.standing:
            state = self.rib.state(peer)
            if state is not None and state.stale:  # it may still be telling
                self.rib.up(peer)
                self.rib.announced(peer, told.get(peer, ()))
            else:
                self.rib.resync(peer, told.get(peer, ()))

    def _take_down(self, peer: IPAddress, why: str, hard: bool) -> None:
        if peer in self.standing:
            self.rib.down(peer, hard, self._keep_s(peer), self._now())
            del self.standing[peer]
            if self.downs.get(peer) != why:
                log.warning("bgp session down", peer=peer, why=why)
        self.downs[peer] = why

    def _take_end(self, peer: IPAddress, family: Family) -> None:
        self.rib.end_of_rib(peer, family)
        neighbour, standing = self.aim.neighbours.get(peer), self.standing.get(peer)
        if neighbour is not None and standing is not None and family == neighbour.session.families[-1]:
            standing.heard_at = self._now()

    def _opening(self, peer: IPAddress) -> Opened:
        """What the neighbour said of itself; if that was before we listened, as little as it must have."""
        neighbour = self.aim.neighbours.get(peer)
        kept_s = 0 if neighbour is None else neighbour.session.graceful_restart_s
        return self._openings.get(peer) or Opened(peer, Asn(0), UNKNOWN, 0, kept_s)

    def _keep_s(self, peer: IPAddress) -> float:
        """How long what the neighbour told is kept when the connection is lost: as long as both want."""
        standing, neighbour = self.standing.get(peer), self.aim.neighbours.get(peer)
        if standing is None or neighbour is None:
            return 0.0
        return min(standing.opened.graceful_restart_s or 0, neighbour.session.graceful_restart_s)

    def _listen_to_wanted(self) -> None:
        """Have the RIB know each neighbour as it is now, and nobody else."""
        neighbours = self.aim.neighbours
        for gone in self._heard - neighbours.keys():
            self.rib.forget(gone)
        self._heard = frozenset(neighbours)
        for peer, neighbour in neighbours.items():
            standing = self.standing.get(peer)
            router_id = UNKNOWN if standing is None else standing.opened.router_id
            self.rib.add_peer(PeerInfo(neighbour.session, router_id, neighbour.imports, neighbour.max_prefix))

    def _bfd_changed(self, peer: IPAddress, up: bool, why: str) -> None:
        if up or why == ADMINISTRATIVELY_DOWN or peer not in self.standing:
            return
        self.rib.down(peer, True, 0, self._now())
        self.downs[peer] = f"bfd: {why}"
        self._dead.append(peer)
        self._awake.set()

    async def _bring_for_ever(self) -> None:
        retry_s: float | None = None
        while True:
            due = self.rib.next_expiry()
            waits = [*([] if due is None else [max(due - self._now(), 0)]), *([] if retry_s is None else [retry_s])]
            try:
                async with asyncio.timeout(min(waits, default=None)):
                    await self._awake.wait()
            except TimeoutError:
                pass
            self._awake.clear()
            self.rib.expire(self._now())
            self._changed()
            retry_s = None if await self._bring() else RETRY_S
            await asyncio.sleep(PAUSE_S)

    async def _bring(self) -> bool:
        """Bring exabgp to the aim; false when something of it was refused."""
        neighbours = self.aim.neighbours
        self.bfd.follow({peer: _bfd_settings(each) for peer, each in neighbours.items() if each.bfd is not None})
        if self.lost:
            return True
        try:
            await self._end_dead()
            for peer in self._sessions.keys() - neighbours.keys():
                await self._speaker.delete(peer)
                del self._sessions[peer]
                self.standing.pop(peer, None)
            done = [await self._bring_session(neighbour) for neighbour in neighbours.values()]
            reflection = self._reflection()
            done += [await self._tell(neighbour, reflection) for peer, neighbour in neighbours.items() if peer in self.standing]
        except SpeakerError as error:
            self._said.warning("bring", "bgp sessions not as they should be", why=error)
            return False
        self._said.over("bring")
        return all(done)

    async def _end_dead(self) -> None:
        while self._dead:
            peer = self._dead[-1]
            if peer in self.standing:
                await self._speaker.teardown(peer)
            self._dead.pop()

    async def _bring_session(self, neighbour: Neighbour) -> bool:
        peer = neighbour.session.peer
        try:
            wanted = fingerprint(neighbour.session)
            if self._sessions.get(peer) != wanted:
                await self._speaker.add(neighbour.session)
                self._sessions[peer] = wanted
        except SpeakerError as error:
            if self.lost:
                raise
            self._said.warning(f"session {peer}", "bgp session refused", peer=peer, why=error)
            return False
        self._said.over(f"session {peer}")
        return True

    async def _tell(self, neighbour: Neighbour, reflection: Reflection | None) -> bool:
        """Have the neighbour told what it is to be told, and that it is all."""
        peer = neighbour.session.peer
        standing, wanted = self.standing[peer], announcements(neighbour, self.aim.origination, reflection)
        new = [said for prefix, said in wanted.items() if standing.told.get(prefix) != said]
        gone = [prefix for prefix in standing.told if prefix not in wanted]
        if new:
            await self._speaker.announce(peer, new)
            standing.told |= {said.prefix: said for said in new}
        if gone:
            await self._speaker.withdraw(peer, gone)
            for prefix in gone:
                del standing.told[prefix]
        if not standing.ended and self.standing.get(peer) is standing:
            for family in neighbour.session.families:
                await self._speaker.end_of_rib(peer, family)
            standing.ended = True
        await self._look_after(neighbour)
        return True

    async def _look_after(self, neighbour: Neighbour) -> None:
        """What max-prefix, and a policy that has changed, ask for."""
        peer, state = neighbour.session.peer, self.rib.state(neighbour.session.peer)
        if state is None or peer not in self.standing:
            return
        if state.limited:
            self._said.warning(
                f"limit {peer}", "too many prefixes, new ones are refused", peer=peer, limit=neighbour.max_prefix.limit
            )
        elif state.warned:
            self._said.warning(f"limit {peer}", "nearly too many prefixes", peer=peer, limit=neighbour.max_prefix.limit)
        if state.wants_reset:
            await self._speaker.teardown(peer)
        elif state.wants_refresh:
            for family in neighbour.session.families:
                await self._speaker.refresh(peer, family)
            self.rib.refreshed(peer)

    def _reflection(self) -> Reflection | None:
        cluster_id = self.aim.neighbourhood.cluster_id
        if cluster_id is None:
            return None
        neighbours = self.aim.neighbours
        return Reflection(
            cluster_id,
            self.rib.choices(),
            {peer: neighbour.role for peer, neighbour in neighbours.items()},
            frozenset(peer for peer, neighbour in neighbours.items() if neighbour.session.internal),
            {peer: standing.opened.router_id for peer, standing in self.standing.items()},
        )


def _bfd_settings(neighbour: Neighbour) -> BfdSettings:
    timers = neighbour.bfd
    assert timers is not None  # noqa: S101  # asked by the caller
    return BfdSettings(neighbour.session.local, timers.interval_ms, timers.multiplier)
