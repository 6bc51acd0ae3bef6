"""One repository of a registry, as it is asked for manifests, tags and blobs (OCI distribution-spec 1.1); must not know
what images are.

A question goes to the repository's endpoints in turn until one answers: mirrors give way at any trouble, a registry's own address
only when nobody is there. Who answered is asked first from then on.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import quote, urljoin, urlsplit

from flanneld.log import Log
from flanneld.retry import Backoff
from runtime.errors import EngineError
from runtime.images.content import DigestMismatch, digest_of
from runtime.images.image import DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST
from runtime.images.registry.auth import Credentials, Tokens, parse_challenges
from runtime.images.registry.refusals import Protocol, Refusal, Transient, Unreachable, printable, read_refusal
from runtime.images.registry.settings import Endpoint
from runtime.images.registry.transport import Body, Request, Transport, chunks_of, read_all, read_error

if TYPE_CHECKING:
    import httpx

T = TypeVar("T")

MAX_MANIFEST = 4 << 20
"""Bytes (distribution-spec, "Pushing Manifests": registries should take 4 MiB)."""
MAX_TAGS_ANSWER = 4 << 20
TRIES = 4
"""Of a small request that meets an overloaded registry or a broken connection."""
FIRST_WAIT_S = 0.5
LONGEST_WAIT_S = 30.0
"""A registry that wants to be left alone for longer is told about instead."""
_ACCEPTED = ", ".join((OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST))
_TRANSIENT = frozenset({408, 429, 500, 502, 503, 504})
_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(?:\d+|\*)")
_NEXT = re.compile(r'<([^>]+)>\s*;\s*rel="?next"?')

log = Log(__name__)


@dataclass(frozen=True, slots=True)
class Connections:
    """What all repositories share."""

    transport: Transport
    tokens: Tokens
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep


@dataclass(frozen=True, slots=True)
class Answer:
    """A manifest or index, as bytes."""

    digest: str
    media_type: str
    data: bytes


@dataclass(frozen=True, slots=True)
class BlobBody:
    """A blob on its way."""

    start: int
    """Which of its bytes comes first."""
    length: int | None
    """How many are to come, if the registry says so."""
    chunks: AsyncIterator[bytes]


class Repository:
    """A repository, with one user's rights."""

    def __init__(
        self,
        connections: Connections,
        endpoints: tuple[Endpoint, ...],
        path: str,
        scopes: tuple[str, ...],
        credentials: Credentials | None,
    ) -> None:
        self._connections = connections
        self._endpoints = endpoints
        self._path = path
        self._scopes = scopes
        self._credentials = credentials
        self._authorization: dict[Endpoint, str] = {}

    def reaching(self, source: str) -> Repository:
        """The same repository, with the right to read another of the registry: for mounting its blobs."""
        return Repository(
            self._connections, self._endpoints, self._path, (*self._scopes, f"repository:{source}:pull"), self._credentials
        )

    def without_mirrors(self) -> Repository | None:
        """The same repository at the registry itself; None: this asks nobody else."""
        own = tuple(endpoint for endpoint in self._endpoints if not endpoint.is_mirror)
        if own == self._endpoints:
            return None
        return Repository(self._connections, own, self._path, self._scopes, self._credentials)

    async def manifest(self, reference: str) -> Answer:
        """What a tag or digest stands for; raises Refusal, DigestMismatch, Protocol, Unreachable."""
        return await self.anywhere(lambda endpoint: self._manifest(endpoint, reference))

    async def _manifest(self, endpoint: Endpoint, reference: str) -> Answer:
        async def ask() -> Answer:
            response = await self.open(endpoint, "GET", f"manifests/{reference}", {"Accept": _ACCEPTED})
            headers = response.headers
            data = await read_all(response, MAX_MANIFEST)
            digest = digest_of(data)
            announced = reference if ":" in reference else headers.get("docker-content-digest", digest)
            if announced.startswith("sha256:") and announced != digest:
                raise DigestMismatch(f"manifest verification failed for digest {announced}")
            return Answer(digest, headers.get("content-type", "").partition(";")[0].strip(), data)

        return await self.patiently(endpoint, ask)

    async def tags(self) -> list[str]:
        """Every tag of it; raises Refusal, Unreachable."""
        return await self.anywhere(lambda endpoint: self.patiently(endpoint, lambda: self._tags(endpoint)))

    async def _tags(self, endpoint: Endpoint) -> list[str]:
        found: list[str] = []
        path: str | None = "tags/list?n=1000"
        while path is not None and len(found) < 100_000:
            response = await self.open(endpoint, "GET", path)
            link = response.headers.get("link", "")
            found += read_names(await read_all(response, MAX_TAGS_ANSWER), "tags")
            path = next_page(link, "tags/list")
        return found

    @asynccontextmanager
    async def blob(self, digest: str, offset: int = 0) -> AsyncIterator[BlobBody]:
        """A blob's bytes, from `offset` on if the registry can do that; raises Refusal, Transient, Unreachable."""
        headers = {"Range": f"bytes={offset}-"} if offset else {}
        response = await self.anywhere(lambda endpoint: self.open(endpoint, "GET", f"blobs/{digest}", headers))
        try:
            length = response.headers.get("content-length", "")
            start = _start(response, offset)
            async with aclosing(chunks_of(response)) as chunks:
                yield BlobBody(start, int(length) if length.isdecimal() else None, chunks)
        finally:
            await response.aclose()

    async def small_blob(self, digest: str, size: int) -> bytes:
        """All of a blob that is held in memory; raises what `blob` does, DigestMismatch, Protocol when it is longer."""

        async def ask(endpoint: Endpoint) -> bytes:
            data = await read_all(await self.open(endpoint, "GET", f"blobs/{digest}"), size)
            if digest_of(data) != digest:
                raise DigestMismatch(f"blob {digest} has the digest {digest_of(data)}")
            return data

        return await self.anywhere(lambda endpoint: self.patiently(endpoint, lambda: ask(endpoint)))

    async def anywhere(self, call: Callable[[Endpoint], Awaitable[T]]) -> T:
        """The first endpoint's answer, going on to the next one where that is right; raises the last one's error."""
        *others, last = self._endpoints  # as they are now: somebody else's answer may change their order
        for endpoint in others:
            try:
                found = await call(endpoint)
            except EngineError as error:
                if not endpoint.is_mirror and not isinstance(error, Unreachable):
                    raise
                log.debug("registry endpoint of no use, trying the next one", endpoint=endpoint.url, why=error)
            else:
                self._prefer(endpoint)
                return found
        found = await call(last)
        self._prefer(last)
        return found

    def _prefer(self, endpoint: Endpoint) -> None:
        """Do not offer TLS again to who speaks plain HTTP; but mirrors keep their turn: what one lacks, another may have."""
        if not any(other.is_mirror for other in self._endpoints):
            self._endpoints = (endpoint, *(other for other in self._endpoints if other != endpoint))

    async def patiently(self, endpoint: Endpoint, call: Callable[[], Awaitable[T]]) -> T:
        """Try again after a while what may go better then; a mirror has one try."""
        backoff = Backoff(FIRST_WAIT_S, 8.0)
        for left in reversed(range(1 if endpoint.is_mirror else TRIES)):
            try:
                return await call()
            except Transient as error:
                if not left or error.after_s > LONGEST_WAIT_S:
                    raise
                log.debug("registry asked again", endpoint=endpoint.url, why=error)
                await self._connections.sleep(max(backoff.next(), error.after_s))
        raise AssertionError("the last try returns or raises")

    async def open(
        self, endpoint: Endpoint, method: str, path: str, headers: Mapping[str, str] | None = None, body: Body = b""
    ) -> httpx.Response:
        """Ask, with the credentials that are called for; the caller closes the answer. Raises Refusal, Transient, Unreachable."""
        url = urljoin(f"{endpoint.url}/v2/{quote(self._path, safe='/')}/", path)
        request = Request(method, url, headers or {}, body)
        if _origin(url) != _origin(endpoint.url):
            # Where a registry wants an upload is its choice; our secrets are not for there.
            return await self._open_elsewhere(endpoint, request)
        credentials = None if endpoint.is_mirror else self._credentials
        sent = self._authorization.get(endpoint, "")
        response = await self._connections.transport.open(endpoint, _authorized(request, sent))
        if response.status_code == 401:
            challenges = parse_challenges(response.headers.get_list("www-authenticate"))
            header = await self._connections.tokens.header(endpoint, challenges, self._scopes, credentials, sent)
            if header:
                await response.aclose()
                self._authorization[endpoint] = header
                response = await self._connections.transport.open(endpoint, _authorized(request, header))
            elif any(challenge.scheme == "basic" for challenge in challenges) and not credentials:
                await response.aclose()
                raise Refusal(401, "UNAUTHORIZED", f'{method.capitalize()} "{url}": no basic auth credentials')
        if response.status_code >= 300:
            raise await _failure(response)
        return response

    async def _open_elsewhere(self, endpoint: Endpoint, request: Request) -> httpx.Response:
        if not request.url.startswith("https://") and not endpoint.may_be_plain:
            raise Protocol(f"{endpoint.host} sends us to {printable(request.url)!r}, expected https")
        response = await self._connections.transport.open(endpoint, request)
        if response.status_code >= 300:
            raise await _failure(response)
        return response


def _origin(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.scheme, parts.netloc


def _authorized(request: Request, header: str) -> Request:
    return replace(request, headers=dict(request.headers) | {"Authorization": header}) if header else request


async def _failure(response: httpx.Response) -> EngineError:
    """What an answer that is none means."""
    status, after = response.status_code, response.headers.get("retry-after", "")
    errors = [challenge.error for challenge in parse_challenges(response.headers.get_list("www-authenticate"))]
    refusal = read_refusal(status, await read_error(response), errors)
    if status in _TRANSIENT:
        said = str(refusal) if status == 429 or refusal.code != "UNKNOWN" else refusal.message
        return Transient(said, float(after) if after.isdecimal() else 0.0)
    return refusal


def _start(response: httpx.Response, offset: int) -> int:
    """Where the bytes of an answer begin; one that was not asked for from there, or cannot, begins at 0."""
    if response.status_code != 206:
        return 0
    match = _CONTENT_RANGE.fullmatch(response.headers.get("content-range", ""))
    if match is None or int(match[1]) > offset:
        raise Protocol(f"{response.request.url.host} answers a range that was not asked for")
    return int(match[1])


def read_names(answer: bytes, key: str) -> list[str]:
    """The strings of a list in a JSON object; raises Protocol."""
    try:
        found = json.loads(answer)
        return [str(name) for name in found.get(key) or ()]
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise Protocol(f"the registry answers what is no list of {key}") from error


def next_page(link: str, path: str) -> str | None:
    """What to ask for next (RFC 8288), as the path with the registry's query; None: that was all."""
    match = _NEXT.search(link)
    _, question, query = match[1].partition("?") if match else ("", "", "")
    return f"{path}?{query}" if question else None
