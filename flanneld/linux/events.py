"""The kernel's notifications as values, sans-IO; must not know who wants them.

A notification says that something happened, not all that did: a device that goes down takes its IPv4 routes along without a word.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from flanneld.kernel import FdbEntry, IPInterface, Link, Neighbour, Route
from flanneld.linux import rtnetlink
from flanneld.linux.message import Message


@dataclass(frozen=True, slots=True)
class RouteEvent:
    """A unicast or blackhole route of the main table came, changed or went."""

    entry: Route
    """With all its hops. When one of several is taken out, IPv6 tells of that one as if it had been the whole: `deleted`."""
    deleted: bool


@dataclass(frozen=True, slots=True)
class NeighbourEvent:
    """An ARP or NDP entry came, changed or went."""

    entry: Neighbour
    """Its `mac` is empty when the kernel does not say it, as in most removals."""
    deleted: bool
    """It is not, or no longer, a permanent one."""


@dataclass(frozen=True, slots=True)
class FdbEvent:
    """A permanent forwarding entry came, changed or went."""

    entry: FdbEntry
    deleted: bool


@dataclass(frozen=True, slots=True)
class LinkEvent:
    """An interface came, changed or went."""

    link: Link
    deleted: bool


@dataclass(frozen=True, slots=True)
class AddressEvent:
    """An interface's own address came, changed or went."""

    index: int
    address: IPInterface
    deleted: bool


@dataclass(frozen=True, slots=True)
class Overrun:
    """Notifications were lost, because they came faster than they were read: anything may have changed."""


Event: TypeAlias = RouteEvent | NeighbourEvent | FdbEvent | LinkEvent | AddressEvent | Overrun


def decode_event(message: Message) -> Event | None:
    """What a notification says; None for what the events above leave out. Raises MalformedMessage."""
    match message.kind:
        case rtnetlink.RTM_NEWROUTE | rtnetlink.RTM_DELROUTE:
            route = rtnetlink.decode_route(message)
            return None if route is None else RouteEvent(route, message.kind == rtnetlink.RTM_DELROUTE)
        case rtnetlink.RTM_NEWNEIGH | rtnetlink.RTM_DELNEIGH:
            return _neighbour_event(message, message.kind == rtnetlink.RTM_DELNEIGH)
        case rtnetlink.RTM_NEWLINK | rtnetlink.RTM_DELLINK:
            link = rtnetlink.decode_link(message)
            return None if link is None else LinkEvent(link, message.kind == rtnetlink.RTM_DELLINK)
        case rtnetlink.RTM_NEWADDR | rtnetlink.RTM_DELADDR:
            own = rtnetlink.decode_address(message)
            return None if own is None else AddressEvent(own.index, own.interface, message.kind == rtnetlink.RTM_DELADDR)
    return None


def _neighbour_event(message: Message, deleted: bool) -> Event | None:
    if (entry := rtnetlink.decode_fdb(message)) is not None:
        return FdbEvent(entry, deleted)
    state = rtnetlink.decode_neighbour(message)
    return None if state is None else NeighbourEvent(state.neighbour, deleted or not state.permanent)
