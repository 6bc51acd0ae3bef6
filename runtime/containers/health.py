"""Probing running containers' health, one task each; must not know the rules, which `health_rules.py` has."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from typing import Protocol

from runtime import clock
from runtime.containers.container import Container
from runtime.containers.health_rules import MAX_OUTPUT, STARTING, TIMED_OUT, Schedule, after, schedule
from runtime.containers.jobs import Jobs
from runtime.containers.record import Health, HealthProbe
from runtime.errors import EngineError
from runtime.events import Events

CANNOT_RUN = 126
"""Exit code of a probe that could not be started."""


class Answer(Protocol):
    """What a probe has given: its exit code, and stdout and stderr as they came."""

    @property
    def code(self) -> int: ...
    @property
    def both(self) -> bytes: ...


class Prober(Protocol):
    """Runs a command in a container; raises TimeoutError, EngineError."""

    def __call__(self, container: Container, command: tuple[str, ...], timeout_s: float, limit_bytes: int) -> Awaitable[Answer]: ...


class Checkups:
    """One engine's."""

    def __init__(self, probe: Prober, jobs: Jobs, events: Events) -> None:
        self._probe = probe
        self._jobs = jobs
        self._events = events
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def begin(self, container: Container) -> None:
        """It runs: probe it from now on, if it wants to be; what was found before a pause or an engine's restart stands."""
        plan = schedule(container.record.config)
        if plan is None or container.id in self._tasks:
            return
        if container.record.life.health is None:
            container.live(health=Health(status=STARTING))
        self._tasks[container.id] = self._jobs.begin(self._go_on(container, plan))

    def end(self, container: Container) -> None:
        """It does not run, or is paused."""
        task = self._tasks.pop(container.id, None)
        if task is not None:
            task.cancel()

    async def _go_on(self, container: Container, plan: Schedule) -> None:
        while True:
            await asyncio.sleep(plan.next_in_s(_health(container), _uptime_s(container)))
            start = clock.now()
            code, output = await self._result(container, plan)
            text = output[:MAX_OUTPUT].decode(errors="replace")
            self._note(container, HealthProbe(start=start, end=clock.now(), exit_code=code, output=text), plan)

    async def _result(self, container: Container, plan: Schedule) -> tuple[int, bytes]:
        try:
            answer = await self._probe(container, plan.command, plan.timeout_s, MAX_OUTPUT)
        except TimeoutError:
            return TIMED_OUT, f"Health check exceeded timeout ({plan.timeout_s:g}s)".encode()
        except EngineError as error:
            return CANNOT_RUN, str(error).encode()
        return answer.code, answer.both

    def _note(self, container: Container, probe: HealthProbe, plan: Schedule) -> None:
        before = _health(container)
        now = after(before, probe, plan, _uptime_s(container))
        container.live(health=now)
        if now.status != before.status:
            self._events.tell("container", f"health_status: {now.status}", container.id, container.facts())


def _health(container: Container) -> Health:
    return container.record.life.health or Health()


def _uptime_s(container: Container) -> float:
    return (time.time_ns() - clock.nanoseconds_of(container.record.life.started_at)) / 1e9
