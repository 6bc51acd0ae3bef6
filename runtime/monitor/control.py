"""The engine's end of a control connection: what the monitor has said, and commands; must not know what they are for."""

from __future__ import annotations

import asyncio
import errno
import os
import time
from collections import deque
from pathlib import Path
from typing import TypeVar

from flanneld.log import Log
from runtime.errors import Conflict, EngineError
from runtime.monitor import wire

log = Log(__name__)
T = TypeVar("T")

LOST = 255
"""Exit code when the monitor was killed and nobody knows; Docker's for a lost container."""


class NotRunning(Conflict):
    """The process that was to be reached has ended, or has not been started."""


def read_exit(directory: Path) -> wire.Exit | None:
    """How the process ended, as its monitor wrote it down; None: it has not, or was never started, or nobody knows."""
    try:
        return wire.parse_exit((directory / "exit").read_text("ascii", "replace"))
    except FileNotFoundError:
        return None


class Control(asyncio.Protocol):
    """A control connection: what was said, as futures that never fail."""

    def __init__(self, directory: Path) -> None:
        loop = asyncio.get_running_loop()
        self._directory = directory
        self._decoder = wire.Decoder()
        self._transport: asyncio.WriteTransport | None = None
        self._answers: deque[asyncio.Future[int]] = deque()
        self._closing = False
        self.greeting: asyncio.Future[wire.Message | EngineError] = loop.create_future()
        self.running: asyncio.Future[int | str] = loop.create_future()
        """The process, or why there is none."""
        self.exit: asyncio.Future[wire.Exit] = loop.create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)  # noqa: S101 - as asyncio promises for a socket
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        try:
            for message in self._decoder.feed(data):
                self._heard(message)
        except EngineError as error:
            _settle(self.greeting, error)
            self.close()

    def _heard(self, message: wire.Message) -> None:
        match message:
            case wire.Answer(failure):
                _settle(self._answers.popleft(), failure)
            case wire.Running(pid):
                _settle(self.running, pid)
            case wire.Failed(reason):
                _settle(self.running, reason)
            case wire.Exit():
                _settle(self.exit, message)
            case _:
                pass
        _settle(self.greeting, message)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        _settle(self.greeting, EngineError("the monitor ended at once"))
        _settle(self.running, "the monitor was killed")
        for answer in self._answers:
            _settle(answer, errno.ESRCH)
        if self._closing or self.exit.done():
            return
        found = read_exit(self._directory)
        if not found:
            log.error("monitor lost", directory=self._directory)
        _settle(self.exit, found or wire.Exit(LOST, time.time_ns()))

    def write(self, data: bytes) -> None:
        """Send bytes that have no answer."""
        if self._transport:
            self._transport.write(data)

    async def greeted(self) -> wire.Message:
        """The state that the monitor was in when it was connected; raises EngineError."""
        greeting = await asyncio.shield(self.greeting)
        if isinstance(greeting, EngineError):
            raise greeting
        return greeting

    async def ask(self, command: bytes) -> None:
        """Give a command and wait for its answer; raises NotRunning, EngineError."""
        if not self._transport:
            raise NotRunning("the process is not running")
        answer: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._answers.append(answer)
        self._transport.write(command)
        failure = await answer
        if failure == errno.ESRCH:
            raise NotRunning("the process is not running")
        if failure:
            raise EngineError(f"the monitor cannot {command.split()[0].decode()}: {os.strerror(failure).lower()}")

    def close(self) -> None:
        """Let go of the monitor; nobody is told anything any more."""
        self._closing = True
        if self._transport:
            self._transport.close()


def _settle(future: asyncio.Future[T], result: T) -> None:
    if not future.done():
        future.set_result(result)
