"""Ending a container, and holding it still: stop, kill, pause; must not know what follows its end, which `lifecycle.py` does.

The lock is held while something is decided and done, never while a container takes its time to end: it may be killed meanwhile.
"""

from __future__ import annotations

import asyncio
import signal
from contextlib import suppress
from typing import TYPE_CHECKING

from runtime.containers.container import Container
from runtime.containers.health import Checkups
from runtime.containers.lifecycle import Lifecycle
from runtime.containers.monitor import NotRunning
from runtime.containers.record import State
from runtime.containers.signals import parse_signal
from runtime.containers.transitions import Verb, check
from runtime.containers.waiting import Condition
from runtime.errors import Conflict, EngineError, NotModified

if TYPE_CHECKING:
    from runtime.linux.oci import Runc

DEFAULT_TIMEOUT_S = 10
"""Between the stop signal and SIGKILL, Docker's."""
KILLED_WITHIN_S = 20.0
"""SIGKILL takes that long at most, unless a process hangs in the kernel."""
FOR_EVER = -1


class Stopper:
    """One engine's."""

    def __init__(self, lifecycle: Lifecycle, checkups: Checkups, runc: Runc) -> None:
        self._lifecycle = lifecycle
        self._checkups = checkups
        self._runc = runc

    async def stop(self, container: Container, timeout_s: int | None, signal_name: str | None) -> None:
        """Ask it to end, then make it; None: its own patience, -1: for ever. Raises NotModified, InvalidParameter, EngineError."""
        config = container.record.config
        number = parse_signal(signal_name or config.stop_signal or "SIGTERM")
        given = config.stop_timeout if timeout_s is None else timeout_s
        patience = DEFAULT_TIMEOUT_S if given is None else given
        async with container.lock:
            check(Verb.STOP, container.record)
            ended = container.wait(Condition.NOT_RUNNING)
            if not await self._stands_still(container):
                await self._signal(container, number)
        try:
            async with asyncio.timeout(None if patience < 0 else patience):
                await ended
        except TimeoutError:
            await self.end(container)
        self._lifecycle.tell(container, "stop")

    async def restart(self, container: Container, timeout_s: int | None, signal_name: str | None) -> None:
        """Stop it if it runs, and start it; one that was to be removed at its end stays. Raises what starting does."""
        container.kept = True
        try:
            with suppress(NotModified):
                await self.stop(container, timeout_s, signal_name)
            with suppress(NotModified):  # somebody else was faster
                await self._lifecycle.start(container)
        except BaseException:
            container.kept = False
            await self._lifecycle.remove_if_asked(container)
            raise
        container.kept = False
        self._lifecycle.tell(container, "restart")

    async def _stands_still(self, container: Container) -> bool:
        """Note, under its lock, that a user stopped it; whether it has no process to be told."""
        if container.state is State.RESTARTING:
            await self._lifecycle.give_up(container)
        if not container.is_running:
            return True
        container.live(manually_stopped=True)
        await self._lifecycle.keep(container)
        return False

    async def kill(self, container: Container, signal_name: str) -> None:
        """Send a signal; SIGKILL returns when the container has ended. Raises Conflict, InvalidParameter, EngineError."""
        number = parse_signal(signal_name or "SIGKILL")
        try:
            check(Verb.KILL, container.record)
        except Conflict as error:
            raise Conflict(f"cannot kill container: {container.name}: {error}") from error
        config = container.record.config
        if number != signal.SIGKILL:
            async with container.lock:
                if number == parse_signal(config.stop_signal or "SIGTERM"):
                    await self._stands_still(container)
                if container.is_running:
                    await self._signal(container, number)
            return
        await self.end(container)

    async def end(self, container: Container) -> None:
        """SIGKILL, and wait for the end; nothing happens when it does not run. Raises EngineError: it cannot be killed."""
        async with container.lock:
            ended = container.wait(Condition.NOT_RUNNING)
            if not await self._stands_still(container):
                await self._signal(container, signal.SIGKILL)
        try:
            async with asyncio.timeout(KILLED_WITHIN_S):
                await ended
        except TimeoutError as error:
            raise EngineError(
                f"container {container.id} PID {container.record.life.pid} is zombie and can not be killed"
            ) from error

    async def _signal(self, container: Container, number: int) -> None:
        if container.monitor is None:
            raise EngineError(f"cannot kill container: {container.name}: nobody is its parent any more")
        with suppress(NotRunning):  # it has ended already: the end is on its way to us
            await container.monitor.signal(number)
        if container.state is State.PAUSED and number in (signal.SIGKILL, signal.SIGTERM):
            await self._thaw(container)
        self._lifecycle.tell(container, "kill", signal=str(number))

    async def pause(self, container: Container) -> None:
        """Let none of its processes run; raises Conflict, EngineError."""
        async with container.lock:
            check(Verb.PAUSE, container.record)
            self._checkups.end(container)
            try:
                await self._runc.pause(container.id)
            except EngineError as error:
                self._checkups.begin(container)
                raise EngineError(f"cannot pause container {container.id}: {error}") from error
            container.live(state=State.PAUSED)
            await self._lifecycle.keep(container)
            self._lifecycle.tell(container, "pause")

    async def unpause(self, container: Container) -> None:
        """Let them run again; raises Conflict, EngineError."""
        async with container.lock:
            check(Verb.UNPAUSE, container.record)
            await self._thaw(container)

    async def _thaw(self, container: Container) -> None:
        await self._runc.resume(container.id)
        container.live(state=State.RUNNING)
        await self._lifecycle.keep(container)
        self._checkups.begin(container)
        self._lifecycle.tell(container, "unpause")
