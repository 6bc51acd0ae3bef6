"""Blobs on their way from registries to the disk: each once, however many want it, going on where it was broken off; must not know
what is in them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import TracebackType
from typing import Self, TypeAlias

from flanneld.log import Log
from flanneld.retry import Backoff
from runtime.errors import EngineError
from runtime.images.content import Content, DigestMismatch, Writer
from runtime.images.image import Descriptor
from runtime.images.registry.following import Growth
from runtime.images.registry.refusals import Transient
from runtime.images.registry.repository import Repository

BATCH = 1 << 20
"""Bytes that are hashed and written at once."""
TRIES = 5
"""Docker's: of a blob, without getting further in between."""
MIRROR_TRIES = 2
FURTHER = 1 << 20
"""Bytes that count as getting further."""
FIRST_WAIT_S = 1.0
LONGEST_WAIT_S = 60.0
UNPACKERS = 4
"""Layers unpacked at one time. Their threads wait for downloads, whose writes need threads: never the same ones."""

DOWNLOADING, VERIFYING = "Downloading", "Verifying Checksum"
Watcher: TypeAlias = Callable[[str, int], None]
"""Told a status and how many bytes are here."""

log = Log(__name__)


class Transfer:
    """A blob that somebody wants."""

    def __init__(self) -> None:
        self.users = 0
        self.owner = asyncio.Lock()
        """Held by who downloads it; when that one gives up, the next goes on."""
        self.watchers: list[Watcher] = []
        self.growth = Growth()
        self.done = 0
        """Bytes that are here."""

    def tell(self, status: str, done: int) -> None:
        """Something changed, for whoever watches and whoever reads along."""
        self.done = done
        for watcher in self.watchers:
            watcher(status, done)
        self.growth.grew()


class Downloads:
    """All downloads of one engine."""

    def __init__(self, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        self._sleep = sleep
        self._transfers: dict[str, Transfer] = {}
        self.unpackers = ThreadPoolExecutor(UNPACKERS, "layer")

    @contextmanager
    def wanted(self, digest: str) -> Iterator[Transfer]:
        """What is known of a blob's download, for as long as somebody wants the blob."""
        transfer = self._transfers.setdefault(digest, Transfer())
        transfer.users += 1
        try:
            yield transfer
        finally:
            transfer.users -= 1
            if not transfer.users:
                del self._transfers[digest]

    async def fetch(self, content: Content, repository: Repository, blob: Descriptor, watcher: Watcher) -> None:
        """Return when the blob is here; raises Refusal, DigestMismatch, Transient, Unreachable, Protocol, EngineError.

        Cancelled, or failed for lack of a connection, it leaves what came for the next one.
        """
        with self.wanted(blob.digest) as transfer:
            transfer.watchers.append(watcher)
            try:
                async with transfer.owner:
                    if not content.has(blob.digest):
                        await _Download(content, blob, transfer, self._sleep).run(repository)
            finally:
                transfer.watchers.remove(watcher)


class _Download:
    """One blob, by its owner."""

    def __init__(self, content: Content, blob: Descriptor, transfer: Transfer, sleep: Callable[[float], Awaitable[None]]) -> None:
        self._content = content
        self._blob = blob
        self._transfer = transfer
        self._sleep = sleep
        self._resumed = False

    async def run(self, repository: Repository) -> None:
        """From anywhere, and when that comes to nothing, from the registry itself."""
        own = repository.without_mirrors()
        if own is not None:
            try:
                return await self._from(repository, MIRROR_TRIES)
            except EngineError as error:
                log.debug("mirror given up for a blob", digest=self._blob.digest, why=error)
        return await self._from(own or repository, TRIES)

    async def _from(self, repository: Repository, tries: int) -> None:
        backoff, left, reached = Backoff(FIRST_WAIT_S, 16.0), tries, 0
        while True:
            try:
                return await self._once(repository)
            except DigestMismatch:
                # What was here before may be what is wrong: it is gone now, and all of it comes anew.
                if not self._resumed:
                    raise
            except Transient as error:
                done = self._transfer.done
                left, reached = (tries, done) if done >= reached + FURTHER else (left - 1, reached)
                if not left or error.after_s > LONGEST_WAIT_S:
                    raise
                wait_s = max(backoff.next(), error.after_s)
                log.debug("blob interrupted", digest=self._blob.digest, why=error, again_in_s=f"{wait_s:.1f}")
                self._transfer.tell(f"Retrying in {max(1, round(wait_s))} seconds", done)
                await self._sleep(wait_s)

    async def _once(self, repository: Repository) -> None:
        size = self._blob.size
        writer = await asyncio.to_thread(self._content.writer, self._blob.digest, size, resumable=True)
        with writer:
            self._resumed = writer.offset > 0
            self._transfer.growth.path = writer.path
            self._transfer.tell(DOWNLOADING, writer.offset)
            if writer.offset < size:
                await self._receive(repository, writer)
            self._transfer.tell(VERIFYING, size)
            await asyncio.to_thread(writer.commit)
        self._transfer.growth.grew()

    async def _receive(self, repository: Repository, writer: Writer) -> None:
        size = self._blob.size
        async with repository.blob(self._blob.digest, writer.offset) as body, _Behind(writer, self._transfer) as behind:
            if body.length is not None and body.start + body.length != size:
                raise DigestMismatch(f"blob {self._blob.digest} has {body.start + body.length} bytes, expected {size}")
            excess = writer.offset - body.start  # what a registry that cannot go on in the middle sends again
            async for chunk in body.chunks:
                await behind.put(chunk[excess:] if excess else chunk)
                excess = max(0, excess - len(chunk))
            await behind.finish()
        if writer.offset < size:
            raise Transient(f"blob {self._blob.digest}: unexpected EOF after {writer.offset} of {size} bytes")


class _Behind:
    """Hashes and writes in a thread while the next bytes are received: neither waits for the other for long."""

    def __init__(self, writer: Writer, transfer: Transfer) -> None:
        self._writer = writer
        self._transfer = transfer
        self._batch: list[bytes] = []
        self._size = 0
        self._writing: asyncio.Future[None] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Whatever happened, keep what came; the file is closed next."""
        if self._writing is not None:
            await asyncio.wait({self._writing})
        if error is not None and self._batch and not isinstance(error, DigestMismatch):
            await asyncio.to_thread(self._writer.write, b"".join(self._batch))

    async def put(self, chunk: bytes) -> None:
        """Take these bytes; raises what became of earlier ones."""
        self._batch.append(chunk)
        self._size += len(chunk)
        if self._size >= BATCH:
            await self._flush()

    async def finish(self) -> None:
        """Return when all is written; raises what became of it."""
        await self._flush()
        await self._settle()

    async def _flush(self) -> None:
        await self._settle()
        data, self._batch, self._size = b"".join(self._batch), [], 0
        self._writing = asyncio.ensure_future(asyncio.to_thread(self._writer.write, data))

    async def _settle(self) -> None:
        if self._writing is not None:
            await asyncio.shield(self._writing)
            self._transfer.tell(DOWNLOADING, self._writer.offset)
