# ruff: noqa: SLF001  # extends exabgp's peer, and uses of the reactor what `reload` uses
"""Sessions that come and go while exabgp runs; must not know how it is asked for them.

exabgp's own way is to change the configuration file and to reload. A reload is dropped in silence while any neighbour has routes
queued, which is always so when one is dead; one faulty file fails every later reload; and a neighbour that is gone from the file
is left without a NOTIFICATION, so that with graceful restart it keeps our routes. See whether there is an API command to make one.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from bgp.speaker.launcher import gtsm, stock

PART_S = 1.0
"""For a neighbour to take our NOTIFICATION; one that does not read is left without."""


MOST_DELAY_S = 5
"""Between attempts at a session."""


class Refused(Exception):
    """What was asked for cannot be done; says why."""


class ShortDelay(stock.Delay):  # type: ignore[misc]  # of an untyped class
    """The time to the next attempt.

    The stock one grows to a minute, with every connection that a neighbour ends: as one does that is to be told of us in a moment,
    while a cluster starts. See whether `increase` has another limit.
    """

    _next: int

    def increase(self) -> None:
        super().increase()
        self._next = min(self._next, MOST_DELAY_S)


class Neighbour(stock.Peer):  # type: ignore[misc]  # of an untyped class
    """A peer that knows what it was made from, and that can be parted with aloud."""

    def __init__(self, neighbor: Any, reactor: Any, fingerprint: str) -> None:
        super().__init__(neighbor, reactor)
        self.fingerprint = fingerprint
        self._cease: int | None = None
        self._delay = ShortDelay()

    @property
    def established(self) -> bool:
        return bool(self.fsm == stock.FSM.ESTABLISHED)

    def part(self, subcode: int, *, again: bool) -> None:
        """End the session with a NOTIFICATION Cease (RFC 4486) and, unless it is to begin `again`, with the peer."""
        if self.established:
            self._cease = subcode
            self.teardown(subcode, restart=again)
        elif not again:
            self.remove()

    def _main(self) -> Iterator[object]:
        """The session while it is established.

        Where graceful restart was negotiated, the stock one ends without a word, however it is told to. See whether `teardown` then
        sends a NOTIFICATION. And an end of RIB that the last session was too short for must not be the first word of this one.
        """
        self.neighbor.eor.clear()
        for action in super()._main():
            yield action
            if self._teardown and self._cease is not None:
                subcode, self._cease = self._cease, None
                raise stock.Notify(6, subcode)


def add(reactor: Any, fingerprint: str, text: str) -> None:
    """Have the neighbour that `text`, a whole configuration, is about.

    One with that address and fingerprint stays as it is. One with another fingerprint is replaced, without a NOTIFICATION: with
    graceful restart it keeps our routes until the new session has told them anew. Raises Refused.
    """
    neighbor = _parsed(text)
    before = find(reactor, str(neighbor["peer-address"]))
    if before is not None and before.fingerprint == fingerprint and not before.stopping():
        return
    if before is not None:
        remove(reactor, before)
        neighbor.rib._cache[neighbor.rib.name] = neighbor.rib  # it has the old one's routes, which are not to be forgotten
    reactor.configuration.neighbors[neighbor.name()] = neighbor
    reactor._peers[neighbor.name()] = Neighbour(neighbor, reactor, fingerprint)
    gtsm.guard(reactor)
    if not gtsm.set_password(reactor, neighbor, known=True):
        remove(reactor, reactor._peers[neighbor.name()])
        raise Refused("the kernel refuses the password")


def delete(reactor: Any, address: str, subcode: int) -> Iterator[object]:
    """Part with the neighbour of that address; it is gone when this has been gone through. Raises Refused: there is none."""
    peer = find(reactor, address)
    if peer is None:
        raise Refused(f"no neighbour {address}")
    yield from part_with(reactor, [peer], subcode, PART_S)


def part_with(reactor: Any, peers: list[Neighbour], subcode: int, within_s: float) -> Iterator[object]:
    """Send all of them a NOTIFICATION, and have none of them any more."""
    until = time.monotonic() + within_s
    for peer in peers:
        reactor.configuration.neighbors.pop(peer.neighbor.name(), None)
        peer.part(subcode, again=False)
    while any(peer in reactor._peers.values() for peer in peers) and time.monotonic() < until:
        yield None
    for peer in peers:
        remove(reactor, peer)


def remove(reactor: Any, peer: Neighbour) -> None:
    """Have the peer no more, whatever state it is in: its connection is closed without a word."""
    name = peer.neighbor.name()
    reactor.configuration.neighbors.pop(name, None)
    if reactor._peers.get(name) is peer:
        peer.remove()
        del reactor._peers[name]
    peer.neighbor.rib.uncache()
    gtsm.set_password(reactor, peer.neighbor, known=False)
    gtsm.guard(reactor)


def find(reactor: Any, address: str) -> Neighbour | None:
    """The peer with that address."""
    return next((peer for peer in all_of(reactor) if str(peer.neighbor["peer-address"]) == address), None)


def all_of(reactor: Any) -> list[Neighbour]:
    """Every peer."""
    return list(reactor._peers.values())


def _parsed(text: str) -> Any:
    configuration = stock.Configuration([text], text=True)
    if not configuration.reload():
        raise Refused(" ".join(str(configuration.error).split()))
    if len(configuration.neighbors) != 1:
        raise Refused(f"{len(configuration.neighbors)} neighbours, expected one")
    return next(iter(configuration.neighbors.values()))
