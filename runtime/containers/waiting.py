"""Those who wait for a container's end; must not know what ends it.

Docker's conditions: `not-running` is met at once by one that does not run; `next-exit` wants an end that is still to come;
`removed` wants it gone. A wait counts from its registration, so that no end is missed between asking and awaiting.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from enum import StrEnum


class Condition(StrEnum):
    """What is waited for."""

    NOT_RUNNING = "not-running"
    NEXT_EXIT = "next-exit"
    REMOVED = "removed"


@dataclass(frozen=True, slots=True)
class WaitResult:
    """How it ended: its exit code, and why it could not be waited for properly, if so."""

    code: int
    error: str = ""


class Waits:
    """The waiting of one container."""

    def __init__(self) -> None:
        self._pending: dict[Condition, set[asyncio.Future[WaitResult]]] = {condition: set() for condition in Condition}

    def register(self, condition: Condition, met: WaitResult | None = None) -> asyncio.Future[WaitResult]:
        """What the next end of that kind gives; `met`: the condition is met already, so."""
        future: asyncio.Future[WaitResult] = asyncio.get_running_loop().create_future()
        if met is not None:
            future.set_result(met)
            return future
        pending = self._pending[condition]
        pending.add(future)
        future.add_done_callback(pending.discard)
        return future

    def ended(self, result: WaitResult) -> None:
        """Its process has ended."""
        self._wake(Condition.NOT_RUNNING, result)
        self._wake(Condition.NEXT_EXIT, result)

    def removed(self, result: WaitResult) -> None:
        """It is gone: nobody waits for anything any more."""
        for condition in Condition:
            self._wake(condition, result)

    def _wake(self, condition: Condition, result: WaitResult) -> None:
        for future in tuple(self._pending[condition]):
            if not future.done():
                future.set_result(result)
