"""What the daemon tells probes and scrapes: /healthz, /readyz and /metrics over HTTP; must not know what makes it ready.

Paths and texts are flannel's; that readiness has reasons is ours. One request a connection (RFC 9112 §9.6), parsed by h11.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from http import HTTPStatus
from typing import TypeAlias

import h11

from flanneld import FlanneldError
from flanneld.lease import IPAddress
from flanneld.metrics import CONTENT_TYPE, Exporter

REQUEST_TIMEOUT_S = 5.0
"""For a whole connection; a probe takes milliseconds."""
MAX_CONNECTIONS = 64
"""At one time; more are closed at once, so that nobody can use up the daemon's file descriptors."""
MAX_HEAD = 8 * 1024
"""Bytes of a request's head."""


class HealthError(FlanneldError):
    """The port cannot be served."""


class Health:
    """What still keeps the daemon from being ready, condition by condition."""

    def __init__(self, *conditions: str) -> None:
        self._unmet = dict.fromkeys(conditions, "not yet")
        self.complete = asyncio.Event()
        """Set once every condition has held at one time."""

    def met(self, condition: str) -> None:
        """The condition holds."""
        self._unmet.pop(condition, None)
        if not self._unmet:
            self.complete.set()

    def unmet(self, condition: str, why: str) -> None:
        """The condition does not hold, or not any more."""
        self._unmet[condition] = why

    @property
    def reasons(self) -> tuple[str, ...]:
        """Each unmet condition with why; none: ready."""
        return tuple(f"{condition}: {why}" for condition, why in self._unmet.items())


@dataclass(frozen=True, slots=True)
class Response:
    """An answer to a GET."""

    body: str
    status: HTTPStatus = HTTPStatus.OK
    content_type: str = "text/plain; charset=utf-8"
    headers: tuple[tuple[str, str], ...] = ()


Routes: TypeAlias = Mapping[str, Callable[[], Response]]
"""Path to what answers a GET of it."""


def health_routes(health: Health, exporter: Exporter) -> Routes:
    """Alive for as long as we answer; ready when nothing is unmet; and what there is to measure."""

    def readyz() -> Response:
        if health.reasons:
            reasons = "".join(f"{why}\n" for why in health.reasons)
            return Response(f"flanneld is not ready\n{reasons}", HTTPStatus.SERVICE_UNAVAILABLE)
        return Response("flanneld is ready")

    return {
        "/healthz": lambda: Response("flanneld is running"),
        "/readyz": readyz,
        "/metrics": lambda: Response(exporter.text(), content_type=CONTENT_TYPE),
    }


@asynccontextmanager
async def serve_health(address: IPAddress, port: int, health: Health, exporter: Exporter) -> AsyncIterator[None]:
    """Serve probes and scrapes within the context; port 0: do not. Raises HealthError when the port cannot be had."""
    if not port:
        yield
        return
    with listen(address, port) as listener:
        async with serving(listener, health_routes(health, exporter)):
            yield


def listen(address: IPAddress, port: int) -> socket.socket:
    """A listening socket; `::` takes IPv4 too, as in Go. Raises HealthError."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        return socket.create_server((str(address), port), family=family, dualstack_ipv6=address.version == 6)
    except OSError as error:
        why = os.strerror(error.errno).lower() if error.errno else str(error)
        raise HealthError(f"cannot serve healthz-ip {address}, healthz-port {port}: {why}") from error


@asynccontextmanager
async def serving(listener: socket.socket, routes: Routes) -> AsyncIterator[None]:
    """Answer GET and HEAD of these paths within the context; connections end with it."""
    connections: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None or len(connections) >= MAX_CONNECTIONS:
            writer.close()
            return
        connections.add(task)
        try:
            await _converse(routes, reader, writer)
        finally:
            connections.discard(task)
            writer.close()

    server = await asyncio.start_server(connected, sock=listener, limit=MAX_HEAD)
    async with server:
        try:
            yield
        finally:
            for task in connections:
                task.cancel()
            await asyncio.gather(*connections, return_exceptions=True)


async def _converse(routes: Routes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One request and its answer. A client that is slow, gone or talks rubbish is its own problem."""
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD)
    with suppress(OSError, TimeoutError):
        async with asyncio.timeout(REQUEST_TIMEOUT_S):
            try:
                request = await _read_request(connection, reader)
            except h11.RemoteProtocolError as error:
                writer.write(_encode(connection, Response(f"{error}\n", HTTPStatus(error.error_status_hint))))
            else:
                if request is None:
                    return
                writer.write(_encode(connection, respond(routes, request), with_body=request.method != b"HEAD"))
            await writer.drain()


async def _read_request(connection: h11.Connection, reader: asyncio.StreamReader) -> h11.Request | None:
    """The request's head, None when the client left; raises h11.RemoteProtocolError."""
    while (event := connection.next_event()) is h11.NEED_DATA:
        connection.receive_data(await reader.read(MAX_HEAD))
    return event if isinstance(event, h11.Request) else None


def respond(routes: Routes, request: h11.Request) -> Response:
    """The answer to a request, whose body nobody needs."""
    path = request.target.decode("latin-1").partition("?")[0]
    if path not in routes:
        return Response(f"no {path} here, expected one of {' '.join(routes)}\n", HTTPStatus.NOT_FOUND)
    if request.method not in (b"GET", b"HEAD"):
        return Response("expected GET or HEAD\n", HTTPStatus.METHOD_NOT_ALLOWED, headers=(("Allow", "GET, HEAD"),))
    return routes[path]()


def _encode(connection: h11.Connection, response: Response, *, with_body: bool = True) -> bytes:
    body = response.body.encode()
    headers = [
        ("Content-Type", response.content_type),
        ("Content-Length", str(len(body))),
        ("Connection", "close"),
        *response.headers,
    ]
    head = h11.Response(status_code=response.status, reason=response.status.phrase.encode(), headers=headers)
    parts = [head, h11.Data(data=body), h11.EndOfMessage()] if with_body else [head, h11.EndOfMessage()]
    return b"".join(connection.send(part) or b"" for part in parts)
