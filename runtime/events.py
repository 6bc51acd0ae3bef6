"""What has happened, told to whoever listens and kept for whoever asks later; must not know who that is."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

KEPT = 1024
"""Events that `since` finds; Docker keeps 256."""
BEHIND = 4096
"""Events that a listener may be behind before the oldest are lost to it."""


@dataclass(frozen=True, slots=True)
class Event:
    """One change: of what (container, image, network, volume, builder), which (`actor`: whole id or name), and how."""

    type: str
    action: str
    actor: str
    attributes: Mapping[str, str] = field(default_factory=dict)
    time_ns: int = 0


class Events:
    """The engine's one bus."""

    def __init__(self) -> None:
        self._kept: deque[Event] = deque(maxlen=KEPT)
        self._listeners: dict[asyncio.Queue[Event], asyncio.AbstractEventLoop] = {}

    def tell(self, kind: str, action: str, actor: str, attributes: Mapping[str, str] | None = None) -> None:
        """Something has happened, now. May be called from any thread."""
        event = Event(kind, action, actor, dict(attributes or {}), time.time_ns())
        self._kept.append(event)
        for queue, loop in tuple(self._listeners.items()):
            loop.call_soon_threadsafe(_put, queue, event)

    def past(self, since_ns: int, until_ns: int) -> list[Event]:
        """What is kept of that time, oldest first."""
        return [event for event in self._kept if since_ns <= event.time_ns <= until_ns]

    def listen(self) -> AsyncGenerator[Event, None]:
        """What happens from this call on, for ever; the listener is forgotten when the iterator is closed."""
        queue: asyncio.Queue[Event] = asyncio.Queue(BEHIND)
        self._listeners[queue] = asyncio.get_running_loop()
        return self._told(queue)

    async def _told(self, queue: asyncio.Queue[Event]) -> AsyncGenerator[Event, None]:
        with suppress(GeneratorExit):
            try:
                while True:
                    yield await queue.get()
            finally:
                self._listeners.pop(queue, None)


def _put(queue: asyncio.Queue[Event], event: Event) -> None:
    if queue.full():
        queue.get_nowait()
    queue.put_nowait(event)
