"""Further processes in a running container: `docker exec`."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from runtime.config import Value
from runtime.containers.execs import ExecConfig
from runtime.containers.transitions import Verb, check
from runtime.docker_api.backend import Backend
from runtime.docker_api.containers import terminal_size
from runtime.docker_api.errors import message_of
from runtime.docker_api.exchange import Empty, Hijack, Json, Request, Response, Sink, Source
from runtime.docker_api.streams import STDOUT, content_type, frame, parse_detach_keys, shovel
from runtime.errors import Conflict, InvalidParameter

if TYPE_CHECKING:
    from runtime.containers.execs import ExecRecord
    from runtime.containers.monitor import Stream


class ExecStart(Value, frozen=True):
    """The body of POST /exec/ID/start."""

    detach: bool = False
    tty: bool = False
    console_size: tuple[int, int] | None = None
    """Height, width."""


async def create(engine: Backend, request: Request) -> Response:
    """A process that does not run yet."""
    container = engine.containers.find(request.arguments["name"])
    config = await request.decoded(ExecConfig)
    if not config.cmd:
        raise InvalidParameter("No exec command specified")
    return Json({"Id": await engine.execs.create(container, config)}, 201)


async def start(engine: Backend, request: Request) -> Response:
    """Let it run, with the connection as its streams unless it is detached.

    As in Docker the answer's head goes out before: some clients lose output that comes with it. What fails then is told as output.
    """
    identity = request.arguments["id"]
    data = await request.decoded(ExecStart)
    record = engine.execs.inspect(identity)
    container = engine.containers.find(record.container_id)
    check(Verb.EXEC, container.record)
    if record.running or record.exit_code is not None:
        raise Conflict(f"exec command {identity} {'is already running' if record.running else 'has already run'}")
    if data.detach:
        await engine.execs.start(identity, detach=True)
        return Empty(200)
    tty = record.config.tty
    keys = parse_detach_keys(record.config.detach_keys) if tty else None

    async def talk(source: Source, sink: Sink) -> None:
        try:
            stream = await _started(engine.execs.start(identity, detach=False, size=data.console_size))
        except Exception as error:
            text = f"{message_of(error)}\r\n".encode()
            sink.write(text if tty else frame(STDOUT, text))
            await sink.drain()
            return
        if stream is None:
            return
        try:
            if await shovel((source, sink), (stream.reader, stream.writer), keys):
                engine.events.tell("container", "exec_detach", container.id, container.facts(execID=identity))
        finally:
            stream.writer.close()

    return Hijack(talk, content_type(tty=tty, version=request.version))


async def _started(starting: Coroutine[Any, Any, Stream | None]) -> Stream | None:
    """Start to the end even when the client leaves meanwhile; then nobody needs the stream."""
    task = asyncio.create_task(starting)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        task.add_done_callback(_abandon)
        raise


def _abandon(task: asyncio.Task[Stream | None]) -> None:
    if not task.cancelled() and task.exception() is None and (stream := task.result()) is not None:
        stream.writer.close()


async def resize(engine: Backend, request: Request) -> Response:
    """Tell its terminal how large the user's is; one without a terminal has nothing to be told."""
    size, identity = terminal_size(request), request.arguments["id"]
    if engine.execs.inspect(identity).config.tty:
        await engine.execs.resize(identity, *size)
    return Empty(200)


async def inspect(engine: Backend, request: Request) -> Response:
    """What became of it."""
    return Json(_exec_json(engine.execs.inspect(request.arguments["id"])))


def _exec_json(record: ExecRecord) -> dict[str, Any]:
    config = record.config
    return {
        "ID": record.id,
        "Running": record.running,
        "ExitCode": record.exit_code,
        "ProcessConfig": {
            "tty": config.tty,
            "entrypoint": config.cmd[0],
            "arguments": list(config.cmd[1:]),
            "privileged": config.privileged,
            **({"user": config.user} if config.user else {}),
        },
        "OpenStdin": config.attach_stdin,
        "OpenStderr": config.attach_stderr,
        "OpenStdout": config.attach_stdout,
        "CanRemove": False,
        "ContainerID": record.container_id,
        "DetachKeys": config.detach_keys,
        "Pid": record.pid,
    }
