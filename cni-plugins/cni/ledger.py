"""What this node holds for its pods, written down before it is made: addresses, links, packet filter elements, files.

An attachment is one interface of one container in one network; each plugin of its chain has a record of its own there. Must not
know how anything is made or undone.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from enum import StrEnum
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Self, TypeAlias, TypeVar

from cni.journal import Journal, JournalError, boot_id, read_journal
from cni.result import IPAddress
from flanneld.log import Log

log = Log(__name__)

T = TypeVar("T")

SPARE_LINES = 2000
"""So many lines more than records are written before the journal is written anew."""

FREED_KEPT = 4096
"""Addresses whose release is remembered: more than are given back in a minute."""


@dataclass(frozen=True, slots=True, order=True)
class Key:
    """Which attachment."""

    network: str
    container_id: str
    ifname: str

    def __str__(self) -> str:
        return f"{self.network}/{self.container_id}/{self.ifname}"


@dataclass(frozen=True, slots=True)
class HeldAddress:
    """An address out of a pool, which is a directory's path: host-local's dataDir/NETWORK."""

    pool: str
    ip: IPAddress


@dataclass(frozen=True, slots=True)
class HeldLink:
    """An interface in the host's namespace."""

    name: str
    tied: bool = True
    """It goes when the pod's namespace goes, as a veth does: its presence says that the pod is there."""


@dataclass(frozen=True, slots=True)
class HeldElement:
    """An element of a set or map in our packet filter table: `key`, and in a map also `value`, in nft's own words."""

    set: str
    key: str
    value: str = ""


@dataclass(frozen=True, slots=True)
class HeldFile:
    """A file that goes when the attachment goes."""

    path: str


Holding: TypeAlias = HeldAddress | HeldLink | HeldElement | HeldFile


class State(StrEnum):
    """How far a record's plugin has come; a record that is not MADE when nobody works on it is a leftover."""

    MAKING = "making"
    MADE = "made"
    GOING = "going"


@dataclass(frozen=True, slots=True)
class Netns:
    """A pod's namespace, as we could see it."""

    path: str
    device: int
    inode: int


@dataclass(frozen=True, slots=True)
class Record:
    """What one plugin holds for one attachment."""

    key: Key
    plugin: str
    holdings: tuple[Holding, ...] = ()
    netns: Netns | None = None
    """None: its path could not be seen from here, so that nothing follows from its absence."""
    state: State = State.MAKING
    since: float = field(default_factory=time.time)
    """Unix seconds."""
    caller: str = ""
    """The plugin that delegated to this one: without its record, or with an unfinished one, nobody needs this."""
    pod: str = ""
    """NAMESPACE/NAME, if the runtime said so (CNI_ARGS of Kubernetes)."""
    mtu_from: str | None = None
    """The subnet.env that the MTU comes from, and follows; empty: from the configuration; None: it is not said."""

    @property
    def elements(self) -> tuple[HeldElement, ...]:
        return self.of(HeldElement)

    def of(self, kind: type[T]) -> tuple[T, ...]:
        """The holdings of one kind."""
        return tuple(held for held in self.holdings if isinstance(held, kind))


Slot: TypeAlias = tuple[Key, str]
"""One plugin of one attachment: what there is one record of."""


class Ledger:
    """All records, in memory and in a journal. Safe for threads; hold `lock` to look and write without others between."""

    def __init__(self, path: Path, patience_s: float = 0.0) -> None:
        """Raises JournalBusy, JournalError."""
        self.lock = threading.RLock()
        self._journal = Journal(path, patience_s)
        contents = self._journal.contents
        self.damaged = contents.damaged
        self.earlier_boot = bool(contents.boot) and contents.boot != boot_id()
        """The records are from before the machine started: everything but files is gone already."""
        self._records = replay(contents.entries)
        self._taken: dict[str, dict[IPAddress, Key]] = {}
        self._freed: dict[tuple[str, IPAddress], float] = {}
        for record in self._records.values():
            self._take(record)

    def records(self, network: str | None = None) -> list[Record]:
        """All records, or one network's."""
        with self.lock:
            return [record for record in self._records.values() if network in (None, record.key.network)]

    def record(self, key: Key, plugin: str) -> Record | None:
        return self._records.get((key, plugin))

    def taken(self, pool: str) -> dict[IPAddress, Key]:
        """Who has which address of a pool; to be looked at under `lock`."""
        return self._taken.setdefault(pool, {})

    def freed_at(self, pool: str, ip: IPAddress) -> float:
        """When an address was given back (time.monotonic); minus infinity: not since we look."""
        return self._freed.get((pool, ip), -math.inf)

    def write(self, record: Record) -> None:
        """Put a record in, in the place of the one of its key and plugin; raises JournalError."""
        with self.lock:
            self._journal.append({"hold": encode_record(record)})
            self._forget((record.key, record.plugin))
            self._records[record.key, record.plugin] = record
            self._take(record)
            self._compact()

    def advance(self, record: Record, state: State) -> Record:
        """Say how far the record's plugin has come, if the record is there; raises JournalError."""
        with self.lock:
            if (record.key, record.plugin) not in self._records:
                return record
            advanced = replace(record, state=state)
            self._journal.append({"state": state, "of": _encode_slot(record)})
            self._records[record.key, record.plugin] = advanced
            return advanced

    def drop(self, record: Record) -> None:
        """Take a record out, if it is there; raises JournalError."""
        with self.lock:
            if (record.key, record.plugin) in self._records:
                self._journal.append({"drop": _encode_slot(record)})
                self._forget((record.key, record.plugin))
                self._compact()

    def begin_boot(self) -> None:
        """Say that the records left now are of this boot; raises JournalError."""
        with self.lock:
            self._rewrite()
            self.earlier_boot = False

    def close(self) -> None:
        self._journal.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _compact(self) -> None:
        if self._journal.lines > SPARE_LINES + 2 * len(self._records) and not self.earlier_boot:
            try:
                self._rewrite()
            except JournalError as error:  # a full disk; what had to be written is written
                log.warning("journal not shortened", why=error)

    def _rewrite(self) -> None:
        self._journal.rewrite({"hold": encode_record(record)} for record in self._records.values())

    def _take(self, record: Record) -> None:
        for address in record.of(HeldAddress):
            self.taken(address.pool)[address.ip] = record.key
            self._freed.pop((address.pool, address.ip), None)

    def _forget(self, slot: Slot) -> None:
        former = self._records.pop(slot, None)
        for address in former.of(HeldAddress) if former else ():
            self.taken(address.pool).pop(address.ip, None)
            self._freed[address.pool, address.ip] = time.monotonic()
            if len(self._freed) > FREED_KEPT:
                del self._freed[next(iter(self._freed))]


def read_ledger(path: Path) -> list[Record]:
    """The records as they are now, whoever has the journal open; raises JournalError."""
    return list(replay(read_journal(path).entries).values())


def replay(entries: Iterable[dict[str, Any]]) -> dict[Slot, Record]:
    """The records that a journal's entries lead to. What is not understood (a later format's) is passed over."""
    records: dict[Slot, Record] = {}
    for entry in entries:
        try:
            if "hold" in entry:
                record = decode_record(entry["hold"])
                records[record.key, record.plugin] = record
            elif "drop" in entry:
                records.pop(_decode_slot(entry["drop"]), None)
            elif (slot := _decode_slot(entry["of"])) in records:
                records[slot] = replace(records[slot], state=State(entry["state"]))
        except (LookupError, ValueError, TypeError):
            continue
    return records


def encode_record(record: Record) -> dict[str, Any]:
    """The record as JSON values."""
    netns = record.netns
    return {
        "key": _encode_slot(record),
        "netns": [netns.path, netns.device, netns.inode] if netns else None,
        "state": record.state,
        "caller": record.caller,
        "pod": record.pod,
        **({} if record.mtu_from is None else {"mtu_from": record.mtu_from}),
        "since": round(record.since, 3),
        "addresses": [[address.pool, str(address.ip)] for address in record.of(HeldAddress)],
        "links": [[link.name, link.tied] for link in record.of(HeldLink)],
        "elements": [[element.set, element.key, element.value] for element in record.of(HeldElement)],
        "files": [file.path for file in record.of(HeldFile)],
    }


def decode_record(told: dict[str, Any]) -> Record:
    """Raises LookupError, ValueError, TypeError."""
    key, plugin = _decode_slot(told["key"])
    holdings: tuple[Holding, ...] = (
        *(HeldAddress(pool, ip_address(ip)) for pool, ip in told["addresses"]),
        *(HeldLink(name, tied) for name, tied in told["links"]),
        *(HeldElement(*element) for element in told["elements"]),
        *(HeldFile(path) for path in told["files"]),
    )
    netns = Netns(*told["netns"]) if told["netns"] else None
    later = told.get("caller", ""), told.get("pod", ""), told.get("mtu_from")  # an earlier version did not write them
    return Record(key, plugin, holdings, netns, State(told["state"]), told["since"], *later)


def _encode_slot(record: Record) -> list[str]:
    return [record.key.network, record.key.container_id, record.key.ifname, record.plugin]


def _decode_slot(told: list[str]) -> Slot:
    network, container_id, ifname, plugin = told
    return Key(network, container_id, ifname), plugin
