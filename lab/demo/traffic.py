"""Traffic between places of a lab: HTTP, one TCP stream, echoes; must not know what it proves.

Servers and clients are threads of this process with sockets in the places' network namespaces. Whatever does not move for
`PATIENCE_S` raises OSError, so that a broken network ends an exchange instead of hanging it.
"""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from http import HTTPStatus
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler
from ipaddress import IPv4Address, IPv6Address
from socketserver import ThreadingTCPServer
from threading import Thread
from typing import TypeAlias

from lab.place import Place

IPAddress: TypeAlias = IPv4Address | IPv6Address

PATIENCE_S = 5.0
HTTP_PORT = 80
STREAM_PORT = 5001
CLIENT_HEADER = "X-Client"
CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Answer:
    """What an HTTP server sent."""

    sha256: str
    """Of the body, in hexadecimal."""
    client: str
    """The address that the request came from, as the server saw it."""


@contextmanager
def http_server(place: Place, body: bytes = b"") -> Iterator[None]:
    """Answer every GET with this body, on all of the place's addresses, port 80."""

    class Handler(BaseHTTPRequestHandler):
        timeout = PATIENCE_S

        def do_GET(self) -> None:  # http.server finds methods by this name
            self.send_response_only(HTTPStatus.OK)
            self.send_header("Content-Length", str(len(body)))
            self.send_header(CLIENT_HEADER, self.client_address[0])
            self.end_headers()
            self.wfile.write(body)

    with place.call(_Server, ("", HTTP_PORT), Handler) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()


class _Server(ThreadingTCPServer):
    """Not http.server's: that one looks its own name up, and a lab has no DNS to ask."""

    allow_reuse_address = True

    def handle_error(self, *_: object) -> None:
        """The client has met it too, and says it better."""


def http_get(place: Place, ip: IPAddress) -> Answer:
    """Fetch `/`; raises OSError, HTTPException (a body that ends early among them)."""
    return place.call(_get, ip)


def _get(ip: IPAddress) -> Answer:
    connection = HTTPConnection(str(ip), HTTP_PORT, timeout=PATIENCE_S)
    try:
        connection.request("GET", "/")
        response = connection.getresponse()
        return Answer(sha256(response.read()).hexdigest(), response.headers[CLIENT_HEADER])
    finally:
        connection.close()


def stream_bits_per_s(source: Place, destination: Place, ip: IPAddress, seconds: float) -> float:
    """Send over one TCP connection for so long; returns what arrived, per second; raises OSError."""
    with destination.call(socket.create_server, (str(ip), STREAM_PORT)) as listener, ThreadPoolExecutor(1) as thread:
        listener.settimeout(PATIENCE_S)
        drained = thread.submit(_drain, listener)
        source.call(_pour, ip, seconds)
        return drained.result()


def _pour(ip: IPAddress, seconds: float) -> None:
    chunk = bytes(CHUNK_BYTES)
    with socket.create_connection((str(ip), STREAM_PORT), timeout=PATIENCE_S) as sock:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            sock.sendall(chunk)


def _drain(listener: socket.socket) -> float:
    buffer = bytearray(CHUNK_BYTES)
    arrived = 0
    sock, _ = listener.accept()
    with sock:
        sock.settimeout(PATIENCE_S)
        start = time.monotonic()
        while count := sock.recv_into(buffer):
            arrived += count
        return arrived * 8 / (time.monotonic() - start)


def round_trips_s(place: Place, ip: IPAddress, count: int) -> list[float]:
    """Echo so many times, 2 ms apart; returns the times of those that were answered, sorted."""
    ping = place.run(["ping", "-n", "-c", str(count), "-i", "0.002", "-w", "10", str(ip)], check=False)
    return sorted(float(ms) / 1000 for ms in re.findall(r" time=([0-9.]+) ms", ping.stdout))


def can_route(place: Place, ip: IPAddress) -> bool:
    """Whether the place knows a way to this address; sends nothing."""
    return place.call(_can_route, ip)


def _can_route(ip: IPAddress) -> bool:
    with socket.socket(socket.AF_INET if ip.version == 4 else socket.AF_INET6, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect((str(ip), HTTP_PORT))
        except OSError:
            return False
        return True
