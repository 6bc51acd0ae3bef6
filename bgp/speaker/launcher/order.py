# ruff: noqa: SLF001  # what exabgp's own API uses
"""One command after the other, so that answers come in the order of the questions; must not know any command."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from bgp.speaker.launcher import stock

_process = stock.API.process


def mend() -> None:
    """Put it in place; it may be repeated."""
    stock.API.process = process


def process(self: Any, reactor: Any, service: str, command: str) -> bool:
    """Do a command when all before it are done.

    The stock one begins each at once: those that need more than a moment are queued, and answered later than those that do not,
    though an answer says nothing but `done` or `error`. See whether `announce eor` for an unknown neighbour, sent together with and
    after an `announce route`, is still answered before it.
    """
    reactor.asynchronous.schedule(service, command, _in_full(self, reactor, service, command))
    return True


def _in_full(api: Any, reactor: Any, service: str, command: str) -> Iterator[object]:
    queue = reactor.asynchronous._async
    before = len(queue)
    _process(api, reactor, service, command)
    added = [queue.pop() for _ in range(len(queue) - before)]
    for _, callback in reversed(added):
        yield from callback
