"""Programs that run in one network namespace, with a directory for their files; must not know what they are."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from asyncio.subprocess import Process
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

PROGRAMS = Path(sys.executable).parent
"""Where `./dev` puts the programs that it takes out of Debian packages."""
START_S = 15.0
ANSWER_S = 30.0
MANNERS_S = 5.0
"""How long SIGTERM may take before SIGKILL."""


class ProgramError(Exception):
    """A program ended, or failed, or said no: its own words."""


class NetnsPrograms:
    """What was started, and ends with it."""

    def __init__(self, netns: str | Path) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="netns-"))  # a short name: Unix sockets' paths end at 107 bytes
        self.enclosure: tuple[str, ...] = ()
        """A command line that becomes the command behind it, where a network namespace is not all that is needed."""
        self.environment = {**os.environ, "LC_ALL": "C"}
        self._enter = ("nsenter", f"--net={netns}")
        self._running: list[tuple[str, Process]] = []

    async def start(self, *command: str | Path) -> None:
        """In the background until `end`, or until this thread's death; what it says is in the log."""
        with (self.directory / "log").open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *(*self._enter, *self.enclosure, "setpriv", "--pdeathsig=KILL", *command),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.environment,
            )
        self._running.append((str(command[0]), process))

    async def run(self, *command: str | Path) -> str:
        """What it prints; raises ProgramError with that when it fails, TimeoutError after ANSWER_S."""
        ended = await asyncio.create_subprocess_exec(
            *(*self._enter, *self.enclosure, *command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=self.environment,
        )
        try:
            async with asyncio.timeout(ANSWER_S):
                said = (await ended.communicate())[0].decode(errors="replace")
        finally:
            if ended.returncode is None:
                ended.kill()
                await ended.wait()
        if ended.returncode:
            raise ProgramError(f"{' '.join(map(str, command))} ended with exit code {ended.returncode}: {said}")
        return said

    async def await_answer(self, ask: Callable[[], Awaitable[object]]) -> None:
        """Ask until there is an answer; raises ProgramError with the log's end when a program has ended, or after START_S."""
        until = time.monotonic() + START_S
        while True:
            try:
                await ask()
                return
            except (OSError, ProgramError) as error:
                ended = [name for name, process in self._running if process.returncode is not None]
                if ended or time.monotonic() > until:
                    raise ProgramError(f"{', '.join(ended) or 'nobody'} ended, no answer:\n{self.log()[-2000:]}") from error
            await asyncio.sleep(0.02)

    def log(self) -> str:
        """All that was said so far."""
        return (self.directory / "log").read_text(errors="replace")

    def send_signal(self, number: signal.Signals) -> None:
        """To all."""
        for _, process in self._running:
            with suppress(ProcessLookupError):
                process.send_signal(number)

    async def end(self, how: signal.Signals = signal.SIGTERM) -> None:
        """End all; nothing happens when they have ended."""
        self.send_signal(how)
        self.send_signal(signal.SIGCONT)  # one that is stopped hears nothing else
        try:
            async with asyncio.timeout(MANNERS_S):
                await self._ended()
        except TimeoutError:
            self.send_signal(signal.SIGKILL)
            await self._ended()
        self._running.clear()

    async def close(self) -> None:
        """End all, and remove the directory."""
        try:
            await self.end()
        finally:
            shutil.rmtree(self.directory)

    async def _ended(self) -> None:
        await asyncio.gather(*(process.wait() for _, process in self._running))
