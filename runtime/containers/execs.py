"""Processes added to running containers: `docker exec`, health probes, CRI's exec; must not know who asks.

Each has a monitor of its own, as the container has, and lives no longer than the container. What became of the last ones of each
container can be asked for until the container is started again or removed.
"""

from __future__ import annotations

import asyncio
import secrets
import shutil
import signal
from contextlib import suppress
from pathlib import Path

import msgspec

from runtime.config import Value
from runtime.containers.bundle import CONSOLE, EXECS, PID, read_config
from runtime.containers.container import Container
from runtime.containers.exec_output import ExecResult, Output
from runtime.containers.jobs import Jobs
from runtime.containers.monitor import Monitor, MonitorSettings, NotRunning, Stream
from runtime.containers.parts import Parts
from runtime.containers.spec import process_spec
from runtime.containers.start_errors import NOT_EXECUTABLE, NOT_FOUND, failure_of
from runtime.containers.transitions import Verb, check
from runtime.errors import Conflict, EngineError, InvalidParameter, NotFound

KEPT = 32
"""Ended ones of a container that are remembered."""
PROCESS = "process.json"


class ExecConfig(Value, frozen=True):
    """The body of POST /containers/NAME/exec."""

    attach_stdin: bool = False
    attach_stdout: bool = False
    attach_stderr: bool = False
    tty: bool = False
    cmd: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    user: str = ""
    privileged: bool = False
    working_dir: str = ""
    detach_keys: str = ""
    console_size: tuple[int, int] | None = None
    """Height, width."""


class ExecRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of one."""

    id: str
    container_id: str
    config: ExecConfig
    running: bool = False
    exit_code: int | None = None
    """None: it has not ended."""
    pid: int = 0


class _Exec:
    def __init__(self, container: Container, record: ExecRecord) -> None:
        self.container = container
        self.record = record
        self.monitor: Monitor | None = None
        self.started = False
        self.unwanted = False
        """Who ran it does not wait for it any more."""
        self.ended = asyncio.Event()

    def change(self, **fields: object) -> None:
        self.record = msgspec.structs.replace(self.record, **fields)

    def tell(self, parts: Parts, action: str, **facts: str) -> None:
        facts["execID"] = self.record.id
        parts.events.tell("container", action, self.container.id, self.container.facts(**facts))


class Execs:
    """One engine's."""

    def __init__(self, parts: Parts, jobs: Jobs) -> None:
        self._parts = parts
        self._jobs = jobs
        self._execs: dict[str, _Exec] = {}

    async def create(self, container: Container, config: ExecConfig) -> str:
        """A process to be started once; returns its id. Raises Conflict (it does not run), InvalidParameter."""
        check(Verb.EXEC, container.record)
        if not config.cmd:
            raise InvalidParameter("No exec command specified")
        identity = secrets.token_hex(32)
        made = _Exec(container, ExecRecord(id=identity, container_id=container.id, config=config))
        self._execs[identity] = made
        self._forget_some(container)
        made.tell(self._parts, f"exec_create: {' '.join(config.cmd)}")
        return identity

    async def start(self, identity: str, *, detach: bool = False, size: tuple[int, int] | None = None) -> Stream | None:
        """Start it; the streams it was made for, live before its first byte, None: detached.

        Raises NotFound, Conflict (started before, container does not run), InvalidParameter (no such program), EngineError.
        """
        return await self._jobs.finish(self._start(self._find(identity), detach, size))

    async def _start(self, made: _Exec, detach: bool, size: tuple[int, int] | None) -> Stream | None:
        if made.started:
            raise Conflict(f"exec command {made.record.id} is already running" if made.record.running else "exec has already run")
        check(Verb.EXEC, made.container.record)
        made.started = True
        try:
            stream = await self._launched(made, detach, size or made.record.config.console_size)
        except (EngineError, OSError) as error:
            failure = failure_of(error)
            made.change(exit_code=NOT_FOUND if failure.code == NOT_FOUND else NOT_EXECUTABLE)
            made.ended.set()
            raise failure.error from error
        made.tell(self._parts, f"exec_start: {' '.join(made.record.config.cmd)}")
        self._jobs.begin(self._watch(made))
        if made.unwanted:
            if stream is not None:
                stream.writer.close()
            await _kill(made)
        return stream

    async def _launched(self, made: _Exec, detach: bool, size: tuple[int, int] | None) -> Stream | None:
        config, directory = made.record.config, self._directory(made)
        stream: Stream | None = None
        try:
            await asyncio.to_thread(_write_process, made.container, config, directory)
            monitor = await Monitor.launch(directory, _settings(made, detach), self._command(made, directory))
            made.monitor = monitor
            if not detach:
                stream = await monitor.attach(stdin=config.attach_stdin, stdout=config.attach_stdout, stderr=config.attach_stderr)
            if config.tty and size and all(size):
                await monitor.resize(*size)
            made.change(running=True, pid=await monitor.start())
        except BaseException:
            made.change(running=False)
            if stream is not None:
                stream.writer.close()
            await self._drop(made)
            raise
        return stream

    def _directory(self, made: _Exec) -> Path:
        return made.container.bundle / EXECS / made.record.id

    def _command(self, made: _Exec, directory: Path) -> list[str]:
        console = directory / CONSOLE if made.record.config.tty else None
        return self._parts.runc.exec_arguments(made.container.id, directory / PROCESS, directory / PID, console)

    async def _watch(self, made: _Exec) -> None:
        if made.monitor is None:
            return
        end = await made.monitor.exited()
        made.change(running=False, exit_code=end.code)
        made.tell(self._parts, "exec_die", exitCode=str(end.code))
        made.ended.set()
        await self._drop(made)

    async def _drop(self, made: _Exec) -> None:
        if made.monitor is not None:
            made.monitor.close()
            made.monitor = None
        await asyncio.to_thread(shutil.rmtree, self._directory(made), ignore_errors=True)

    def inspect(self, identity: str) -> ExecRecord:
        """What is known of it; raises NotFound."""
        return self._find(identity).record

    async def ended(self, identity: str) -> int:
        """Wait for its end; returns its exit code. Raises NotFound."""
        made = self._find(identity)
        await made.ended.wait()
        return made.record.exit_code or 0

    def of(self, container: Container) -> list[str]:
        """Ids of those of a container that have not ended."""
        return [made.record.id for made in self._of(container) if made.record.exit_code is None]

    async def resize(self, identity: str, height: int, width: int) -> None:
        """Tell its terminal how large the user's is; raises NotFound, Conflict, EngineError."""
        monitor = self._find(identity).monitor
        if monitor is None:
            raise NotRunning(f"exec {identity} is not running")
        await monitor.resize(height, width)

    async def run(self, container: Container, config: ExecConfig, timeout_s: float | None, limit_bytes: int) -> ExecResult:
        """Run a command to its end, and give its exit code and the beginning of its output, of each stream so many bytes.

        Raises TimeoutError (it has been killed), Conflict, InvalidParameter, EngineError.
        """
        config = msgspec.structs.replace(config, attach_stdin=False, attach_stdout=True, attach_stderr=True, tty=False)
        identity = await self.create(container, config)
        made = self._find(identity)
        try:
            stream = await self.start(identity)
            async with asyncio.timeout(timeout_s):
                return await _collect(made, stream, limit_bytes)
        except (TimeoutError, asyncio.CancelledError):
            made.unwanted = True
            await _kill(made)
            raise
        finally:
            self._execs.pop(identity, None)

    def forget(self, container: Container) -> None:
        """It is started again, or gone."""
        for made in self._of(container):
            if not made.record.running:
                self._execs.pop(made.record.id, None)

    def _forget_some(self, container: Container) -> None:
        ended = [made.record.id for made in self._of(container) if made.record.exit_code is not None]
        for identity in ended[:-KEPT]:
            self._execs.pop(identity, None)

    def _of(self, container: Container) -> list[_Exec]:
        return [made for made in self._execs.values() if made.container is container]

    def _find(self, identity: str) -> _Exec:
        if identity not in self._execs:
            raise NotFound(f"No such exec instance: {identity}")
        return self._execs[identity]


def _settings(made: _Exec, detach: bool) -> MonitorSettings:
    config = made.record.config
    return MonitorSettings(
        name=f"{made.container.name} exec", tty=config.tty, stdin=config.attach_stdin and not detach, stdin_once=True, log=None
    )


def _write_process(container: Container, config: ExecConfig, directory: Path) -> None:
    """What the runtime is to execute; that the bundle has gone means that the container has."""
    try:
        document = read_config(container.bundle)
        directory.mkdir(parents=True, mode=0o700)
        process = process_spec(container.record, config, container.rootfs, document)
        (directory / PROCESS).write_bytes(msgspec.json.encode(process))
    except FileNotFoundError as error:
        raise NotRunning(f"container {container.id} is not running") from error


async def _collect(made: _Exec, stream: Stream | None, limit_bytes: int) -> ExecResult:
    output = Output(limit_bytes)
    if stream is not None:
        try:
            while data := await stream.reader.read(1 << 16):
                output.feed(data)
        finally:
            stream.writer.close()
    await made.ended.wait()
    return output.result(made.record.exit_code or 0)


async def _kill(made: _Exec) -> None:
    if made.monitor is not None:
        with suppress(NotRunning):
            await made.monitor.signal(signal.SIGKILL)
