"""Which of several paths to one prefix is best, and which others are as good; must not know where they are kept.

RFC 4271 §9.1.2.2, as a list of steps that each leave over the best of those before; there is no IGP here, whose metric would be
step e. RFC 4456 §9 (originator id, cluster list). The result hangs on the set of the paths alone, never on their order: MEDs are
compared among all paths of one neighbour AS before anything else of them is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum

from bgp.path import DEFAULT_LOCAL_PREF, Asn, Path
from bgp.peer import PeerInfo


@dataclass(frozen=True, slots=True)
class Candidate:
    """One path among which is chosen."""

    path: Path
    """As the import policy left it."""
    peer: PeerInfo
    stale: bool = False
    """Kept from a session that was lost."""


class Learned(IntEnum):
    """By which kind of session."""

    EXTERNALLY = 0
    INTERNALLY = 1


class Freshness(IntEnum):
    """Whether the session that brought it still stands."""

    FRESH = 0
    STALE = 1


@dataclass(frozen=True, slots=True)
class Step:
    """One comparison: only those with the best value stay."""

    name: str
    value: Callable[[Candidate], int]
    best: Callable[[Iterable[int]], int] = min
    within: Callable[[Candidate], object] = lambda candidate: None
    """Only candidates that are alike in this are compared."""

    def leave(self, candidates: Sequence[Candidate]) -> dict[int, str]:
        """Those that do not stay, by their places, with the reason."""
        values = [self.value(candidate) for candidate in candidates]
        if len(set(values)) == 1:
            return {}
        groups: dict[object, dict[int, int]] = {}
        for place, candidate in enumerate(candidates):
            groups.setdefault(self.within(candidate), {})[place] = values[place]
        lost = dict[int, str]()
        for group in groups.values():
            best = self.best(group.values())
            lost |= {place: f"{self.name} {_shown(has)}, another {_shown(best)}" for place, has in group.items() if has != best}
        return lost


def local_pref(candidate: Candidate) -> int:
    """The higher the better; 100 where none is given."""
    said = candidate.path.attributes.local_pref
    return DEFAULT_LOCAL_PREF if said is None else said


def neighbour_as(candidate: Candidate) -> Asn | None:
    """The AS that the path came to ours from; None where it began in ours, or as a set."""
    sequence = candidate.path.attributes.as_path.sequence
    return sequence[0] if sequence else None


STEPS = (
    Step("local preference", local_pref, best=max),
    Step("AS path length", lambda each: each.path.attributes.as_path.length),
    Step("origin", lambda each: each.path.attributes.origin),
    Step("MED", lambda each: each.path.attributes.med or 0, within=neighbour_as),
    Step("learned", lambda each: Learned(each.peer.session.internal)),
    Step("is", lambda each: Freshness(each.stale)),
)
"""A to d of RFC 4271 §9.1.2.2; stale ones, which no RFC ranks here, lose to fresh ones that are as good."""


def equals(candidates: Iterable[Candidate]) -> list[Candidate]:
    """All that no step tells from the best, best first: traffic may be shared among them."""
    return sorted(compare(candidates)[0], key=order)


def compare(candidates: Iterable[Candidate]) -> tuple[list[Candidate], list[tuple[Candidate, str]]]:
    """Those that pass all steps, and the others with the reason, those that came furthest first."""
    staying, lost = list(candidates), list[tuple[Candidate, str]]()
    for step in STEPS:
        if len(staying) < 2:
            break
        leaving = step.leave(staying)
        if leaving:
            lost = [(staying[place], why) for place, why in leaving.items()] + lost
            staying = [candidate for place, candidate in enumerate(staying) if place not in leaving]
    return staying, lost


def order(candidate: Candidate) -> tuple[int, ...]:
    """Among equals the lowest is best (§9.1.2.2 f and g): router id of who brought it into the AS, cluster list, peer's address."""
    path, attributes = candidate.path, candidate.path.attributes
    brought_by = candidate.peer.rank if attributes.originator_id is None else int(attributes.originator_id)
    return brought_by, len(attributes.cluster_list), path.peer.version, int(path.peer), path.path_id


def _shown(value: int) -> str:
    return value.name.lower() if isinstance(value, IntEnum) else str(value)
