"""HTTP towards registries: TLS as configured, redirects that leak nothing, failures as the engine's errors; must not know
what is asked.

Redirects are followed here and not by the HTTP library: what is for a registry (Authorization) is not for the store that it sends
us to, and one reached by TLS may not send us on without.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import ssl
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, cast
from urllib.parse import urljoin, urlsplit

from runtime.errors import EngineError
from runtime.images.registry.refusals import Protocol, Transient, Unreachable, printable
from runtime.images.registry.settings import Endpoint, is_loopback

if TYPE_CHECKING:
    import httpx

MAX_REDIRECTS = 5
MAX_ERROR = 64 * 1024
"""Bytes of an error's body that are read."""
CONNECT_S = 15.0
IDLE_S = 60.0
"""How long a registry may be silent in the middle of something."""
CONNECTIONS = 64
AGENT = "tartan/1 (docker compatible)"
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_FOR_THE_HOST_ALONE = frozenset({"authorization", "cookie"})

Body: TypeAlias = Callable[[], AsyncIterable[bytes]] | bytes
"""What is sent; a function that begins anew, where it is long."""


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked of an endpoint."""

    method: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Body = b""


class Transport:
    """Connections to registries, kept open between requests."""

    def __init__(self, certificates: Path) -> None:
        self._certificates = certificates
        self._clients: dict[tuple[bool, bool, str], httpx.AsyncClient] = {}
        self._making = asyncio.Lock()

    async def aclose(self) -> None:
        """Close every connection."""
        clients, self._clients = list(self._clients.values()), {}
        for client in clients:
            await client.aclose()

    async def open(self, endpoint: Endpoint, request: Request) -> httpx.Response:
        """The answer, its body not read yet, whatever its status; the caller closes it. Raises Unreachable, Transient, Protocol."""
        for _ in range(MAX_REDIRECTS + 1):
            response = await self._send(endpoint, request)
            if response.status_code not in _REDIRECTS or request.method not in ("GET", "HEAD"):
                return response
            target = response.headers.get("location", "")
            await response.aclose()
            request = _redirected(endpoint, request, target)
        raise Protocol(f"{_said(request)}: stopped after {MAX_REDIRECTS} redirects")

    async def _send(self, endpoint: Endpoint, request: Request) -> httpx.Response:
        client = await self._client(endpoint, urlsplit(request.url).netloc)
        import httpx

        body = request.body if isinstance(request.body, bytes) else request.body()
        # Content-Encoding would hide what the digest is of.
        headers = {"Accept-Encoding": "identity", "User-Agent": AGENT} | dict(request.headers)
        try:
            built = client.build_request(request.method, request.url, headers=headers, content=body)
            return await client.send(built, stream=True)
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise Unreachable(f"{_said(request)}: {_why_unreachable(error, request)}") from error
        except (httpx.UnsupportedProtocol, httpx.InvalidURL, httpx.LocalProtocolError, UnicodeError) as error:
            raise Protocol(f"{_said(request)}: {error}") from error
        except httpx.TransportError as error:
            raise Transient(f"{_said(request)}: {str(error) or type(error).__name__}") from error

    async def _client(self, endpoint: Endpoint, host: str) -> httpx.AsyncClient:
        async with self._making:
            directory = self._certificates / host if "/" not in host and host not in ("", ".", "..") else None
            own = directory is not None and await asyncio.to_thread(directory.is_dir)
            # Trusting anything is for the registry that it was said of, not for where it sends us.
            verified = endpoint.is_verified or host != endpoint.host
            key = (verified, is_loopback(urlsplit(f"//{host}").hostname or ""), host if own else "")
            if key not in self._clients:
                self._clients[key] = await asyncio.to_thread(_new_client, verified, directory if own else None, direct=key[1])
            return self._clients[key]


def _new_client(verified: bool, directory: Path | None, *, direct: bool) -> httpx.AsyncClient:
    """Blocking: the HTTP library is loaded when it is needed first, and certificates are many."""
    import httpx

    logging.getLogger("httpx").setLevel(logging.WARNING)  # a line for each request else
    return httpx.AsyncClient(
        verify=_context(verified, directory),
        timeout=httpx.Timeout(IDLE_S, connect=CONNECT_S, pool=None),
        limits=httpx.Limits(max_connections=CONNECTIONS, max_keepalive_connections=8, keepalive_expiry=20.0),
        follow_redirects=False,
        trust_env=not direct,  # HTTPS_PROXY and its kin, but never for what is on this machine
    )


def _context(verified: bool, directory: Path | None) -> ssl.SSLContext:
    """TLS as a registry's directory and trust say; raises EngineError naming the file that cannot be used."""
    context = ssl.create_default_context()
    for path in sorted(directory.iterdir()) if directory else ():
        try:
            if path.suffix == ".crt":
                context.load_verify_locations(path)
            elif path.suffix == ".cert":
                context.load_cert_chain(path, path.with_suffix(".key"))
        except OSError as error:
            raise EngineError(f"cannot use certificate {path}: {error}") from error
    if not verified:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _redirected(endpoint: Endpoint, request: Request, location: str) -> Request:
    target = urljoin(request.url, location)
    here, there = urlsplit(request.url), urlsplit(target)
    if not location or there.scheme not in ("http", "https") or not there.hostname:
        raise Protocol(f"{_said(request)}: redirected to {printable(location)!r}, expected a URL")
    if there.scheme == "http" and not (here.scheme == "http" and endpoint.may_be_plain):
        raise Protocol(f"{_said(request)}: refused to follow from https to {printable(target)!r}")
    if (here.scheme, here.netloc) == (there.scheme, there.netloc):
        return replace(request, url=target)
    headers = {name: value for name, value in request.headers.items() if name.lower() not in _FOR_THE_HOST_ALONE}
    return replace(request, url=target, headers=headers)


def _said(request: Request) -> str:
    """The request as Go's HTTP client, and so Docker, words it; what follows "?" may be a secret."""
    return f'{request.method.capitalize()} "{printable(request.url.partition("?")[0])}"'


def _why_unreachable(error: Exception, request: Request) -> str:
    """Go's words for what users look up."""
    host = urlsplit(request.url).netloc
    seen: BaseException | None = error
    while seen is not None:
        match seen:
            case ssl.SSLCertVerificationError():
                return f"tls: failed to verify certificate: x509: {seen.verify_message}"
            case ssl.SSLError():
                return f"tls: {seen.reason or seen}"
            case socket.gaierror():
                why = "no such host" if seen.errno == socket.EAI_NONAME else seen.strerror
                return f"dial tcp: lookup {urlsplit(request.url).hostname}: {why}"
            case BaseExceptionGroup():
                seen = seen.exceptions[0]
                continue
            case OSError(errno=int(number)):
                return f"dial tcp {host}: connect: {os.strerror(number).lower()}"
        seen = seen.__cause__ or seen.__context__
    return f"dial tcp {host}: {str(error) or 'i/o timeout'}"


async def chunks_of(response: httpx.Response) -> AsyncGenerator[bytes, None]:
    """An answer's body as it comes, undecoded; raises Transient when it breaks off."""
    import httpx

    try:
        async with aclosing(_raw(response)) as chunks:
            async for chunk in chunks:
                yield chunk
    except (httpx.TransportError, httpx.StreamError) as error:
        raise Transient(f"{response.request.url.host}: {str(error) or type(error).__name__}") from error


def _raw(response: httpx.Response) -> AsyncGenerator[bytes, None]:
    return cast("AsyncGenerator[bytes, None]", response.aiter_raw())


async def read_all(response: httpx.Response, limit: int) -> bytes:
    """A small body, and close the answer; raises Protocol when it is not small, Transient."""
    body = bytearray()
    try:
        async with asyncio.timeout(IDLE_S), aclosing(chunks_of(response)) as chunks:
            async for chunk in chunks:
                body += chunk
                if len(body) > limit:
                    raise Protocol(f"{response.request.url.host} sends more than the {limit} bytes that this may have")
    except TimeoutError as error:
        raise Transient(f"{response.request.url.host} takes more than {IDLE_S:.0f} s") from error
    finally:
        await response.aclose()
    return bytes(body)


async def read_error(response: httpx.Response) -> bytes:
    """As much of an error's body as may be of use, and close the answer."""
    try:
        return await read_all(response, MAX_ERROR)
    except (Protocol, Transient):
        return b""
