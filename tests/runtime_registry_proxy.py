"""A proxy before a registry that does what registries must not; must not know what is tested with it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from runtime_registry import Quiet, Registry, serving


@dataclass(frozen=True)
class Upstream:
    """What the registry behind a proxy said."""

    status: int
    headers: dict[str, str]
    body: bytes


Fault = Callable[["ProxyHandler", Upstream], None]
"""Answers in the proxy's place."""


@dataclass
class Proxy:
    """What stands before a registry: as long as no fault is set, one notices nothing."""

    address: str = ""
    faults: list[tuple[str, Fault, int]] = field(default_factory=list)
    """Of requests "METHOD PATH" that match an expression, so many times."""
    seen: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    """"METHOD PATH" with headers, of every request."""

    def fail(self, pattern: str, fault: Fault, times: int = 1) -> None:
        """Do this to the next requests that match."""
        self.faults.append((pattern, fault, times))

    def take(self, request: str) -> Fault | None:
        """The fault for a request."""
        for place, (pattern, fault, times) in enumerate(self.faults):
            if times and re.search(pattern, request):
                self.faults[place] = (pattern, fault, times - 1)
                return fault
        return None

    def count(self, pattern: str) -> int:
        """How many requests matched."""
        return sum(bool(re.search(pattern, request)) for request, _ in self.seen)


class ProxyHandler(Quiet):
    """One request to a proxy."""

    proxy: Proxy
    behind: Registry

    def handle_one(self) -> None:
        request = f"{self.command} {self.path}"
        headers = dict(self.headers.items())
        self.proxy.seen.append((request, {name.lower(): value for name, value in headers.items()}))
        body = self.rfile.read(int(headers.get("Content-Length", 0)))
        passed = {
            name.replace("-", "_"): value for name, value in headers.items() if name.lower() not in ("connection", "content-length")
        }
        found = Upstream(*self.behind.request(self.command, self.path, body, **passed))
        fault = self.proxy.take(request) or pass_on
        with suppress(OSError):
            fault(self, found)


@contextmanager
def proxy(behind: Registry) -> Iterator[Proxy]:
    """A proxy within the context."""
    found = Proxy()
    methods = {f"do_{method}": ProxyHandler.handle_one for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")}
    with serving(type("Handler", (ProxyHandler,), {"proxy": found, "behind": behind} | methods)) as found.address:
        yield found


def pass_on(handler: ProxyHandler, found: Upstream) -> None:
    """No fault."""
    kept = {
        name: value for name, value in found.headers.items() if name not in ("connection", "content-length", "transfer-encoding")
    }
    if handler.command == "HEAD":
        kept["Content_Length"] = found.headers.get("content-length", "0")
    handler.answer(found.status, found.body, **kept)


def cut_after(size: int) -> Fault:
    """The connection ends after so many bytes."""

    def fault(handler: ProxyHandler, found: Upstream) -> None:
        handler.send_response(found.status)
        for name, value in found.headers.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(found.body[:size])

    return fault


def flip(handler: ProxyHandler, found: Upstream) -> None:
    """One bit is another."""
    body = bytearray(found.body)
    body[len(body) // 2] ^= 1
    pass_on(handler, Upstream(found.status, found.headers, bytes(body)))


def instead(body: bytes) -> Fault:
    """Something else is said."""
    return lambda handler, found: pass_on(handler, Upstream(found.status, found.headers, body))


def status(code: int, body: bytes = b"", **headers: str) -> Fault:
    """Refused."""
    return lambda handler, _: handler.answer(code, body, **headers)


def endless(handler: ProxyHandler, found: Upstream) -> None:
    """A body of zeros, without a length, for as long as somebody reads."""
    handler.send_response(200)
    handler.end_headers()
    while True:
        handler.wfile.write(bytes(65536))
