"""The kernel of one network namespace behind flanneld.kernel.Kernel, over rtnetlink; must not know who asks.

Entries go in with NLM_F_CREATE | NLM_F_REPLACE. What the kernel made itself (the route to an address's own network, IPv6 router
advertisements, redirects) is no entry of anybody's.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Collection, Iterable
from functools import partial

from flanneld.kernel import Entry, FdbEntry, KernelError, Link, NextHop, Owner, Route, VxlanLink
from flanneld.lease import IPAddress
from flanneld.linux import links
from flanneld.linux import rtnetlink as rt
from flanneld.linux.message import NLM_F_CREATE, Message
from flanneld.linux.netlink import Netlink
from flanneld.linux.vxlan_device import ensure_vxlan

RTPROT_REDIRECT, RTPROT_KERNEL, RTPROT_RA = 1, 2, 9
KERNEL_MADE = frozenset((RTPROT_REDIRECT, RTPROT_KERNEL, RTPROT_RA))
ABSENT = frozenset((errno.ESRCH, errno.ENOENT, errno.ENODEV))
"""How the kernel says that there is no such route, no such neighbour or FDB entry, no such device."""
NO_ROUTE = frozenset((errno.ENETUNREACH, errno.EHOSTUNREACH))
FAMILIES = (socket.AF_INET, socket.AF_INET6)


class LinuxKernel:
    """Keeps flanneld.kernel.Kernel for the namespace in which the socket was opened; the socket stays the caller's."""

    def __init__(self, netlink: Netlink) -> None:
        self._netlink = netlink

    def entries(self, owner: Owner) -> frozenset[Entry]:
        present = _decoded(self._told({owner.protocol} if owner.networks else set(), owner.devices))
        return frozenset(entry for entry in present if owner.owns(entry))

    def add(self, entries: Iterable[Entry]) -> tuple[KernelError, ...]:
        # EEXIST without NLM_F_EXCL: that very IPv4 route is there, behind another in its slot.
        return self._transact(entries, rt.encode_entry, frozenset((errno.EEXIST,)))

    def remove(self, entries: Iterable[Entry], *, known: bool = False) -> tuple[KernelError, ...]:
        """See Kernel.remove. What is absent is left out where its message might fit another entry.

        To the kernel a neighbour is its address, whatever its MAC; no gateway is any gateway; IPv4's metric 0 is any metric; and a
        route with several hops may be taken for another in its slot.
        """
        gone = frozenset(entries)
        if not gone:
            return ()
        exact = frozenset(entry for entry in gone if isinstance(entry, FdbEntry) or (known and isinstance(entry, Route)))
        vague = gone - exact
        present = self._present(vague) if vague else frozenset()
        going = vague & present
        refused = self._transact((*exact, *going), rt.encode_removal, ABSENT)
        beside = _beside(going, present - gone)
        return refused + (self._set_right(going, beside) if beside else ())

    def link(self, name: str) -> Link | None:
        return links.link(self._netlink, name)

    def ensure_link(self, wanted: VxlanLink) -> Link:
        return ensure_vxlan(self._netlink, wanted)

    def remove_link(self, name: str) -> None:
        links.remove_link(self._netlink, name)

    def next_hop(self, address: IPAddress) -> NextHop:
        try:
            return rt.decode_next_hop(self._netlink.get(f"lookup of {address}", rt.route_query(address)))
        except KernelError as error:
            if error.errno in NO_ROUTE:
                raise KernelError(error.errno, error.what, f"no route to {address}") from error
            raise

    def _present(self, sought: Collection[Entry]) -> frozenset[Entry]:
        """Those of them that are there, and the routes beside them."""
        routes = [entry for entry in sought if isinstance(entry, Route)]
        addresses = {route.destination.network_address.packed for route in routes}
        told = self._told({route.protocol for route in routes}, {entry.device for entry in sought if not isinstance(entry, Route)})
        return _decoded(message for message in told if message.kind != rt.RTM_NEWROUTE or rt.leads_to(message, addresses))

    def _told(self, protocols: Collection[int], devices: Collection[int]) -> Collection[Message]:
        """The main table's routes of these protocols, and all entries on these devices."""
        requests = [rt.route_dump(family, protocol=protocol) for family in FAMILIES for protocol in protocols]
        for device in devices:
            requests += [rt.route_dump(family, device=device) for family in FAMILIES]
            requests += [rt.neighbour_dump(family, device) for family in (*FAMILIES, rt.AF_BRIDGE)]
        # The body as key: a route of ours on a device of ours is told twice, and is worth decoding once.
        return {(message.kind, message.body): message for request in requests for message in self._dump(request)}.values()

    def _dump(self, request: Message) -> list[Message]:
        try:
            return self._netlink.dump(request)
        except KernelError as error:
            if error.errno in ABSENT:  # the device is gone; or ENOENT: nobody has put a route into the main table yet
                return []
            raise

    def _set_right(self, gone: frozenset[Entry], beside: frozenset[Entry]) -> tuple[KernelError, ...]:
        """Put back the routes that the kernel took for others in their slots; with them out of the way it takes the right ones."""
        present = self._present(gone | beside)
        if not (lost := beside - present):
            return ()
        refused = self._transact(gone & present, rt.encode_removal, ABSENT)
        return refused + self._transact(lost, partial(rt.encode_entry, flags=NLM_F_CREATE), frozenset())

    def _transact(
        self, entries: Iterable[Entry], encode: Callable[[Entry], Message], harmless: frozenset[int]
    ) -> tuple[KernelError, ...]:
        given = list(entries)
        outcomes = self._netlink.transact([encode(entry) for entry in given])
        refused = ((entry, outcome) for entry, outcome in zip(given, outcomes, strict=True) if outcome)
        return tuple(KernelError(int(outcome), entry, outcome.why) for entry, outcome in refused if outcome not in harmless)


def _decoded(messages: Iterable[Message]) -> frozenset[Entry]:
    return frozenset(entry for message in messages if (entry := _decode(message)) is not None)


def _decode(message: Message) -> Entry | None:
    if message.kind == rt.RTM_NEWROUTE:
        route = rt.decode_route(message)
        return None if route is None or route.protocol in KERNEL_MADE else route
    if (entry := rt.decode_fdb(message)) is not None:
        return entry
    state = rt.decode_neighbour(message)
    return state.neighbour if state is not None and state.permanent else None


def _beside(gone: Collection[Entry], stay: Collection[Entry]) -> frozenset[Entry]:
    """The routes that stand in one slot with routes that went, as strangers can put them there."""
    slots = {entry.slot for entry in gone if isinstance(entry, Route)}
    return frozenset(entry for entry in stay if isinstance(entry, Route) and entry.slot in slots)
