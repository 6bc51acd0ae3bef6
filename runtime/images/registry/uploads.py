"""Giving a registry blobs and manifests (OCI distribution-spec 1.1, "Push"); must not know what images are.

A blob goes up as Docker sends it, in one PATCH and an empty PUT: what every registry is tested with.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote, urljoin

from runtime.images.content import DigestMismatch
from runtime.images.registry.refusals import Protocol, Refusal
from runtime.images.registry.repository import Answer, Repository

if TYPE_CHECKING:
    import httpx

    from runtime.images.registry.settings import Endpoint


@dataclass(frozen=True, slots=True)
class Upload:
    """A blob to send."""

    digest: str
    size: int
    chunks: Callable[[], AsyncIterable[bytes]]
    """Its bytes, from the first on at every call."""


async def has_blob(repository: Repository, digest: str) -> bool:
    """Whether the repository has that blob already; raises Refusal, Unreachable."""

    async def ask(endpoint: Endpoint) -> bool:
        try:
            response = await repository.open(endpoint, "HEAD", f"blobs/{digest}")
        except Refusal as refusal:
            if refusal.status == 404:
                return False
            raise
        await response.aclose()
        return True

    return await repository.anywhere(lambda endpoint: repository.patiently(endpoint, lambda: ask(endpoint)))


async def mount_blob(repository: Repository, digest: str, source: str) -> bool:
    """Take a blob over from another repository of the registry; false: it has to be sent. Raises Refusal, Unreachable."""

    async def ask(endpoint: Endpoint) -> bool:
        path = f"blobs/uploads/?mount={quote(digest)}&from={quote(source, safe='')}"
        response = await repository.open(endpoint, "POST", path)
        await response.aclose()
        if response.status_code == 201:
            return True
        await _abandon(repository, endpoint, response)
        return False

    try:
        return await repository.anywhere(ask)
    except Refusal:
        return False  # not ours to read: it is sent, and if that is refused too, said then


async def _abandon(repository: Repository, endpoint: Endpoint, begun: httpx.Response) -> None:
    """End an upload that a registry began where we wanted a mount."""
    try:
        response = await repository.open(endpoint, "DELETE", _location(begun))
    except (Refusal, Protocol):
        return
    await response.aclose()


async def send_blob(repository: Repository, upload: Upload) -> None:
    """Send a blob; raises Refusal, Transient, Unreachable, DigestMismatch when the registry took something else for it."""
    await repository.anywhere(lambda endpoint: _send(repository, endpoint, upload))


async def _send(repository: Repository, endpoint: Endpoint, upload: Upload) -> None:
    response = await repository.open(endpoint, "POST", "blobs/uploads/")
    await response.aclose()
    headers = {"Content-Type": "application/octet-stream", "Content-Length": str(upload.size)}
    response = await repository.open(endpoint, "PATCH", _location(response), headers, upload.chunks)
    await response.aclose()
    location = _location(response)
    joint = "&" if "?" in location else "?"
    response = await repository.open(endpoint, "PUT", f"{location}{joint}digest={quote(upload.digest)}")
    await response.aclose()
    if (kept := response.headers.get("docker-content-digest", upload.digest)) != upload.digest:
        raise DigestMismatch(f"{endpoint.host} keeps {upload.digest} as {kept[:100]}")


def _location(response: httpx.Response) -> str:
    """Where an upload goes on: often relative, with a state in its query that is the registry's own."""
    location = str(response.headers.get("location", ""))
    if not location:
        raise Protocol(f"{response.request.url.host} does not say where the upload goes")
    return urljoin(str(response.request.url), location)


async def put_manifest(repository: Repository, reference: str, manifest: Answer) -> None:
    """Give a manifest a tag or its digest for a name; raises Refusal, Unreachable."""

    async def ask(endpoint: Endpoint) -> None:
        response = await repository.open(
            endpoint, "PUT", f"manifests/{reference}", {"Content-Type": manifest.media_type}, manifest.data
        )
        await response.aclose()

    await repository.anywhere(lambda endpoint: repository.patiently(endpoint, lambda: ask(endpoint)))
