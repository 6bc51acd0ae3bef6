"""What is chosen among all peers' paths (Loc-RIB, RFC 4271 §3.2); must not know what was refused, nor sessions.

Only prefixes that were touched are chosen for again. A pod's prefix is at one host: where two announce it as their own, one of them
is mistaken, and traffic is not shared among them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from bgp.admission import ImportPolicy
from bgp.best_path import Candidate, compare, equals, local_pref
from bgp.path import Path
from bgp.policy import origin_as
from flanneld.lease import IPAddress, IPNetwork


@dataclass(frozen=True, slots=True)
class Conflict:
    """One prefix that several hosts say is theirs (split brain)."""

    prefix: IPNetwork
    winner: str
    """To whom traffic goes: a router id, or the AS where the host is behind one."""
    losers: tuple[str, ...]

    def __str__(self) -> str:
        claims = " and ".join((self.winner, *self.losers))
        return f"{self.prefix} is announced by {claims}, expected one host; traffic goes to {self.winner}"


@dataclass(frozen=True, slots=True)
class Explained:
    """One path to a prefix, and what became of it."""

    path: Path
    chosen: bool
    why: str


@dataclass(frozen=True, slots=True)
class Choice:
    """What one prefix's candidates come to."""

    used: tuple[Candidate, ...]
    """Best first, at least one."""
    passed_over: tuple[tuple[Candidate, str], ...]
    """As good as the best, with the reason."""


class LocRib:
    """The candidates and the choices, by prefix."""

    def __init__(self, policy: ImportPolicy, max_paths: int) -> None:
        self._policy = policy
        self._max_paths = max_paths
        self._candidates: dict[IPNetwork, dict[tuple[IPAddress, int], Candidate]] = {}
        self._touched: dict[IPNetwork, None] = {}
        self._chosen: dict[IPNetwork, tuple[Path, ...]] = {}
        self._best: dict[IPNetwork, Candidate] = {}
        self._conflicts: dict[IPNetwork, Conflict] = {}

    def put(self, prefix: IPNetwork, path_id: int, peer: IPAddress, candidate: Candidate | None) -> None:
        """The peer's path of that number is this now; None: there is none any more."""
        self._touched[prefix] = None
        if candidate is not None:
            self._candidates.setdefault(prefix, {})[peer, path_id] = candidate
            return
        others = self._candidates.get(prefix, {})
        others.pop((peer, path_id), None)
        if not others:
            self._candidates.pop(prefix, None)

    def judge(self, policy: ImportPolicy) -> None:
        """Whose prefixes are may be seen otherwise now: choose again where there is a choice."""
        self._policy = policy
        self._touched |= dict.fromkeys(prefix for prefix, candidates in self._candidates.items() if len(candidates) > 1)

    def choices(self) -> Mapping[IPNetwork, tuple[Path, ...]]:
        """All paths to use, by prefix, best first; a view, and a prefix whose choice stays keeps the very tuple."""
        touched, self._touched = self._touched, {}
        for prefix in touched:
            self._choose(prefix)
        return MappingProxyType(self._chosen)

    def conflicts(self) -> tuple[Conflict, ...]:
        """The prefixes that several hosts claim now, in their order."""
        self.choices()
        return tuple(self._conflicts[prefix] for prefix in sorted(self._conflicts, key=lambda net: (net.version, net)))

    def explain(self, prefix: IPNetwork) -> tuple[Explained, ...]:
        """Every candidate: those in use, those as good, those that are not, each with the reason."""
        self.choices()
        candidates = self._candidates.get(prefix, {}).values()
        if not candidates:
            return ()
        choice = self._choice(prefix, candidates)
        words = ["best", *["as good as the best"] * (len(choice.used) - 1)]
        used = [Explained(candidate.path, True, why) for candidate, why in zip(choice.used, words, strict=True)]
        worse = (*choice.passed_over, *compare(candidates)[1])
        return (*used, *(Explained(candidate.path, False, why) for candidate, why in worse))

    def _choose(self, prefix: IPNetwork) -> None:
        candidates = self._candidates.get(prefix, {}).values()
        self._conflicts.pop(prefix, None)
        if not candidates:
            self._chosen.pop(prefix, None)
            self._best.pop(prefix, None)
            return
        choice = self._choice(prefix, candidates)
        used = tuple(candidate.path for candidate in choice.used)
        if self._chosen.get(prefix) != used:
            self._chosen[prefix] = used
        self._best[prefix] = choice.used[0]
        if len(candidates) > 1 and self._policy.is_exclusive(prefix):
            self._look_for_conflict(prefix, candidates)

    def _choice(self, prefix: IPNetwork, candidates: Iterable[Candidate]) -> Choice:
        ranked = equals(candidates)
        holder = self._holder(prefix, ranked)
        used, passed_over = dict[IPAddress, Candidate](), list[tuple[Candidate, str]]()
        for candidate in ranked:
            next_hop = candidate.path.next_hop
            if holder is not None and (claimant := whose(candidate, self._policy)) != holder:
                passed_over.append((candidate, f"announced by {claimant}, while {holder} has the prefix"))
            elif next_hop in used:
                passed_over.append((candidate, f"next hop {next_hop} is in use already"))
            elif len(used) == self._max_paths:
                passed_over.append((candidate, f"{self._max_paths} next hops are in use, which is the limit"))
            else:
                used[next_hop] = candidate
        return Choice(tuple(used.values()), tuple(passed_over))

    def _holder(self, prefix: IPNetwork, ranked: list[Candidate]) -> str | None:
        """Whose paths alone may be used; of hosts whose claims are equally good, the one that had the prefix before keeps it."""
        if len(ranked) < 2 or not self._policy.is_exclusive(prefix):
            return None
        claims = [whose(candidate, self._policy) for candidate in ranked]
        best = self._best.get(prefix)
        before = None if best is None else whose(best, self._policy)
        return before if before in claims else claims[0]

    def _look_for_conflict(self, prefix: IPNetwork, candidates: Iterable[Candidate]) -> None:
        """A lower preference is how a pod that moves is left, and a stale path how a host is that has gone: no claims."""
        winner, best = whose(self._best[prefix], self._policy), self._best[prefix]
        rivals = [each for each in candidates if (each.stale, local_pref(each)) == (best.stale, local_pref(best))]
        losers = {whose(each, self._policy) for each in rivals} - {winner}
        if losers:
            self._conflicts[prefix] = Conflict(prefix, winner, tuple(sorted(losers)))


def whose(candidate: Candidate, policy: ImportPolicy) -> str:
    """Who announced the path first, as far as it tells: a host of our AS or in `origin_of` as router id, another as its AS."""
    path, session = candidate.path, candidate.peer.session
    asn = origin_as(path.attributes.as_path, session.local_as)
    # our own AS in the path is none that it came through: the rules have lengthened it
    if session.internal and asn == session.local_as:
        return str(path.attributes.originator_id or candidate.peer.router_id)
    if path.peer in policy.origin_of:
        return candidate.peer.router_id
    return f"AS {path.attributes.as_path if asn is None else asn}"
