"""This host as a BGP router: brings sessions and announcements to what they should be, and keeps the RIB; must not know the kernel.

Level-triggered: whatever happens (another config, a lease, an event of exabgp's, its death, a timer) is a reason to compare what it
has with what it should have. RFC 4724 §4.2 (what is kept while a neighbour restarts), RFC 5882 §4.3 (BFD and BGP).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from bgp.admission import ImportPolicy
from bgp.bfd.service import ADMINISTRATIVELY_DOWN, BfdService, BfdSettings
from bgp.events import Announced, Down, EndOfRib, EvpnAnnounced, EvpnWithdrawn, Opened, Up, Withdrawn
from bgp.evpn.announcement import EvpnAnnouncement
from bgp.evpn.exports import EvpnOrigination, evpn_announcements
from bgp.evpn.paths import place, ways
from bgp.evpn.routes import Key
from bgp.evpn.telling import tell_evpn
from bgp.exports import Origination, Reflection, announcements
from bgp.loc_rib import Conflict
from bgp.neighbours import Neighbour, Neighbourhood
from bgp.path import Asn, Path
from bgp.peer import UNKNOWN, PeerInfo
from bgp.rib import Rib
from bgp.session import Channel
from bgp.speaker.commands import Announcement, fingerprint
from bgp.speaker.news import Lost, News, SpeakerError, Synced
from bgp.speaker.speaker import Speaker
from flanneld.lease import FAMILIES, IPAddress, IPNetwork
from flanneld.log import Log, Once

log = Log(__name__)

Told: TypeAlias = tuple[Announcement, ...]

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
    evpn: EvpnOrigination | None = None
    """In the sessions that exchange EVPN; None: nothing."""

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
    told_evpn: dict[Key, EvpnAnnouncement | None] = field(default_factory=dict)
    """The same by EVPN."""
    ended: bool = False
    """We have said the end of our RIB."""
    told_all: Aim | None = None
    """Of what we are to be there was nothing left to say."""
    heard_at: float | None = None
    """From when on the neighbour has told all; None: not yet."""
    dead: str = ""
    """Why it is to end, in BFD's words; the NOTIFICATION by which it then ends says nothing of that."""


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
        self._brought: Aim | None = None
        """Whose sessions they are, all of them."""
        self._openings: dict[IPAddress, Opened] = {}
        """The last OPEN of each neighbour."""
        self._heard: frozenset[IPAddress] = frozenset()
        """Whom the RIB listens to."""
        self._awake = asyncio.Event()
        self._dead: list[IPAddress] = []
        """Neighbours that BFD has found dead, and whose sessions still stand."""
        self._aimed = asyncio.Event()
        """It is known what we are to be: what stands from before us is listened to, and brought to it, after that."""
        self._conflicts: dict[IPNetwork, Conflict] = {}
        """As was said last."""
        self._said = Once(log)

    def follow(self, aim: Aim) -> None:
        """Be this; the same again does nothing."""
        if self._aimed.is_set() and aim == self.aim:
            return
        self._aimed.set()
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
        await self._aimed.wait()
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
                self._sessions, self._brought = {}, None
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
            case EvpnAnnounced(peer, routes):
                self.rib.announced(peer, ways(peer, routes, hosts=self.aim.policy.host_routes))
            case EvpnWithdrawn(peer, keys):
                self.rib.withdrawn(peer, [found for key in keys if (found := place(key)) is not None])
            case EndOfRib(peer, family):
                self._take_end(peer, family)

    def _take_synced(self, news: Synced) -> None:
        self.lost = ""
        self._sessions, self._brought = dict(news.sessions), None
        told_at = self._now() + TOLD_S
        self.standing = {
            peer: Standing(
                opened,
                self._now(),
                dict.fromkeys(news.announced.get(peer, ())),
                dict.fromkeys(news.evpn_announced.get(peer, ())),
                heard_at=told_at,
            )
            for peer, opened in news.opened.items()
        }
        self._listen_to_wanted()
        told: dict[IPAddress, list[Path]] = {}
        for path in news.paths:
            told.setdefault(path.peer, []).append(path)
        for event in news.evpn:
            told.setdefault(event.peer, []).extend(ways(event.peer, event.routes, hosts=self.aim.policy.host_routes))
        for peer in self.standing:
            state = self.rib.state(peer)
            if state is not None and state.stale:  # it may still be telling
                self.rib.up(peer)
                self.rib.announced(peer, told.get(peer, ()))
            else:
                self.rib.resync(peer, told.get(peer, ()))

    def _take_down(self, peer: IPAddress, why: str, hard: bool) -> None:
        if peer in self.standing:
            why = self.standing[peer].dead or why
            self.rib.down(peer, hard, self._keep_s(peer), self._now())
            del self.standing[peer]
            log.warning("bgp session down", peer=peer, why=why)
        self.downs[peer] = why

    def _take_end(self, peer: IPAddress, channel: Channel) -> None:
        for family in FAMILIES if channel == "evpn" else (channel,):
            self.rib.end_of_rib(peer, family)
        neighbour, standing = self.aim.neighbours.get(peer), self.standing.get(peer)
        if neighbour is not None and standing is not None and channel == neighbour.session.channels[-1]:
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
        self.standing[peer].dead = f"bfd: {why}"
        self._dead.append(peer)
        self._awake.set()

    async def _bring_for_ever(self) -> None:
        retry_s: float | None = None
        await self._aimed.wait()
        while True:
            try:
                async with asyncio.timeout(self._rest_s(retry_s)):
                    await self._awake.wait()
            except TimeoutError:
                pass
            self._awake.clear()
            self._drop_stale()
            self._say_conflicts()
            self._changed()
            retry_s = None if await self._bring() else RETRY_S
            await asyncio.sleep(PAUSE_S)

    def _rest_s(self, retry_s: float | None) -> float | None:
        """How long nothing is to be done unless something happens; None: for ever."""
        now = self._now()
        told = [each.heard_at for each in self.standing.values() if each.heard_at is not None and each.heard_at > now]
        expiry = self.rib.next_expiry()
        waits = [max(due - now, 0) for due in (*told, *([] if expiry is None else [expiry]))]
        return min([*waits, *([] if retry_s is None else [retry_s])], default=None)

    def _drop_stale(self) -> None:
        """What its time is over of, and what neighbours have not told again that have told all."""
        self.rib.expire(self._now())
        for peer in filter(self.heard_all, self.standing):
            for family in FAMILIES:
                self.rib.end_of_rib(peer, family)

    def _say_conflicts(self) -> None:
        """Each once, and again when others take part in it, or win."""
        before, self._conflicts = self._conflicts, {each.prefix: each for each in self.rib.conflicts()}
        for prefix in before.keys() - self._conflicts.keys():
            log.info("bgp conflict is over", prefix=prefix)
        for prefix, conflict in self._conflicts.items():
            if before.get(prefix) != conflict:
                log.warning("bgp conflict", prefix=prefix, why=conflict)

    async def _bring(self) -> bool:
        """Bring exabgp to the aim; false when something of it was refused."""
        aim, done = self.aim, [True]
        neighbours = aim.neighbours
        self.bfd.follow({peer: _bfd_settings(each) for peer, each in neighbours.items() if each.bfd is not None})
        if self.lost:
            return True
        try:
            await self._end_dead()
            if self._brought is not aim:
                done = await self._bring_sessions(aim)
            reflection = self._reflection()
            untold = self._untold(aim, reflection)
            news = _grouped(untold, aim, reflection)
            await _all(self._announce(peers, *what) for what, peers in news.items())
            await _all(self._end_telling(neighbour, standing, aim) for neighbour, standing in untold)
            await _all(self._look_after(neighbours[peer]) for peer in self.rib.demanding() if peer in neighbours)
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

    async def _bring_sessions(self, aim: Aim) -> list[bool]:
        """Have those sessions, and no others; whether each is there now."""
        neighbours = aim.neighbours
        for peer in self._sessions.keys() - neighbours.keys():
            await self._speaker.delete(peer)
            del self._sessions[peer]
            self.standing.pop(peer, None)
        self._brought = aim
        done = await _all(self._bring_session(neighbour) for neighbour in neighbours.values())
        if not all(done):
            self._brought = None
        return done

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

    def _untold(self, aim: Aim, reflection: Reflection | None) -> list[tuple[Neighbour, Standing]]:
        """The sessions in which there may be something new to say: with many, most of what happens is none of theirs."""
        standing = [(neighbour, self.standing.get(peer)) for peer, neighbour in aim.neighbours.items()]
        reflecting = reflection is not None
        return [(who, each) for who, each in standing if each is not None and (reflecting or each.told_all is not aim)]

    async def _announce(self, peers: Sequence[tuple[IPAddress, Standing]], new: Told, gone: tuple[IPNetwork, ...]) -> bool:
        """Announce and withdraw, the same in all these sessions."""
        addresses = [peer for peer, _ in peers]
        if new:
            await self._speaker.announce(addresses[0], new, *addresses[1:])
            for _, standing in peers:
                standing.told |= {said.prefix: said for said in new}
        if gone:
            await self._speaker.withdraw(addresses[0], gone, *addresses[1:])
            for _, standing in peers:
                standing.told = {prefix: said for prefix, said in standing.told.items() if prefix not in gone}
        return True

    async def _end_telling(self, neighbour: Neighbour, standing: Standing, aim: Aim) -> bool:
        """Say what EVPN is to say, and that it is all."""
        peer = neighbour.session.peer
        if neighbour.session.evpn:
            by_evpn = {} if aim.evpn is None else evpn_announcements(neighbour, aim.evpn)
            await tell_evpn(self._speaker, peer, standing.told_evpn, by_evpn)
        if not standing.ended and self.standing.get(peer) is standing:
            for channel in neighbour.session.channels:
                await self._speaker.end_of_rib(peer, channel)
            standing.ended = True
        standing.told_all = aim
        return True

    async def _look_after(self, neighbour: Neighbour) -> bool:
        """What max-prefix, and a policy that has changed, ask for."""
        peer, state = neighbour.session.peer, self.rib.state(neighbour.session.peer)
        if state is None or peer not in self.standing:
            return True
        if state.limited:
            self._said.warning(
                f"limit {peer}", "too many prefixes, new ones are refused", peer=peer, limit=neighbour.max_prefix.limit
            )
        elif state.warned:
            self._said.warning(f"limit {peer}", "nearly too many prefixes", peer=peer, limit=neighbour.max_prefix.limit)
        if state.wants_reset:
            await self._speaker.teardown(peer)
        elif state.wants_refresh:
            for channel in neighbour.session.channels:
                await self._speaker.refresh(peer, channel)
            self.rib.refreshed(peer)
        return True

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


def _grouped(
    untold: Iterable[tuple[Neighbour, Standing]], aim: Aim, reflection: Reflection | None
) -> dict[tuple[Told, tuple[IPNetwork, ...]], list[tuple[IPAddress, Standing]]]:
    """What is to be announced and withdrawn, and in which sessions: said one by one, the last of many would hear late."""
    found: dict[tuple[Told, tuple[IPNetwork, ...]], list[tuple[IPAddress, Standing]]] = {}
    for neighbour, standing in untold:
        wanted = announcements(neighbour, aim.origination, reflection)
        new = tuple(said for prefix, said in wanted.items() if standing.told.get(prefix) != said)
        gone = tuple(prefix for prefix in standing.told if prefix not in wanted)
        if new or gone:
            found.setdefault((new, gone), []).append((neighbour.session.peer, standing))
    return found


async def _all(works: Iterable[Coroutine[None, None, bool]]) -> list[bool]:
    """Do them at once, for each waits for an answer; raises the first error, when all have ended."""
    done = await asyncio.gather(*works, return_exceptions=True)
    for result in done:
        if isinstance(result, BaseException):
            raise result
    return [result is True for result in done]


def _bfd_settings(neighbour: Neighbour) -> BfdSettings:
    timers = neighbour.bfd
    assert timers is not None  # noqa: S101  # asked by the caller
    return BfdSettings(neighbour.session.local, timers.interval_ms, timers.multiplier)
