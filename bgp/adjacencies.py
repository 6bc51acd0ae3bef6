"""All sessions as the speaker tells of them, and the RIB that is fed by them; must not know what the speaker is told.

RFC 4724 §4.2 (what is kept while a neighbour restarts).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from bgp.aim import Aim
from bgp.events import Announced, Down, EndOfRib, EvpnAnnounced, EvpnWithdrawn, Opened, Up, Withdrawn
from bgp.evpn.announcement import EvpnAnnouncement
from bgp.evpn.paths import place, ways
from bgp.evpn.routes import Key
from bgp.loc_rib import Conflict
from bgp.neighbours import Neighbour, Neighbourhood
from bgp.path import Asn, Path
from bgp.peer import UNKNOWN, PeerInfo
from bgp.rib import Rib
from bgp.session import Channel
from bgp.speaker.commands import Announcement
from bgp.speaker.news import Lost, News, Synced
from flanneld.lease import FAMILIES, IPAddress, IPNetwork
from flanneld.log import Log

log = Log(__name__)

TOLD_S = 2.0
"""Of a session that stood before we came nobody says whether the neighbour has told all; after so long it has."""


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
    ending: bool = False
    """It has been told to."""


class Adjacencies:
    """The neighbours of one speaker."""

    def __init__(self, max_paths: int, now: Callable[[], float] = time.monotonic) -> None:
        self.aim = Aim()
        self.standing: dict[IPAddress, Standing] = {}
        self.downs: dict[IPAddress, str] = {}
        """Why the last session, or attempt, with a neighbour has ended."""
        self.lost: str = "not connected to exabgp yet"
        """Why nothing is known of the sessions; "" while it is."""
        self.rib = Rib(self.aim.policy, max_paths)
        self.sessions: dict[IPAddress, str] = {}
        """As exabgp has them, with their fingerprints."""
        self.brought: Neighbourhood | None = None
        """Whose sessions they are, all of them."""
        self._now = now
        self._openings: dict[IPAddress, Opened] = {}
        """The last OPEN of each neighbour."""
        self._heard: frozenset[IPAddress] = frozenset()
        """Whom the RIB listens to."""
        self._conflicts: dict[IPNetwork, Conflict] = {}
        """As was said last."""

    def follow(self, aim: Aim) -> None:
        """Listen to these neighbours, and take from them what may be taken."""
        before, self.aim = self.aim, aim
        if aim.policy != before.policy:
            self.rib.policy_changed(aim.policy)
        self._listen_to_wanted()

    def heard_all(self, peer: IPAddress) -> bool:
        """True if the neighbour has told all that it has."""
        standing = self.standing.get(peer)
        return standing is not None and standing.heard_at is not None and standing.heard_at <= self._now()

    @property
    def settled(self) -> bool:
        """True if all neighbours have told all that they have."""
        return not self.lost and all(map(self.heard_all, self.aim.neighbours))

    def take(self, news: News) -> None:
        """What exabgp says."""
        match news:
            case Synced():
                self._take_synced(news)
            case Lost(why):
                self.lost = why
                for peer in list(self.standing):
                    self._take_down(peer, "exabgp lost", hard=False)
                self.sessions, self.brought = {}, None
            case Opened(peer):
                self._openings[peer] = news
            case Up(peer):
                self.standing[peer] = Standing(self._opening(peer), self._now())
                if (neighbour := self.aim.neighbours.get(peer)) is not None:
                    self._listen_to(neighbour)
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
        self.sessions, self.brought = dict(news.sessions), None
        self._openings |= news.opened
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
        return self._openings.setdefault(peer, Opened(peer, Asn(0), UNKNOWN, 0, kept_s))

    @property
    def router_ids(self) -> Mapping[IPAddress, str]:
        """Of all neighbours that have ever said theirs: it is also that of one whose paths have outlived its session."""
        return {peer: opened.router_id for peer, opened in self._openings.items()}

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
        for neighbour in neighbours.values():
            self._listen_to(neighbour)

    def _listen_to(self, neighbour: Neighbour) -> None:
        opened = self._openings.get(neighbour.session.peer)
        router_id = UNKNOWN if opened is None else opened.router_id
        self.rib.add_peer(PeerInfo(neighbour.session, router_id, neighbour.imports, neighbour.max_prefix))

    def lose(self, peer: IPAddress, why: str) -> None:
        """The neighbour is dead, though its session still stands: forget what it told."""
        self.rib.down(peer, True, 0, self._now())
        self.standing[peer].dead = why

    def rest_s(self) -> float | None:
        """How long `drop_stale` has nothing to do; None: until something happens."""
        now = self._now()
        told = [each.heard_at for each in self.standing.values() if each.heard_at is not None and each.heard_at > now]
        expiry = self.rib.next_expiry()
        waits = [max(due - now, 0) for due in (*told, *([] if expiry is None else [expiry]))]
        return min(waits, default=None)

    def drop_stale(self) -> None:
        """What its time is over of, and what neighbours have not told again that have told all."""
        self.rib.expire(self._now())
        for peer in filter(self.heard_all, self.standing):
            for family in FAMILIES:
                self.rib.end_of_rib(peer, family)

    def say_conflicts(self) -> None:
        """Each once, and again when others take part in it, or win."""
        before, self._conflicts = self._conflicts, {each.prefix: each for each in self.rib.conflicts()}
        for prefix in before.keys() - self._conflicts.keys():
            log.info("bgp conflict is over", prefix=prefix)
        for prefix, conflict in self._conflicts.items():
            if before.get(prefix) != conflict:
                log.warning("bgp conflict", prefix=prefix, why=conflict)
