"""All peers' plans in one reconcile, and what they came to, kept from round to round; must not know any backend.

What stays as it was is not looked at again: with thousands of peers, of which one has changed, the rest costs a comparison each.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from flanneld.backend import Plan, Refusal, Wanted
from flanneld.kernel import Entry, Kernel, Owner, Report, bring, count_kinds, reconcile
from flanneld.lease import Lease


@dataclass(frozen=True, slots=True)
class Programmed:
    """What one round did."""

    refused: tuple[Refusal, ...]
    """The peers that have no plan, or cannot have what theirs says."""
    report: Report
    wanted: Counter[str] = field(default_factory=Counter)
    """How many entries there should be now, by kind."""
    missing: Counter[str] = field(default_factory=Counter)
    """How many of them the kernel refused."""


@dataclass(frozen=True, slots=True)
class _Change:
    """Of what all peers need."""

    shared: tuple[Entry, ...]
    """All of it."""
    come: frozenset[Entry]
    gone: frozenset[Entry]

    @classmethod
    def of(cls, before: tuple[Entry, ...], now: tuple[Entry, ...]) -> _Change:
        """What stays is the same objects, as a rule: with thousands of them, comparing values takes long."""
        known, present = ({id(entry) for entry in entries} for entries in (before, now))
        come = frozenset(entry for entry in now if id(entry) not in known)
        gone = frozenset(entry for entry in before if id(entry) not in present)
        return cls(now, come - gone, gone - come)


@dataclass(slots=True)
class _Book:
    """What is wanted, and by whom."""

    owner: Owner
    shared: tuple[Entry, ...]
    entries: dict[Entry, Lease | None] = field(default_factory=dict)
    """None: all peers need it."""
    slots: dict[object, Entry] = field(default_factory=dict)
    again: Counter[Entry] = field(default_factory=Counter)
    """How many more peers want an entry that one wants already."""
    plans: dict[int, tuple[Lease, Plan]] = field(default_factory=dict)
    """By the plan's identity, which is its own as long as it is in here."""
    clashes: list[Refusal] = field(default_factory=list)
    """Peers whose plans cannot be, for what others' say."""

    def enter(self, peer: Lease, plan: Plan) -> None:
        """Take a plan in, or the refusal that it comes to."""
        self.plans[id(plan)] = (peer, plan)
        if isinstance(plan, Refusal):
            return
        slots = self.slots
        if clash := next((entry for entry in plan if slots.get(entry.slot, entry) != entry), None):
            # A cloned machine, or one that moved and left its old lease: the two would displace each other for ever.
            held = slots[clash.slot]
            by = f"peer {self.entries[held]} needs" if self.entries[held] else "all need"
            self.clashes.append(Refusal(peer, f"needs {clash}, where {by} {held}"))
            return
        for entry in plan:
            if entry in self.entries:
                self.again[entry] += 1
            else:
                self.entries[entry], slots[entry.slot] = peer, entry

    def takes(self, change: _Change) -> bool:
        """True if what all need can change by itself: nobody else wants what goes, and nobody has the slot of what comes."""
        held = (self.slots.get(entry.slot) for entry in change.come)
        return not any(self.again[entry] for entry in change.gone) and all(one is None or one in change.gone for one in held)

    def share(self, change: _Change) -> None:
        """Go on with what all need now."""
        for entry in change.gone:
            del self.entries[entry], self.slots[entry.slot]
        for entry in change.come:
            self.entries[entry], self.slots[entry.slot] = None, entry
        self.shared = change.shared

    def strike(self, plan: Plan) -> None:
        """Take a plan out."""
        del self.plans[id(plan)]
        for entry in () if isinstance(plan, Refusal) else plan:
            if self.again[entry]:
                self.again[entry] -= 1
            else:
                del self.entries[entry], self.slots[entry.slot]


class Programmer:
    """Programs round after round, and knows after each what there should be."""

    def __init__(self) -> None:
        self._book: _Book | None = None
        self._usable = False

    def forget(self) -> None:
        """What is in the kernel may be something else."""
        self._usable = False

    def knows(self, entry: Entry, *, deleted: bool) -> bool:
        """True if that an entry is there, or that none is in its slot any more, is what the last round has left."""
        if not self._usable or self._book is None:
            return False
        return entry.slot not in self._book.slots if deleted else entry in self._book.entries

    def program(self, kernel: Kernel, owner: Owner, wants: Collection[Wanted]) -> Programmed:
        """Bring the owner's part of the kernel to all that is wanted.

        Unless there is reason to read the kernel again, only what has changed since the last round is looked at. Raises the first
        KernelError that concerns no peer: something stale stays.
        """
        before, usable = self._book, self._usable
        self._usable = False  # until it is done
        shared = tuple(entry for want in wants for entry in want.entries)
        pairs = [pair for want in wants for pair in want.plans]
        known = before if before is not None and usable and before.owner == owner else None
        change = _Change.of(known.shared if known is not None else (), shared)
        have = frozenset(known.entries) if known is not None and (known.clashes or not known.takes(change)) else None
        report: Report | None = None
        if known is not None and have is None:
            was, now = _follow(known, change, pairs)
            if known.clashes:  # who has the slot is for the order of all to say
                have = (frozenset(known.entries) - now) | was
            else:
                report = bring(kernel, now - was, was - now, known=True)
        if report is None:
            self._book = _written(owner, shared, pairs)
            report = reconcile(kernel, owner, self._book.entries, have)
        assert self._book is not None  # noqa: S101  # by either way
        done = _judged(self._book, report, [plan for _, plan in pairs if isinstance(plan, Refusal)])
        self._usable = not report.refused
        return done


def _follow(book: _Book, change: _Change, pairs: Iterable[tuple[Lease, Plan]]) -> tuple[frozenset[Entry], frozenset[Entry]]:
    """Take in what came, and out what went; of the entries that are concerned, those that were there, and that are now."""
    present = {id(plan): (peer, plan) for peer, plan in pairs}
    gone = [plan for key, (_, plan) in book.plans.items() if key not in present]
    come = [pair for key, pair in present.items() if key not in book.plans]
    touched = {entry for plan in (*gone, *(plan for _, plan in come)) if not isinstance(plan, Refusal) for entry in plan}
    touched |= change.come | change.gone
    was = frozenset(entry for entry in touched if entry in book.entries)
    for plan in gone:
        book.strike(plan)
    book.share(change)
    for peer, plan in come:
        book.enter(peer, plan)
    return was, frozenset(entry for entry in touched if entry in book.entries)


def _written(owner: Owner, shared: tuple[Entry, ...], pairs: Iterable[tuple[Lease, Plan]]) -> _Book:
    book = _Book(owner, shared, dict.fromkeys(shared), {entry.slot: entry for entry in shared})
    for peer, plan in pairs:
        book.enter(peer, plan)
    return book


def _judged(book: _Book, report: Report, refused: Iterable[Refusal]) -> Programmed:
    """Who cannot be reached, by what the kernel has refused too."""
    unfit: dict[Lease, Refusal] = {}
    missing: list[Entry] = []
    for error in report.refused:
        concerned = book.entries.get(error.what) if isinstance(error.what, Entry) else None
        if concerned is None or not isinstance(error.what, Entry):
            raise error
        missing.append(error.what)
        unfit.setdefault(concerned, Refusal(concerned, f"cannot be programmed: {error}"))
    return Programmed((*refused, *book.clashes, *unfit.values()), report, count_kinds(book.entries), count_kinds(missing))


def program(kernel: Kernel, owner: Owner, wants: Collection[Wanted]) -> Programmed:
    """One round by itself."""
    return Programmer().program(kernel, owner, wants)
