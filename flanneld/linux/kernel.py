"""The kernel of one network namespace behind flanneld.kernel.Kernel, over rtnetlink; must not know who asks.

Entries go in with NLM_F_CREATE | NLM_F_REPLACE. What the kernel made itself (the route to an address's own network, IPv6 router
advertisements, redirects) is no entry of anybody's.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Collection, Iterable, Sequence

from flanneld.kernel import Entry, FdbEntry, KernelError, Link, NextHop, Owner, Route, VxlanLink
from flanneld.lease import IPAddress
from flanneld.linux import links
from flanneld.linux import rtnetlink as rt
from flanneld.linux.message import Message
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
        present = self._read({owner.protocol} if owner.networks else set(), owner.devices)
        return frozenset(entry for entry in present if owner.owns(entry))

    def add(self, entries: Iterable[Entry]) -> tuple[KernelError, ...]:
        # EEXIST without NLM_F_EXCL: that very IPv4 route is there, behind another in its slot.
        return self._transact(list(entries), frozenset((errno.EEXIST,)), delete=False)

    def remove(self, entries: Iterable[Entry], *, known: bool = False) -> tuple[KernelError, ...]:
        """See Kernel.remove. What is absent is left out where its message might fit another entry.

        To the kernel a neighbour is its address, whatever its MAC; no gateway is any gateway; and IPv4's metric 0 is any metric.
        """
        gone = frozenset(entries)
        if not gone:
            return ()
        exact = frozenset(entry for entry in gone if isinstance(entry, FdbEntry) or (known and isinstance(entry, Route)))
        vague = gone - exact
        protocols = {entry.protocol for entry in vague if isinstance(entry, Route)}
        present = self._read(protocols, {entry.device for entry in vague if not isinstance(entry, Route)}) if vague else frozenset()
        return self._transact([*exact, *(vague & present)], ABSENT, delete=True)

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

    def _read(self, protocols: Collection[int], devices: Collection[int]) -> frozenset[Entry]:
        """The main table's routes of these protocols, and all entries on these devices."""
        requests = [rt.route_dump(family, protocol=protocol) for family in FAMILIES for protocol in protocols]
        for device in devices:
            requests += [rt.route_dump(family, device=device) for family in FAMILIES]
            requests += [rt.neighbour_dump(family, device) for family in (*FAMILIES, rt.AF_BRIDGE)]
        # The body as key: a route of ours on a device of ours is told twice, and is worth decoding once.
        told = {(message.kind, message.body): message for request in requests for message in self._dump(request)}
        return frozenset(entry for message in told.values() if (entry := _decode(message)) is not None)

    def _dump(self, request: Message) -> list[Message]:
        try:
            return self._netlink.dump(request)
        except KernelError as error:
            if error.errno in ABSENT:  # the device is gone; or ENOENT: nobody has put a route into the main table yet
                return []
            raise

    def _transact(self, entries: Sequence[Entry], harmless: frozenset[int], *, delete: bool) -> tuple[KernelError, ...]:
        outcomes = self._netlink.transact([rt.encode_entry(entry, delete=delete) for entry in entries])
        refused = ((entry, outcome) for entry, outcome in zip(entries, outcomes, strict=True) if outcome)
        return tuple(KernelError(int(outcome), entry, outcome.why) for entry, outcome in refused if outcome not in harmless)


def _decode(message: Message) -> Entry | None:
    if message.kind == rt.RTM_NEWROUTE:
        route = rt.decode_route(message)
        return None if route is None or route.protocol in KERNEL_MADE else route
    if (entry := rt.decode_fdb(message)) is not None:
        return entry
    state = rt.decode_neighbour(message)
    return state.neighbour if state is not None and state.permanent else None
