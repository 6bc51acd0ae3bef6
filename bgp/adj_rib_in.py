"""What one peer has told us, and what of it counts (Adj-RIB-In, RFC 4271 §3.2); must not know other peers' paths.

A path that was taken is kept as it came, and judged again when the policy changes. Paths outlive a lost connection for a while,
marked stale (RFC 4724 §4.2). What changes is returned as keys, for whoever chooses among the peers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from types import MappingProxyType

from bgp.admission import ImportPolicy, Reason, Refusal
from bgp.best_path import Candidate
from bgp.path import Path
from bgp.peer import PeerInfo, PeerState
from bgp.refusals import Key, Refusals, Refused


@dataclass(frozen=True, slots=True)
class Learned:
    """One path, as it was told and as it counts."""

    told: Path
    verdict: Path | Refusal
    """A refusal: it was taken once, and the policy has changed since."""


class AdjRibIn:
    """All paths of one peer."""

    def __init__(self, peer: PeerInfo, policy: ImportPolicy) -> None:
        self.peer = peer
        self.up = False
        self._policy = policy
        self._learned: dict[Key, Learned] = {}
        self._stale: dict[Key, float] = {}
        """Until when they are kept, in the caller's seconds."""
        self._refusals = Refusals()
        self._again = False
        """The policy now lets through what was refused and not kept."""

    def learn(self, paths: Iterable[Path]) -> list[Key]:
        """Take new paths, and new attributes of known ones; returns what has changed."""
        return [key for path in paths if (key := self._learn(path)) is not None]

    def _learn(self, path: Path) -> Key | None:
        key = (path.prefix, path.path_id)
        self._refusals.discard(key)
        verdict = self._policy.admit(path, self.peer.session, self.peer.rules)
        known = key in self._learned
        if isinstance(verdict, Path) and not known and self._is_full():
            verdict = Refusal(Reason.LIMIT, f"prefix {path.prefix} is one too many, expected {len(self._learned)} at most")
        if isinstance(verdict, Refusal):
            self._refusals.add(key, path, verdict)
            return key if self._drop(key) else None
        self._stale.pop(key, None)
        self._learned[key] = Learned(path, verdict)
        return key

    def unlearn(self, keys: Iterable[Key]) -> list[Key]:
        """Drop what the peer has withdrawn; what is not there is passed over. Returns what has changed."""
        gone = []
        for key in keys:
            self._refusals.discard(key)
            if self._drop(key):
                gone.append(key)
        return gone

    def _drop(self, key: Key) -> bool:
        self._stale.pop(key, None)
        return self._learned.pop(key, None) is not None

    def lose(self, until: float) -> list[Key]:
        """The session is lost: keep what there is until then, and what was stale before not longer than it was to be kept."""
        fresh = [key for key in self._learned if key not in self._stale]
        self._stale |= dict.fromkeys(fresh, until)
        self._begin_anew()
        return fresh

    def clear(self) -> list[Key]:
        """What the peer told is void."""
        gone = list(self._learned)
        self._learned.clear()
        self._stale.clear()
        self._begin_anew()
        return gone

    def _begin_anew(self) -> None:
        self.up = False
        self.refreshed()

    def refreshed(self) -> None:
        """The peer will tell all of it again."""
        self._refusals.clear()
        self._again = False

    def replace(self, paths: Collection[Path]) -> list[Key]:
        """These and no others are what the peer has told."""
        told = {(path.prefix, path.path_id) for path in paths}
        gone = self.unlearn([key for key in self._learned if key not in told])
        self.refreshed()
        return gone + self.learn(paths)

    def drop_stale(self, over: Callable[[Key, float], bool]) -> list[Key]:
        """Drop the stale paths that `over` says so of, by key and by until when they were to be kept."""
        return self.unlearn([key for key, until in self._stale.items() if over(key, until)]) if self._stale else []

    def next_expiry(self) -> float | None:
        return min(self._stale.values(), default=None)

    def judge(self, policy: ImportPolicy, peer: PeerInfo) -> list[Key]:
        """Judge all that is kept again; returns what counts otherwise than before."""
        before, self._policy, rules, self.peer = self._policy, policy, self.peer.rules, peer
        unkept = self._refusals.unkept
        self._again |= policy.opens(before, unkept) or (rules != peer.rules and Reason.RULE in unkept)
        changed = []
        for key, learned in self._learned.items():
            verdict = policy.admit(learned.told, peer.session, peer.rules)
            if verdict != learned.verdict:
                self._learned[key] = Learned(learned.told, verdict)
                changed.append(key)
        return changed + self.learn(self._refusals.take())

    def candidate(self, key: Key) -> Candidate | None:
        """The path, if there is one that counts."""
        learned = self._learned.get(key)
        if learned is None or isinstance(learned.verdict, Refusal):
            return None
        return Candidate(learned.verdict, self.peer, key in self._stale)

    def keys(self) -> Collection[Key]:
        """Of all paths that are kept."""
        return self._learned.keys()

    def refused(self) -> Iterator[Refused]:
        """What is kept of what does not count, with the reasons."""
        yield from self._refusals
        for learned in self._learned.values():
            if isinstance(learned.verdict, Refusal):
                yield Refused(learned.told, learned.verdict)

    @property
    def demanding(self) -> bool:
        """False when nothing in the state is about a limit, or wants anything; many peers have a state, and it takes long."""
        limit = self.peer.max_prefix
        many = limit is not None and len(self._learned) >= limit.warn_from
        return many or self._again or self._refusals.any_for(Reason.LIMIT)

    def state(self) -> PeerState:
        """How it all stands."""
        unfit = Counter(learned.verdict.reason for learned in self._learned.values() if isinstance(learned.verdict, Refusal))
        limit, refused = self.peer.max_prefix, Counter(self._refusals.counts)
        limited = refused[Reason.LIMIT] > 0
        return PeerState(
            up=self.up,
            paths=len(self._learned),
            stale=len(self._stale),
            refused=MappingProxyType(refused + unfit),
            warned=limit is not None and len(self._learned) >= limit.warn_from,
            limited=limited,
            wants_reset=limited and limit is not None and limit.hard,
            wants_refresh=self.up and (self._again or (limited and not self._is_full())),
        )

    def _is_full(self) -> bool:
        limit = self.peer.max_prefix
        return limit is not None and len(self._learned) >= limit.limit
