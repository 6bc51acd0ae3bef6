"""POST /containers/NAME/attach: a container's input and output, live, over the connection itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runtime.docker_api.backend import Backend
from runtime.docker_api.exchange import Hijack, Request, Response, Sink, Source
from runtime.docker_api.output import check_readable, framed_logs
from runtime.docker_api.streams import content_type, parse_detach_keys, shovel

if TYPE_CHECKING:
    from runtime.containers.container import Container
    from runtime.containers.monitor import Stream


async def attach(engine: Backend, request: Request) -> Response:
    """Attach before the answer, so that nothing is lost which a start right after it brings forth."""
    query = request.query
    container = engine.containers.find(request.arguments["name"])
    tty = container.record.config.tty
    keys = parse_detach_keys(query.text("detachKeys")) if tty else None  # without a terminal any byte is data
    wanted = (query.flag("stdin"), query.flag("stdout"), query.flag("stderr"))
    if query.flag("logs"):
        check_readable(container)
    stream = await engine.containers.attach(container, *wanted) if query.flag("stream") else None
    engine.events.tell("container", "attach", container.id, container.facts())

    async def talk(source: Source, sink: Sink) -> None:
        try:
            if query.flag("logs"):
                await _replay(container, wanted[1:], sink)
            if stream is not None and await shovel((source, sink), (stream.reader, stream.writer), keys):
                engine.events.tell("container", "detach", container.id, container.facts())
        finally:
            _close(stream)

    return Hijack(talk, content_type(tty=tty, version=request.version), unused=lambda: _close(stream))


def _close(stream: Stream | None) -> None:
    if stream is not None:
        stream.writer.close()


async def _replay(container: Container, outputs: tuple[bool, bool], sink: Sink) -> None:
    """What it has said so far."""
    async for part in framed_logs(container, outputs):
        sink.write(part)
        await sink.drain()
