"""flanneld.kernel.Kernel in memory: what a kernel does, without one. Tests set up the refusals they want to see handled."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from itertools import count

from flanneld.kernel import Entry, KernelError, Link, NextHop, Owner, Route, VxlanLink
from flanneld.lease import IPAddress


class MemoryKernel:
    """Like Linux, one slot holds one entry that was put in by `add`; `present` may be given more, as others' tools can do."""

    def __init__(self, present: Iterable[Entry] = (), links: Iterable[Link] = ()) -> None:
        self.present: set[Entry] = set(present)
        self.links: dict[str, Link] = {link.name: link for link in links}
        self.vxlan: dict[str, VxlanLink] = {}
        """What each device was last brought to."""
        self.next_hops: dict[IPAddress, NextHop] = {}
        self.refusals: dict[object, int] = {}
        """What is refused -> errno: an entry, a device's name, or all of a type (Route, VxlanLink)."""
        self.calls: list[tuple[str, frozenset[Entry]]] = []
        """Every `add` and `remove` that had something to do."""
        self._indexes = count(100)

    def entries(self, owner: Owner) -> frozenset[Entry]:
        return frozenset(entry for entry in self.present if owner.owns(entry))

    def add(self, entries: Iterable[Entry]) -> tuple[KernelError, ...]:
        wanted = self._called("add", entries)
        refused = tuple(error for entry in wanted if (error := self._refusal(entry)) is not None)
        for entry in wanted:
            if entry not in self.present and all(error.what != entry for error in refused):
                self.present = {other for other in self.present if other.slot != entry.slot} | {entry}
        return refused

    def remove(self, entries: Iterable[Entry], *, known: bool = False) -> tuple[KernelError, ...]:
        gone = self._called("remove", entries)
        refused = tuple(error for entry in gone if entry in self.present and (error := self._refusal(entry)) is not None)
        self.present -= set(gone) - {error.what for error in refused}
        return refused

    def link(self, name: str) -> Link | None:
        return self.links.get(name)

    def ensure_link(self, wanted: VxlanLink) -> Link:
        if (error := self._refusal(wanted, wanted.name)) is not None:
            raise error
        for name, other in self.vxlan.items():
            if name != wanted.name and (other.vni, other.port, other.local.version) == _socket(wanted):
                raise KernelError(errno.EEXIST, wanted.name, f"{name} has VNI {wanted.vni} on port {wanted.port} already")
        found, before = self.links.get(wanted.name), self.vxlan.get(wanted.name)
        if found is not None and (before is None or _identity(before) != _identity(wanted)):
            self.remove_link(wanted.name)
            found = None
        index = next(self._indexes) if found is None else found.index
        self.vxlan[wanted.name] = wanted
        self.links[wanted.name] = Link(index, wanted.name, wanted.mtu, wanted.mac, up=True, kind="vxlan")
        return self.links[wanted.name]

    def remove_link(self, name: str) -> None:
        gone = self.links.pop(name, None)
        self.vxlan.pop(name, None)
        if gone is not None:
            left = (_without(entry, gone.index) for entry in self.present)
            self.present = {entry for entry in left if entry is not None}

    def next_hop(self, address: IPAddress) -> NextHop:
        if address not in self.next_hops:
            raise KernelError(errno.ENETUNREACH, f"lookup of {address}", f"no route to {address}")
        return self.next_hops[address]

    def _called(self, verb: str, entries: Iterable[Entry]) -> list[Entry]:
        given = list(entries)
        if given:
            self.calls.append((verb, frozenset(given)))
        return given

    def _refusal(self, what: Entry | VxlanLink, name: str = "") -> KernelError | None:
        code = next((self.refusals[key] for key in (what, name, type(what)) if key in self.refusals), 0)
        return KernelError(code, what, os.strerror(code).lower()) if code else None


def _without(entry: Entry, device: int) -> Entry | None:
    """What is left of an entry once the device is gone: IPv4 gives up a route with all its hops, IPv6 hop by hop."""
    if not isinstance(entry, Route) or all(hop.device != device for hop in entry.hops):
        return None if entry.device == device else entry
    left = [hop for hop in entry.hops if hop.device != device]
    if entry.destination.version == 4 or not left:
        return None
    return Route.by(entry.destination, left, entry.protocol, entry.metric)


def _identity(link: VxlanLink) -> tuple[object, ...]:
    return link.vni, link.parent, link.local, link.port, link.gbp


def _socket(link: VxlanLink) -> tuple[object, ...]:
    return link.vni, link.port, link.local.version
