"""All that is known of ways to prefixes: what the peers say (RFC 4271 §3.2), what of it is chosen, and why not the rest.

Fed with what happens in the sessions; time enters as `now`, in seconds of any clock. Must not know how the sessions are made, nor
what the choices mean for the kernel. A peer that was not added, or is forgotten, is not listened to.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping

from bgp.adj_rib_in import AdjRibIn
from bgp.admission import ImportPolicy, Reason
from bgp.best_path import Candidate
from bgp.loc_rib import Conflict, Explained, LocRib, whose
from bgp.path import Path
from bgp.peer import PeerInfo, PeerState
from bgp.refusals import Key, Refused
from flanneld.lease import Family, IPAddress, IPNetwork

MAX_PATHS = 8
"""Next hops of one route, unless told otherwise."""
OURSELVES = "this host"


class Rib:
    """The RIB of this host."""

    def __init__(self, policy: ImportPolicy, max_paths: int = MAX_PATHS) -> None:
        self._policy = policy
        self._peers: dict[IPAddress, AdjRibIn] = {}
        self._loc = LocRib(policy, max_paths)

    def add_peer(self, peer: PeerInfo) -> None:
        """Listen to a peer; for one that is known, go on with what is known of it now: its router id, its rules, its limit."""
        known = self._peers.get(peer.address)
        if known is None:
            self._peers[peer.address] = AdjRibIn(peer, self._policy)
        elif known.peer != peer:
            known.judge(self._policy, peer)
            self._changed(known, known.keys())

    def forget(self, peer: IPAddress) -> None:
        """Drop the peer and its paths."""
        known = self._peers.pop(peer, None)
        if known is not None:
            self._changed(known, known.clear())

    def announced(self, peer: IPAddress, paths: Iterable[Path]) -> None:
        """Take new paths of the peer, and new attributes of known ones."""
        if peer in self._peers:
            self._changed(self._peers[peer], self._peers[peer].learn(paths))

    def withdrawn(self, peer: IPAddress, prefixes: Iterable[Key]) -> None:
        """Drop paths of the peer, by prefix and path number; what is not there is passed over."""
        if peer in self._peers:
            self._changed(self._peers[peer], self._peers[peer].unlearn(prefixes))

    def up(self, peer: IPAddress) -> None:
        """The session stands. What is stale stays, until `end_of_rib` or its time."""
        if peer in self._peers:
            self._peers[peer].up = True

    def down(self, peer: IPAddress, hard: bool, keep_s: float, now: float) -> None:
        """The session is over: drop what the peer told, or keep it as stale for `keep_s` seconds when that is not 0.

        `hard`: it is void (`Down.hard`, or the peer is dead as BFD tells); drop it whatever `keep_s` is. What an earlier loss has
        made stale is not kept longer than it was to be. That a mere attempt at a session failed is for the caller to leave out.
        """
        known = self._peers.get(peer)
        if known is not None:
            self._changed(known, known.clear() if hard or keep_s <= 0 else known.lose(now + keep_s))

    def end_of_rib(self, peer: IPAddress, family: Family) -> None:
        """The peer has told all in this family: what is still stale is gone. The same where it says that it kept nothing."""
        if peer in self._peers:
            self._changed(self._peers[peer], self._peers[peer].drop_stale(lambda key, until: key[0].version == family))

    def expire(self, now: float) -> bool:
        """Drop the stale paths whose time is over; true if there were any."""
        gone = 0
        for known in self._peers.values():
            over = known.drop_stale(lambda key, until: until <= now)
            self._changed(known, over)
            gone += len(over)
        return gone > 0

    def next_expiry(self) -> float | None:
        """When `expire` has something to do next, by the clock of `now`; None: never."""
        return min((until for known in self._peers.values() if (until := known.next_expiry()) is not None), default=None)

    def resync(self, peer: IPAddress, paths: Collection[Path]) -> None:
        """The session stands, and these are all paths that it brought: for a start beside a speaker that has run on.

        For a session that may still be in the middle of telling, `up` and `announced` are right: they keep what is stale.
        """
        self.up(peer)
        if peer in self._peers:
            self._changed(self._peers[peer], self._peers[peer].replace(paths))

    def refreshed(self, peer: IPAddress) -> None:
        """A ROUTE-REFRESH was sent: the peer tells all again, so what it was refused so far is forgotten."""
        if peer in self._peers:
            self._peers[peer].refreshed()

    def policy_changed(self, policy: ImportPolicy) -> None:
        """Judge everything by this policy; also when it is the same, and what its `on_link` goes by has changed."""
        self._policy = policy
        for known in self._peers.values():
            self._changed(known, known.judge(policy, known.peer))
        self._loc.judge(policy)

    def choices(self) -> Mapping[IPNetwork, tuple[Path, ...]]:
        """All next hops to use, as paths, by prefix, best first; a view, and a prefix whose choice stays keeps the very tuple."""
        return self._loc.choices()

    def conflicts(self) -> tuple[Conflict, ...]:
        """The prefixes that several hosts claim, us among them: what is ours is ours here, but others may see it otherwise."""
        ours: dict[IPNetwork, set[str]] = {}
        for known in self._peers.values():
            for each in known.refused():
                if each.refusal.reason is Reason.OWN_SUBNET and each.path.prefix in self._policy.own_subnets:
                    ours.setdefault(each.path.prefix, set()).add(whose(Candidate(each.path, known.peer), self._policy))
        own = (Conflict(prefix, OURSELVES, tuple(sorted(others))) for prefix, others in ours.items())
        return (*own, *self._loc.conflicts())

    def explain_all(self) -> Iterator[Explained]:
        """The same of all prefixes, in their order; then all that is kept of what was refused."""
        for prefix in sorted(self.choices(), key=lambda net: (net.version, net)):
            yield from self._loc.explain(prefix)
        for known in self._peers.values():
            yield from map(_refused, known.refused())

    def explain(self, prefix: IPNetwork) -> tuple[Explained, ...]:
        """All paths to the prefix, each with the reason: those in use, those that are not, and what is kept of those refused."""
        refused = [each for known in self._peers.values() for each in known.refused() if each.path.prefix == prefix]
        return (*self._loc.explain(prefix), *map(_refused, refused))

    def refusals(self, peer: IPAddress) -> tuple[Refused, ...]:
        """The peer's announcements that are refused: a few of each reason, and those that were taken before the policy changed."""
        return tuple(self._peers[peer].refused()) if peer in self._peers else ()

    def state(self, peer: IPAddress) -> PeerState | None:
        """How the peer's routes fare; None for one that is not known."""
        return self._peers[peer].state() if peer in self._peers else None

    def demanding(self) -> list[IPAddress]:
        """The peers of whose state there may be something to say or to do."""
        return [peer for peer, known in self._peers.items() if known.demanding]

    def _changed(self, known: AdjRibIn, keys: Iterable[Key]) -> None:
        for prefix, path_id in keys:
            self._loc.put(prefix, path_id, known.peer.address, known.candidate((prefix, path_id)))


def _refused(each: Refused) -> Explained:
    return Explained(each.path, False, f"refused: {each.refusal}")
