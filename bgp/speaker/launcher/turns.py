# ruff: noqa: SLF001  # a method of exabgp's reactor, put in the place of its own
"""exabgp's waiting: it ends when there is something to do, and only then; must not know BGP."""

from __future__ import annotations

import select
from collections.abc import Iterator
from typing import Any

from bgp.speaker.launcher import stock


def mend() -> None:
    """Put it in place; it may be repeated."""
    stock.Reactor._wait_for_io = wait_for_io


def wait_for_io(self: Any, wait_ms: int) -> Iterator[int]:
    """Yield the descriptors that can be read.

    With the stock one, the socket of a connection that lost a collision is closed but stays in the poll set; poll(2) returns
    at once with POLLNVAL ever after, which is answered by a sleep, so that 90 messages a second are handled instead of 1,000.
    Besides, connections wait to be accepted, and commands to be gone on with, until its wait is over. See whether it unregisters
    what is POLLNVAL, whether `Listener` is in the poll set, and whether `run` waits while `asynchronous` is not `ready`.
    """
    listening = {listener.fileno() for listener in self.listener._sockets}
    for descriptor in listening:
        self._poller.register(descriptor, select.POLLIN)
    useless = False
    for descriptor, events in self._poller.poll(wait_ms if self.asynchronous.ready() else 0):
        if events & select.POLLNVAL:
            self._poller.unregister(descriptor)
        elif events & (select.POLLIN | select.POLLPRI):
            if descriptor not in listening:  # which the next turn looks at by itself
                yield descriptor
        else:
            useless = True
    if useless:
        self._prevent_spin()
