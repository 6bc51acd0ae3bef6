"""What a container says and does, watched: logs, stats and top."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote_plus

from runtime.clock import text_of
from runtime.containers.logs import LogLine, LogQuery, read_logs
from runtime.containers.stats import stats as read_stats
from runtime.containers.top import top as read_top
from runtime.docker_api.backend import Backend
from runtime.docker_api.exchange import Bytes, Json, Lines, Request, Response
from runtime.docker_api.filters import parse_moment
from runtime.docker_api.streams import content_type, frame
from runtime.errors import InvalidParameter, NotSupported

if TYPE_CHECKING:
    from runtime.containers.container import Container
    from runtime.containers.record import Record


async def logs(engine: Backend, request: Request) -> Response:
    """What it has said, and with follow what it says until it ends."""
    query = request.query
    outputs = (query.flag("stdout"), query.flag("stderr"))
    if not any(outputs):
        raise InvalidParameter("Bad parameters: you must choose at least one stream")
    container = engine.containers.find(request.arguments["name"])
    path = check_readable(container)
    wanted = LogQuery(
        follow=query.flag("follow"),
        since_ns=parse_moment(query.text("since") or "0"),
        until_ns=parse_moment(query.text("until") or "0"),
        tail=_tail(query.text("tail")),
        stdout=outputs[0],
        stderr=outputs[1],
    )
    tty = container.record.config.tty
    prefix = details(container.record) if query.flag("details") else b""
    parts = _render(_read(container, path, wanted), framed=not tty, timestamps=query.flag("timestamps"), prefix=prefix)
    return Bytes(parts, content_type(tty=tty, version=request.version), at_once=True)


def check_readable(container: Container) -> Path:
    """Where its output is written; raises NotSupported when it is not."""
    if container.log_path is None:
        raise NotSupported("configured logging driver does not support reading")
    return container.log_path


def _tail(text: str) -> int | None:
    """Lines from the end; "all", nothing and what is no number: all of them, as in Docker."""
    return int(text) if text.isascii() and text.isdigit() else None


def framed_logs(container: Container, outputs: tuple[bool, bool]) -> AsyncIterator[bytes]:
    """All that it has said so far, as its live output would come."""
    query = LogQuery(stdout=outputs[0], stderr=outputs[1])
    return _render(_read(container, check_readable(container), query), framed=not container.record.config.tty, timestamps=False)


def _read(container: Container, path: Path, query: LogQuery) -> AsyncIterator[LogLine]:
    return read_logs(path, query, lambda: container.is_running)


async def _render(lines: AsyncIterator[LogLine], *, framed: bool, timestamps: bool, prefix: bytes = b"") -> AsyncIterator[bytes]:
    async for line in lines:
        data = line.data
        if line.starts:
            data = (f"{text_of(line.time_ns)} ".encode() if timestamps else b"") + prefix + data
        yield frame(line.stream, data) if framed else data


def details(record: Record) -> bytes:
    """What stands before each line of a log with its details: the labels and variables that its log options name."""
    options = record.host.log_config.config
    variables = dict(text.partition("=")[::2] for text in record.config.env)
    chosen = {
        name: values[name]
        for option, values in (("labels", record.config.labels), ("env", variables))
        for name in options.get(option, "").split(",")
        if name in values
    }
    return ",".join(f"{quote_plus(name)}={quote_plus(value)}" for name, value in sorted(chosen.items())).encode() + b" "


async def stats(engine: Backend, request: Request) -> Response:
    """Counters, each second or once."""
    container = engine.containers.find(request.arguments["name"])
    stream = request.query.flag("stream", default=True)
    one_shot = request.query.flag("one-shot") and not stream
    return Lines(read_stats(container, stream=stream, one_shot=one_shot))


async def top(engine: Backend, request: Request) -> Response:
    """Its processes, as ps shows them."""
    container = engine.containers.find(request.arguments["name"])
    shown = await read_top(container, request.query.text("ps_args"))
    engine.events.tell("container", "top", container.id, container.facts())
    return Json({"Titles": list(shown.titles), "Processes": [list(process) for process in shown.processes]})
