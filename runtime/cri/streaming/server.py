"""The HTTP server that exec, attach and port forwarding come to: a token in the path, then a switch to SPDY or WebSocket.

It listens on loopback alone: a kubelet is on the same host and passes on what its clients say. Must not know containers.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TypeAlias

import h11

from flanneld.log import Log
from runtime.cri.streaming.commands import Command, converse
from runtime.cri.streaming.forwarding import forward_over_spdy, forward_over_websocket
from runtime.cri.streaming.port_forward import Forward
from runtime.cri.streaming.remote import Remote, failed
from runtime.cri.streaming.spdy import SpdyError
from runtime.cri.streaming.spdy_client import SpdyLink, SpdyRemote
from runtime.cri.streaming.tokens import Tokens
from runtime.cri.streaming.websocket_client import COMMANDS, PORTS, WebSocketError, WebSocketLink, WebSocketRemote
from runtime.errors import EngineError

log = Log(__name__)
ADDRESS = "127.0.0.1"
HEAD_LIMIT = 64 << 10
HEAD_S = 30.0
"""For a request's head."""
LINGER_S = 5.0
"""For a client to close the connection after its outcome."""
READ = 64 << 10
SPDY = "spdy/3.1"
SPDY_COMMANDS = {"v4.channel.k8s.io": 4, "v3.channel.k8s.io": 3, "v2.channel.k8s.io": 2, "channel.k8s.io": 1, "": 1}
"""Versions for commands, best first."""
SPDY_PORTS = ("portforward.k8s.io",)
_TEXT = "text/plain; charset=utf-8"


@dataclass(frozen=True, slots=True)
class CommandRequest:
    """A process and which of its streams a client wants; `begin` starts it or attaches to it, and raises EngineError."""

    begin: Callable[[], Awaitable[Command]]
    stdin: bool = False
    stdout: bool = False
    stderr: bool = False
    tty: bool = False


@dataclass(frozen=True, slots=True)
class PortsRequest:
    """A pod to be connected to; `begin` says where it is, and raises EngineError."""

    begin: Callable[[], Awaitable[Forward]]


Asked: TypeAlias = CommandRequest | PortsRequest


class StreamingServer:
    """Gives out URLs and serves them; `streaming_server` makes it."""

    def __init__(self) -> None:
        self._tokens: Tokens[Asked] = Tokens()
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0

    def url(self, verb: str, request: Asked) -> str:
        """Where a client gets what it asks for, once and soon; raises Unavailable."""
        return f"http://{ADDRESS}:{self.port}/{verb}/{self._tokens.put(request)}"

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection to its end; never raises."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a coroutine runs in one
        self._tasks.add(task)
        try:
            await self._serve(reader, writer)
        except (ConnectionError, TimeoutError, SpdyError, WebSocketError) as error:
            log.debug("streaming connection ended", why=error)
        except Exception as error:
            log.exception("streaming connection failed", error=repr(error))
        finally:
            self._tasks.discard(task)
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    async def close(self) -> None:
        """End every connection."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        http = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_LIMIT)
        async with asyncio.timeout(HEAD_S):
            head = await _head(http, reader)
        if head is None:
            return
        headers = [(bytes(name), bytes(value)) for name, value in head.headers]
        upgrade = _values(headers, b"upgrade")
        if not ({SPDY, "websocket"} & set(upgrade)):
            await _refuse(http, writer, 400, "Upgrade request required")
            return
        asked = self._tokens.take(head.target.decode("ascii").partition("?")[0].rpartition("/")[2])
        if asked is None:
            await _refuse(http, writer, 404, "no such request, or not any more")
            return
        try:
            wanted = asked if isinstance(asked, CommandRequest) else await asked.begin()
        except EngineError as error:
            await _refuse(http, writer, 500, str(error))
            return
        if SPDY in upgrade:
            await _serve_spdy(wanted, http, reader, writer, _values(headers, b"x-stream-protocol-version"))
        else:
            await _serve_websocket(wanted, WebSocketLink(reader, writer), headers, http.trailing_data[0])


@asynccontextmanager
async def streaming_server() -> AsyncIterator[StreamingServer]:
    """A server on a free port of loopback, within the context; raises OSError."""
    serving = StreamingServer()
    server = await asyncio.start_server(serving.connected, ADDRESS, 0)
    serving.port = server.sockets[0].getsockname()[1]
    try:
        yield serving
    finally:
        server.close()
        await serving.close()
        await server.wait_closed()


async def _head(http: h11.Connection, reader: asyncio.StreamReader) -> h11.Request | None:
    """The request; None: there is none, or none that makes sense."""
    request: h11.Request | None = None
    try:
        while True:
            event = http.next_event()
            if isinstance(event, h11.Request):
                request = event
            elif event is h11.NEED_DATA:
                http.receive_data(await reader.read(READ))
            else:  # it waits to be switched, or its empty body is there
                return request
    except h11.RemoteProtocolError:
        return None


def _values(headers: Sequence[tuple[bytes, bytes]], name: bytes) -> list[str]:
    """All values of a header, in lower case: of several lines, and of lists."""
    lines = [value.decode("latin-1") for key, value in headers if key == name]
    return [value.strip().lower() for line in lines for value in line.split(",")]


async def _refuse(http: h11.Connection, writer: asyncio.StreamWriter, status: int, why: str) -> None:
    body = f"{why}\n".encode()
    headers = [("Content-Type", _TEXT), ("Content-Length", str(len(body))), ("Connection", "close")]
    await _send(http, writer, h11.Response(status_code=status, headers=headers), h11.Data(data=body), h11.EndOfMessage())


async def _send(http: h11.Connection, writer: asyncio.StreamWriter, *events: h11.Event) -> None:
    for event in events:
        writer.write(http.send(event) or b"")
    await writer.drain()


async def _serve_spdy(
    asked: CommandRequest | Forward,
    http: h11.Connection,
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    offered: list[str],
) -> None:
    known = tuple(SPDY_COMMANDS) if isinstance(asked, CommandRequest) else SPDY_PORTS
    offered = offered or [known[-1]]
    protocol = next((name for name in known if name in offered), None)
    if protocol is None:
        await _refuse(http, writer, 403, f"unable to upgrade: unable to negotiate protocol: server supports {list(known)}")
        return
    chosen = [("X-Stream-Protocol-Version", protocol)] if protocol else []
    switch = [("Connection", "Upgrade"), ("Upgrade", "SPDY/3.1"), *chosen]
    await _send(http, writer, h11.InformationalResponse(status_code=101, headers=switch, reason=b"Switching Protocols"))
    link = SpdyLink(reader, writer)
    await _beside(
        link.run(http.trailing_data[0]),
        forward_over_spdy(link, asked) if isinstance(asked, Forward) else _command_over_spdy(asked, link, SPDY_COMMANDS[protocol]),
    )


async def _command_over_spdy(asked: CommandRequest, link: SpdyLink, version: int) -> None:
    remote = SpdyRemote(link, version)
    wanted = {"stdin": asked.stdin, "stdout": asked.stdout, "stderr": asked.stderr and not asked.tty}
    resizes = asked.tty and version >= 3
    await remote.gather({"error", *(name for name, wants in wanted.items() if wants), *(("resize",) if resizes else ())})
    await _run(asked, remote)


async def _serve_websocket(
    asked: CommandRequest | Forward, link: WebSocketLink, headers: Sequence[tuple[bytes, bytes]], first: bytes
) -> None:
    if not await link.accept(headers, "/", COMMANDS if isinstance(asked, CommandRequest) else PORTS):
        return
    serving = forward_over_websocket(link, asked) if isinstance(asked, Forward) else _command_over_websocket(asked, link)
    await _beside(link.run(first), serving)


async def _command_over_websocket(asked: CommandRequest, link: WebSocketLink) -> None:
    remote = WebSocketRemote(link, wants_stdin=asked.stdin)
    if asked.stdout or asked.stderr:
        await remote.greet(stdout=asked.stdout)
    await _run(asked, remote)


async def _run(asked: CommandRequest, remote: Remote) -> None:
    try:
        command = await asked.begin()
    except EngineError as error:
        await remote.finish(failed(str(error)))
        return
    await converse(command, remote)


async def _beside(reading: Awaitable[None], serving: Awaitable[None]) -> None:
    """Read a client while it is served; that it leaves ends its service. Raises what either does.

    Once it has been told all, it is listened to until it leaves: were the connection closed under what it still sends, the kernel
    would take back what it has not read yet.
    """
    tasks = [asyncio.ensure_future(reading), asyncio.ensure_future(serving)]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if not tasks[0].done() and not tasks[1].exception():
            await asyncio.wait(tasks[:1], timeout=LINGER_S)
    finally:
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
    for result in results:
        if isinstance(result, Exception):
            raise result
