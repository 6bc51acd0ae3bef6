"""What one peer announced in vain: counted by reason, and a few of each reason kept; must not know why.

A peer that announces the whole Internet costs no more memory than one that makes a few mistakes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from bgp.admission import Reason, Refusal
from bgp.path import Path
from flanneld.lease import IPNetwork

Key: TypeAlias = tuple[IPNetwork, int]
"""Tells the paths of one peer apart: the prefix, and the path's number."""
KEPT = 16
"""Of each reason: enough to see the mistake, and for a host's own handful of prefixes all of them."""


@dataclass(frozen=True, slots=True)
class Refused:
    """One announcement that is not in force."""

    path: Path
    """As it was announced."""
    refusal: Refusal

    def __str__(self) -> str:
        return f"{self.path.prefix} via {self.path.next_hop} from {self.path.peer}: {self.refusal}"


class Refusals:
    """Of one peer's session."""

    def __init__(self) -> None:
        self._kept: dict[Key, Refused] = {}
        self._room: Counter[Reason] = Counter()
        """How many of each reason are kept."""
        self._counts: Counter[Reason] = Counter()

    @property
    def counts(self) -> Mapping[Reason, int]:
        """How many by reason; exact up to KEPT of one."""
        return +self._counts

    def any_for(self, reason: Reason) -> bool:
        """True if there are some of it."""
        return self._counts[reason] > 0

    @property
    def unkept(self) -> frozenset[Reason]:
        """The reasons for which there are others than those kept, which only the peer knows."""
        return frozenset(reason for reason, count in self._counts.items() if count > self._room[reason])

    def __iter__(self) -> Iterator[Refused]:
        return iter(self._kept.values())

    def add(self, key: Key, path: Path, refusal: Refusal) -> None:
        """Count it, and keep it while there is room."""
        self._counts[refusal.reason] += 1
        if self._room[refusal.reason] < KEPT:
            self._room[refusal.reason] += 1
            self._kept[key] = Refused(path, refusal)

    def discard(self, key: Key) -> None:
        """The peer has withdrawn it, or announced it anew; nothing happens when it was not kept."""
        refused = self._kept.pop(key, None) if self._kept else None
        if refused is not None:
            self._counts[refused.refusal.reason] -= 1
            self._room[refused.refusal.reason] -= 1

    def take(self) -> tuple[Path, ...]:
        """Take out what is kept, to judge it again."""
        kept = tuple(self._kept.items())
        for key, _ in kept:
            self.discard(key)
        return tuple(refused.path for _, refused in kept)

    def clear(self) -> None:
        """The peer will tell all of it again."""
        self._kept.clear()
        self._room.clear()
        self._counts.clear()
