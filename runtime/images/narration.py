"""Work that tells how it goes, as the stream that a client reads; must not know what work.

The work runs in a task of its own: a client that reads slowly does not hold it up, and one that leaves ends it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeAlias

from runtime.images.progress import Progress

EVERY_S = 0.1
"""A bar moves this often at most."""

Tell: TypeAlias = Callable[[Progress], None]


async def narrate(work: Callable[[Tell], Awaitable[None]]) -> AsyncGenerator[Progress, None]:
    """What the work tells, as it tells it; raises what it raises. Closing the iterator ends the work and waits for that."""
    told: asyncio.Queue[Progress | None] = asyncio.Queue()

    async def run() -> None:
        try:
            await work(told.put_nowait)
        finally:
            told.put_nowait(None)

    task = asyncio.create_task(run())
    try:
        while (progress := await told.get()) is not None:
            yield progress
        await task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@asynccontextmanager
async def together() -> AsyncIterator[asyncio.TaskGroup]:
    """A group of tasks that fails with what its first task failed with, not with a group of reasons."""
    try:
        async with asyncio.TaskGroup() as group:
            yield group
    except BaseExceptionGroup as reasons:
        raise first_of(reasons) from reasons


def first_of(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The failure that the others follow from."""
    found = group.exceptions[0]
    return first_of(found) if isinstance(found, BaseExceptionGroup) else found


class Meter:
    """One thing's bar."""

    def __init__(self, tell: Tell, subject: str, total: int, now: Callable[[], float] = time.monotonic) -> None:
        self._tell = tell
        self._subject = subject
        self.total = total
        """Bytes; may turn out to be others."""
        self._now = now
        self._last = ("", 0.0)

    def say(self, status: str) -> None:
        """A status without a bar, told once."""
        if self._last[0] != status:
            self._last = (status, self._now())
            self._tell(Progress(status=status, id=self._subject))

    def show(self, status: str, current: int) -> None:
        """How many bytes are done; told when it is new or some time has passed."""
        now = self._now()
        if self._last[0] == status and now - self._last[1] < EVERY_S:
            return
        self._last = (status, now)
        self._tell(Progress(status=status, id=self._subject, current=current, total=self.total))
