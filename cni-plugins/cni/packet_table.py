"""Our packet filter tables in the kernel: elements put in and taken out, tables kept as they should be; must not know any plugin.

The rules never change while we run; a pod is a few elements. A table that is not there, or not as we made it, is made whole again
in one transaction, with all elements that should be in it. No socket is open before the first need.
"""

from __future__ import annotations

import errno
import threading
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TypeAlias

from cni.ledger import HeldElement
from cni.packet_elements import encode_held
from cni.packet_rules import PLACES, SHARED, STANDING, TABLES
from cni.spec import CniError, Code
from flanneld.kernel import KernelError
from flanneld.linux.message import Message
from flanneld.linux.nft import NftMissing, nft_notices
from flanneld.linux.nft_elements import NftSocket, concerns, encode_element
from flanneld.linux.nft_tables import NftTable, delete_table, replace_table
from flanneld.log import Log

log = Log(__name__)

SPARE_LEAVING = 512
"""So many elements that were taken out may be remembered before it is looked which are still held."""

Slot: TypeAlias = tuple[str, str]
"""Set and key: what there is one element of."""
Place: TypeAlias = tuple[int, str]
"""Family and name of a table."""


class PacketTable:
    """The node's nftables tables, whose rules are fixed and whose sets and maps have a few elements per pod. Safe for threads."""

    def __init__(self, wanted: Callable[[], Iterable[HeldElement]] = tuple) -> None:
        """`wanted` says all elements that are held on the node, one that two hold twice; it is called in the middle of our work."""
        self._wanted = wanted
        self._lock = threading.RLock()
        self._socket: NftSocket | None = None
        self._shapes: dict[Place, object] = {}
        """By table: what it was when we had made it."""
        self._leaving: set[Slot] = set()
        """Taken out, and perhaps still in `wanted`: whoever takes has not said yet that it no longer holds them."""
        self._standing: set[HeldElement] = set()
        """Of STANDING, those that are there."""

    def put(self, elements: Iterable[HeldElement]) -> None:
        """Put elements in, all or none, and the table when there is none; what is present already is no error. Raises CniError."""
        with self._lock, _told("put elements into"):
            held = [each for each in dict.fromkeys(elements) if each not in self._standing]
            self._leaving.difference_update(map(_slot, held))
            if not held:
                return
            outcomes = self._nft.commit([encode_element(*encode_held(each)) for each in held])
            if broken := {_table_of(each) for each, refused in zip(held, outcomes, strict=True) if refused}:
                ours = set(held)
                kept = [each for each in self._present_wanted() if _table_of(each) in broken and each not in ours]
                self._make(broken, kept, held)
            self._standing.update(each for each in held if each.set in STANDING)

    def take(self, elements: Iterable[HeldElement]) -> None:
        """Take elements out; what is absent (the table, say) is no error, and what others hold too stays. Raises CniError."""
        held = [each for each in dict.fromkeys(elements) if each.set in PLACES and each.set not in STANDING]
        if not held:
            return
        with self._lock, _told("take elements out of"):
            going = self._last_held(held)
            self._leaving.update(map(_slot, going))
            if len(self._leaving) > SPARE_LEAVING:
                self._present_wanted()
            changes = [encode_element(*encode_held(each), delete=True) for each in going]
            with suppress(NftMissing):
                self._commit_most(changes, errno.ENOENT)

    def missing(self, elements: Iterable[HeldElement]) -> list[HeldElement]:
        """Those that are not in the kernel. Raises CniError."""
        with self._lock, _told("look into"):
            return [each for each in elements if not self._nft.has(*encode_held(each))]

    def probe(self) -> None:
        """Raise CniError (50) if there can be no table."""
        with self._lock, _told("use", Code.NOT_AVAILABLE):
            self._nft.usable()

    @contextmanager
    def netfilter(self) -> Iterator[NftSocket]:
        """Our socket, for another question: closing any takes 15 ms after elements were taken out. Raises NftMissing, OSError."""
        with self._lock:
            yield self._nft

    def reconcile(self) -> bool:
        """Bring the tables to our rules and the wanted elements, each in one step; true if something was amiss. Raises CniError.

        What is wanted is asked in here, so that no `put` comes between. A table of which no element is wanted goes.
        """
        with self._lock, _told("reconcile"):
            held = self._present_wanted()
            amiss = False
            self._standing.clear()
            for place, table in TABLES.items():
                amiss |= self._reconcile_table(table, [each for each in held if _table_of(each) == place])
            return amiss

    def changes(self) -> AsyncGenerator[None, None]:
        """Yield at once, and after others than us have touched our tables; never ends. Raises NftMissing at the start."""
        return nft_notices(lambda notice: concerns(notice, TABLES.values(), self._ports()))

    def close(self) -> None:
        with self._lock:
            if self._socket is not None:
                self._socket.close()
                self._socket = None

    @property
    def _nft(self) -> NftSocket:
        if self._socket is None:
            self._socket = NftSocket()
        return self._socket

    def _ports(self) -> Collection[int]:
        return () if self._socket is None else (self._socket.portid,)

    def _present_wanted(self) -> list[HeldElement]:
        """Without those that are on their way out."""
        wanted = list(self._wanted())
        self._leaving.intersection_update(map(_slot, wanted))
        return [each for each in dict.fromkeys(wanted) if each.set in PLACES and _slot(each) not in self._leaving]

    def _last_held(self, held: Collection[HeldElement]) -> list[HeldElement]:
        """Those that nobody else holds; our own holding still counts."""
        if not any(each.set in SHARED for each in held):
            return list(held)
        holders = Counter(each for each in self._wanted() if each.set in SHARED)
        return [each for each in held if holders[each] < 2]

    def _reconcile_table(self, table: NftTable, held: Collection[HeldElement]) -> bool:
        place = _place(table)
        shape = self._nft.shape(table)
        if not held:
            self._shapes.pop(place, None)
            if shape is not None:
                self._commit_most(delete_table(table))
            return False
        if shape is not None and shape == self._shapes.get(place):
            return self._reconcile_elements(table, held)
        amiss = shape is None or place in self._shapes
        self._make({place}, held)
        return amiss

    def _reconcile_elements(self, table: NftTable, held: Iterable[HeldElement]) -> bool:
        present = {element for each in table.sets for element in self._nft.elements(table, each.name)}
        wanted = {encode_held(each)[1] for each in held}
        changes = [encode_element(table, element, delete=True) for element in present - wanted]
        changes += [encode_element(table, element) for element in wanted - present]
        return self._commit_most(changes, errno.ENOENT, errno.EEXIST, errno.ENOTEMPTY)

    def _make(self, places: Collection[Place], kept: Iterable[HeldElement], held: Collection[HeldElement] = ()) -> None:
        """Make tables anew with the elements that were kept, and those held now, wherever; in one transaction.

        If two that were kept exclude each other, which should not be, the first counts; what is held now must fit.
        """
        definitions = [message for place in places for message in replace_table(TABLES[place])]
        elements = [*kept, *held]
        while True:
            outcomes = self._nft.commit([*definitions, *(encode_element(*encode_held(each)) for each in elements)])
            refused = [(each, outcome) for each, outcome in zip(elements, outcomes[len(definitions) :], strict=True) if outcome]
            if fatal := [outcome for outcome in outcomes[: len(definitions)] if outcome]:
                raise KernelError(int(fatal[0]), "definition of the packet filter table", fatal[0].why)
            for each, outcome in refused:
                if each in held and each.set not in STANDING:  # of subnets that overlap, the first counts
                    raise KernelError(int(outcome), f"element {each.key} of {each.set}", outcome.why)
                log.warning("element does not fit", set=each.set, key=each.key, why=outcome.why)
            if not refused:
                break
            elements = [each for each in elements if each not in {each for each, _ in refused}]
        for place in places:
            self._shapes[place] = self._nft.shape(TABLES[place])

    def _commit_most(self, changes: Sequence[Message], *harmless: int) -> bool:
        """Do the changes but for those that are refused for a harmless reason; true if any was done. Raises KernelError."""
        while changes:
            outcomes = self._nft.commit(changes)
            for outcome in outcomes:
                if outcome and outcome not in harmless:
                    raise KernelError(int(outcome), "a change of the packet filter table", outcome.why)
            if not any(outcomes):
                return True
            changes = [change for change, outcome in zip(changes, outcomes, strict=True) if not outcome]
        return False


def _slot(element: HeldElement) -> Slot:
    return element.set, element.key


def _table_of(element: HeldElement) -> Place:
    return _place(PLACES[element.set][0])


def _place(table: NftTable) -> Place:
    return table.family, table.name


@contextmanager
def _told(what: str, code: int = Code.FAILED) -> Iterator[None]:
    try:
        yield
    except (KernelError, NftMissing, OSError) as error:
        raise CniError(code, f"cannot {what} the packet filter table", str(error)) from error
