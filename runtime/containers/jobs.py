"""The engine's own tasks: work that is finished once begun, and work that goes on until cancelled; must not know what work."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from flanneld.log import Log
from runtime.errors import EngineError

T = TypeVar("T")
log = Log(__name__)

FINISH_S = 10.0
"""How long `close` waits for what must be finished; the rest is undone at the next start."""


class Jobs:
    """Every task of the containers' part, held until it ends."""

    def __init__(self) -> None:
        self._finishing: set[asyncio.Task[Any]] = set()
        self._lasting: set[asyncio.Task[None]] = set()

    async def finish(self, work: Coroutine[Any, Any, T]) -> T:
        """Do the work to its end, even when the caller is cancelled: a client that hangs up leaves nothing half done."""
        task = asyncio.create_task(work)
        self._finishing.add(task)
        task.add_done_callback(self._finishing.discard)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(_tell_bugs)
            raise

    def begin(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Let the work go on beside; what it raises is logged."""
        task = asyncio.create_task(work)
        self._lasting.add(task)
        task.add_done_callback(self._lasting.discard)
        task.add_done_callback(_tell)
        return task

    async def close(self) -> None:
        """End what goes on, and wait for what must be finished."""
        lasting = set(self._lasting)
        for task in lasting:
            task.cancel()
        if lasting:
            await asyncio.wait(lasting)
        if self._finishing:
            _, late = await asyncio.wait(self._finishing, timeout=FINISH_S)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)


def _tell_bugs(task: asyncio.Task[Any]) -> None:
    """What was refused was to be told to a caller that has gone."""
    if task.cancelled() or not isinstance(task.exception(), EngineError):
        _tell(task)


def _tell(task: asyncio.Task[Any]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("a task of the engine failed", why=f"{type(error).__name__}: {error}")
