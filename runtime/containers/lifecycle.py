"""A container's lives: started, ended, started again by its policy; must not know how a process is made, nor who asks for it.

Whoever starts holds the container's lock until there is a process or nothing is left of the attempt. An end is dealt with under the
same lock: first what it held is given back, then the record says so, then those who wait for it are told.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import msgspec

from flanneld.log import Log
from runtime import clock
from runtime.containers.container import Container
from runtime.containers.health import Checkups
from runtime.containers.jobs import Jobs
from runtime.containers.launching import Launcher
from runtime.containers.monitor import Exit
from runtime.containers.record import Life, State
from runtime.containers.restart import delay_s, restarts
from runtime.containers.start_errors import failure_of
from runtime.containers.transitions import ALIVE, IDLE, Verb, check
from runtime.containers.waiting import WaitResult
from runtime.errors import Conflict, EngineError
from runtime.networks.network import as_asked

if TYPE_CHECKING:
    from runtime.events import Events

KIND = "container"
_NS = 1_000_000_000
log = Log(__name__)


class Lifecycle:
    """One engine's."""

    def __init__(self, launcher: Launcher, checkups: Checkups, jobs: Jobs, events: Events) -> None:
        self.launcher = launcher
        self._checkups = checkups
        self._jobs = jobs
        self._events = events
        self.gone: Callable[[Container], Awaitable[None]] | None = None
        """Removes a container that was to be removed at its end; set once."""

    async def start(self, container: Container) -> None:
        """A user starts it; raises NotModified, Conflict, InvalidParameter (the program cannot be run), EngineError."""
        async with container.lock:
            check(Verb.START, container.record)
            if container.doomed:
                raise Conflict("container is marked for removal and cannot be started")
            container.restart_delay_s = 0.0
            container.live(restart_count=0, manually_stopped=False)
            failed = await self._attempt(container)
        if failed is not None:
            await self.remove_if_asked(container)
            raise failed

    async def resume(self, container: Container) -> None:
        """The engine starts it again, as its policy wants; what goes wrong is in the record and the log."""
        async with container.lock:
            if container.state is not State.RESTARTING or container.doomed:
                return
            failed = await self._attempt(container)
            if failed is not None:
                log.error("container not restarted", container=container.name, why=failed)
                container.live(state=State.EXITED)
                await self.keep(container)
                container.waits.ended(self._result(container))
        if failed is not None:
            await self.remove_if_asked(container)

    async def _attempt(self, container: Container) -> EngineError | None:
        """Start it, under its lock; the error when that failed and nothing is left of it."""
        try:
            record = await self.launcher.launch(container)
        except (EngineError, OSError) as error:
            failure = failure_of(error)
            container.live(error=str(failure.error), exit_code=failure.code)
            await self.keep(container)
            return failure.error
        container.record = record
        self.begin(container)
        self.tell(container, "start")
        return None

    def begin(self, container: Container) -> None:
        """There is a process: watch for its end, and after its health."""
        if container.state is State.RUNNING:
            self._checkups.begin(container)
        self._jobs.begin(self._watch(container))

    async def _watch(self, container: Container) -> None:
        monitor = container.monitor
        if monitor is not None:
            end = await monitor.exited()
            await self._jobs.finish(self.ended(container, end))

    async def ended(self, container: Container, end: Exit, *, resumes: bool = True) -> None:
        """Its process has ended: give back what it held, and do what policy and creator want then.

        `resumes` False: one that its policy starts again is left in that state, for the caller to do it.
        """
        async with container.lock:
            if container.state not in ALIVE:
                return
            self._checkups.end(container)
            async with self.launcher.clearing(container) as killed_by_oom:
                await self._over(container, end, killed_by_oom)
            if container.state is State.RESTARTING and resumes:
                container.restart_delay_s = delay_s(container.restart_delay_s, self._uptime_s(container.record.life))
                container.restart = self._jobs.begin(self._restart(container, container.restart_delay_s))
        await self.remove_if_asked(container)

    async def _over(self, container: Container, end: Exit, killed_by_oom: bool) -> None:
        self._note(container, end, killed_by_oom)
        await self.keep(container)
        if killed_by_oom:
            self.tell(container, "oom")
        duration = int(self._uptime_s(container.record.life))
        self.tell(container, "die", exitCode=str(end.code), execDuration=str(duration))
        container.waits.ended(self._result(container))

    def _note(self, container: Container, end: Exit, killed_by_oom: bool) -> None:
        record = container.record
        life = msgspec.structs.replace(record.life, exit_code=end.code)
        again = restarts(record.host.restart_policy, life) and not container.doomed
        endpoints = {name: as_asked(settings) for name, settings in record.endpoints.items()}
        container.change(endpoints=endpoints, ports={})
        container.live(
            state=State.RESTARTING if again else State.EXITED,
            pid=0,
            exit_code=end.code,
            oom_killed=killed_by_oom,
            finished_at=clock.text_of(end.at_ns),
            restart_count=life.restart_count + again,
        )

    async def _restart(self, container: Container, delay: float) -> None:
        await asyncio.sleep(delay)
        await self._jobs.finish(self.resume(container))

    async def remove_if_asked(self, container: Container) -> None:
        """It does not run any more: remove it if it was made to go then. Not one that a user stops only to start it again."""
        if container.state not in IDLE:
            return
        if self.gone and container.record.host.auto_remove and not container.kept and not container.doomed:
            await self.gone(container)

    async def give_up(self, container: Container) -> None:
        """Under its lock: it waits to be restarted, and is not to be."""
        if container.restart is not None:
            container.restart.cancel()
        container.live(state=State.EXITED, manually_stopped=True)
        await self.keep(container)
        container.waits.ended(self._result(container))

    async def keep(self, container: Container) -> None:
        """Write the record; that the disk is full must not keep a container from ending."""
        try:
            await container.save()
        except OSError as error:
            log.error("container's record not written", container=container.name, why=error)

    def tell(self, container: Container, action: str, **facts: str) -> None:
        """An event of this container's."""
        self._events.tell(KIND, action, container.id, container.facts(**facts))

    @staticmethod
    def _result(container: Container) -> WaitResult:
        return WaitResult(container.record.life.exit_code)

    @staticmethod
    def _uptime_s(life: Life) -> float:
        ended = clock.nanoseconds_of(life.finished_at) or time.time_ns()
        return max(0, ended - clock.nanoseconds_of(life.started_at)) / _NS
