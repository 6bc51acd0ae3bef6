"""The engine's side of a monitor: launches it, finds it again, starts, listens and asks; must not know what runs under it.

Each container, and each process added to one, has a monitor as parent (`runtime/monitor/`), which outlives the engine. In its
directory are `attach.sock`, `console.sock` (with a terminal, for runc), `pid` (runc's to write), and at the end `exit`. The engine
keeps a control connection, with the conversation of `runtime/monitor/wire.py`; it ends without an exit when the monitor was killed.
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from flanneld.log import Log
from runtime.errors import EngineError
from runtime.linux.oci import failure_words
from runtime.monitor import wire
from runtime.monitor.build import built_monitor
from runtime.monitor.control import LOST, Control, NotRunning, read_exit
from runtime.monitor.wire import Exit
from runtime.networks.blocking import to_the_end

__all__ = ["LOST", "Exit", "LogSettings", "Monitor", "MonitorSettings", "NotRunning", "StartFailed", "Stream", "read_exit"]
log = Log(__name__)
PATIENCE_S = 10.0
"""For a start that was under way when an earlier engine ended."""
_program = cache(built_monitor)


class StartFailed(EngineError):
    """The command left no process; in Docker's words."""

    @property
    def code(self) -> int:
        """What Docker makes the exit code: 127 no such program, 126 not executable, 128 anything else."""
        words = str(self)
        if any(known in words for known in ("executable file not found", "no such file or directory", "not a directory")):
            return 127
        return 126 if "permission denied" in words else 128


@dataclass(frozen=True, slots=True)
class LogSettings:
    """Where the output is written."""

    path: Path
    format: Literal["json-file", "cri"] = "json-file"
    max_bytes: int = 0
    """After which the file is rotated; 0: never."""
    max_files: int = 1
    """With the one that is written to; 1: it is emptied."""


@dataclass(frozen=True, slots=True)
class MonitorSettings:
    """What a monitor needs to know."""

    name: str
    """For ps(1)."""
    tty: bool = False
    stdin: bool = False
    """False: it is /dev/null."""
    stdin_once: bool = False
    """Standard input ends with the first client that feeds it."""
    log: LogSettings | None = None


@dataclass(frozen=True, slots=True)
class Stream:
    """A client's connection: output comes in Docker's frames, or bare with a terminal; what is written goes to standard input."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter


class Monitor:
    """One monitor, launched or found again."""

    def __init__(self, directory: Path, control: Control) -> None:
        self.directory = directory
        self._control = control

    @staticmethod
    async def launch(directory: Path, settings: MonitorSettings, command: list[str]) -> Monitor:
        """Put a monitor beside `directory`, which exists, ready for clients; nothing runs before `start`. Raises EngineError.

        Without `start` it ends with this engine, or with `close`.
        """
        for stale in ("exit", "pid"):
            (directory / stale).unlink(missing_ok=True)
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                arguments = [*_arguments(directory, settings), *command]
                # In a thread, not asyncio's way: it goes on in the background at once, and needs neither watcher nor transport.
                await to_the_end(_spawn, arguments, theirs.fileno())
        except BaseException:
            ours.close()
            raise
        monitor = Monitor(directory, await _controlling(ours, directory))
        try:
            await monitor._control.greeted()
        except BaseException:
            monitor.close()
            raise
        return monitor

    @staticmethod
    async def reconnect(directory: Path) -> Monitor | None:
        """The monitor that an earlier engine launched and started there; None: it has ended, see `read_exit`."""
        try:
            connection = await _connect(directory)
        except OSError:
            return None
        monitor = Monitor(directory, await _controlling(connection, directory))
        monitor._control.write(wire.CONTROL)
        try:
            async with asyncio.timeout(PATIENCE_S):
                if await monitor._control.greeted() != wire.Waiting():
                    await asyncio.shield(monitor._control.running)
                    return monitor
        except (EngineError, TimeoutError) as error:
            log.warning("monitor unusable", directory=directory, reason=str(error) or "its command does not end")
        except BaseException:
            monitor.close()
            raise
        monitor.close()
        return None

    @property
    def pid(self) -> int:
        """The process's; 0 before the start."""
        running = self._control.running
        found = running.result() if running.done() else 0
        return found if isinstance(found, int) else 0

    async def start(self) -> int:
        """Run the command and return the id of the process it leaves behind; raises StartFailed."""
        await self._control.ask(b"start\n")
        found = await asyncio.shield(self._control.running)
        if isinstance(found, str):
            raise StartFailed(failure_words(found))
        return found

    async def exited(self) -> Exit:
        """Wait for the end; then the log is whole. Any number may wait. LOST: the monitor was killed, and what it ran may go on."""
        return await asyncio.shield(self._control.exit)

    async def attach(self, *, stdin: bool, stdout: bool, stderr: bool) -> Stream:
        """Be a client from now on, before the start or later; the caller closes the writer. Raises NotRunning."""
        try:
            connection = await _connect(self.directory)
        except OSError as error:
            raise NotRunning("the process is not running") from error
        reader, writer = await asyncio.open_unix_connection(sock=connection)
        try:
            writer.write(wire.client(stdin=stdin, stdout=stdout, stderr=stderr))
            if await reader.read(1) != wire.WELCOME:
                raise NotRunning("the process is not running")
        except BaseException as error:
            writer.close()
            if isinstance(error, OSError):
                raise NotRunning("the process is not running") from error
            raise
        return Stream(reader, writer)

    async def resize(self, height: int, width: int) -> None:
        """Tell the terminal its size, before the start too; raises NotRunning, EngineError when there is no terminal."""
        await self._control.ask(b"resize %d %d\n" % (height & 0xFFFF, width & 0xFFFF))

    async def signal(self, number: int) -> None:
        """Send a signal to the process, surely that one; raises NotRunning."""
        await self._control.ask(b"signal %d\n" % number)

    async def reopen_log(self) -> None:
        """Go on in a new file of the log's name, as somebody has moved the old one away; raises NotRunning, EngineError."""
        await self._control.ask(b"reopen\n")

    async def close_stdin(self) -> None:
        """Standard input ends, once what clients have sent is through; nothing happens with a terminal. Raises NotRunning."""
        await self._control.ask(b"close\n")

    def close(self) -> None:
        """Let go of the monitor: one that was started goes on, one that was not ends."""
        self._control.close()


def _arguments(directory: Path, settings: MonitorSettings) -> list[str]:
    """As monitor.c has them, but for the command."""
    flags = "t" * settings.tty + "i" * settings.stdin + "o" * settings.stdin_once
    log = settings.log
    logging = [log.format, str(log.path), str(log.max_bytes), str(log.max_files)] if log else ["none", "-", "0", "1"]
    return [settings.name, str(directory), flags or "-", *logging]


def _spawn(arguments: list[str], control: int) -> None:
    """Start a monitor, and return when it has gone on in the background. Blocking, shortly; raises OSError."""
    program, quiet = _program(), subprocess.DEVNULL  # compiled here at most once, in a checkout
    subprocess.run(["tartan-monitor", *arguments], executable=program, stdin=control, stdout=quiet, stderr=quiet, check=False)


async def _connect(directory: Path) -> socket.socket:
    """A connection to the monitor of that directory; raises OSError when there is none."""
    place = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.setblocking(False)
        while True:
            with suppress(BlockingIOError):  # its queue is full
                connection.connect(f"/proc/self/fd/{place}/attach.sock")  # the whole path may be too long for a socket's
                return connection
            await asyncio.sleep(0.01)
    except BaseException:
        connection.close()
        raise
    finally:
        os.close(place)


async def _controlling(connection: socket.socket, directory: Path) -> Control:
    _, control = await asyncio.get_running_loop().create_unix_connection(lambda: Control(directory), sock=connection)
    return control
