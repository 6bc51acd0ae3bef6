"""The layers of one image on their way from a registry into the store; must not know what the image is called.

Downloads go on side by side, unpacking in order, from the lowest up: a layer is unpacked while it is still coming, as soon as what
is below it is there. What decides is the diff id in the image's verified config: what does not have it is never a layer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import BinaryIO, cast

from runtime.errors import EngineError
from runtime.images.forms import Forms
from runtime.images.image import Descriptor, ImageConfig, Manifest
from runtime.images.layers import chain_ids
from runtime.images.narration import Meter, Tell, together
from runtime.images.registry.downloads import DOWNLOADING, Downloads
from runtime.images.registry.following import Following, Growth
from runtime.images.registry.repository import Repository
from runtime.images.store import Images

AT_ONCE = 3
"""Downloads of one pull; Docker's."""


def short(digest: str) -> str:
    """Twelve digits, as Docker names layers to people."""
    return digest.removeprefix("sha256:")[:12]


@dataclass(frozen=True, slots=True)
class Source:
    """Where layers come from and go to."""

    images: Images
    downloads: Downloads
    repository: Repository


@dataclass(frozen=True, slots=True)
class _Coming:
    """One layer that is not here yet."""

    blob: Descriptor
    diff_id: str
    parent: str
    """Chain id of what is below it; "": nothing."""
    chain: str
    is_unpacked: bool
    """It is only its blob that is missing."""
    growth: Growth
    meter: Meter
    downloaded: asyncio.Event


class Arrival:
    """One image's layers."""

    def __init__(self, source: Source, manifest: Manifest, config: ImageConfig, tell: Tell) -> None:
        self._source = source
        self._manifest = manifest
        self._diff_ids = config.rootfs.diff_ids
        self._tell = tell
        self._slots = asyncio.Semaphore(AT_ONCE)

    async def run(self) -> tuple[Descriptor, ...]:
        """Return when all is here, with the blobs that the layers are in; raises what a download raises, EngineError."""
        blobs = await asyncio.to_thread(self._kept)
        with ExitStack() as stack:
            missing = list(self._missing(blobs, stack))
            async with together() as group:
                for layer in missing:
                    group.create_task(self._download(layer))
                group.create_task(self._unpack_all(missing))
        return blobs

    def _kept(self) -> tuple[Descriptor, ...]:
        """The manifest's blobs, but for a layer that is here in another blob, that one."""
        content, layers = self._source.images.content, self._source.images.layers
        known: Forms | None = None
        found = []
        for blob, diff_id, chain in zip(self._manifest.layers, self._diff_ids, chain_ids(self._diff_ids), strict=True):
            if layers.has(chain) and not content.has(blob.digest):
                known = known or Forms(self._source.images)
                found.append(next((form for form in known.of(diff_id) if content.has(form.digest)), blob))
            else:
                found.append(blob)
        return tuple(found)

    def _missing(self, blobs: Sequence[Descriptor], stack: ExitStack) -> Iterator[_Coming]:
        content, layers = self._source.images.content, self._source.images.layers
        parent = ""
        for blob, diff_id, chain in zip(blobs, self._diff_ids, chain_ids(self._diff_ids), strict=True):
            is_unpacked = layers.has(chain)
            meter = Meter(self._tell, short(blob.digest), blob.size)
            if is_unpacked and content.has(blob.digest):
                meter.say("Already exists")
            else:
                meter.say("Pulling fs layer")
                growth = stack.enter_context(self._source.downloads.wanted(blob.digest)).growth
                yield _Coming(blob, diff_id, parent, chain, is_unpacked, growth, meter, asyncio.Event())
            parent = chain

    async def _download(self, layer: _Coming) -> None:
        source = self._source
        if self._slots.locked():
            layer.meter.say("Waiting")

        def watch(status: str, done: int) -> None:
            if status == DOWNLOADING:
                layer.meter.show(status, done)
            else:
                layer.meter.say(status)

        async with self._slots:
            await source.downloads.fetch(source.images.content, source.repository, layer.blob, watch)
        layer.meter.say("Download complete")
        layer.downloaded.set()
        layer.growth.grew()

    async def _unpack_all(self, layers: Sequence[_Coming]) -> None:
        for layer in layers:
            if not layer.is_unpacked:
                # Two pulls of one layer: the second finds it there.
                with self._source.downloads.wanted(f"layer {layer.chain}") as turn:
                    async with turn.owner:
                        await self._unpack(layer)
            await layer.downloaded.wait()
            layer.meter.say("Pull complete")

    async def _unpack(self, layer: _Coming) -> None:
        try:
            await self._unpack_now(layer)
        except EngineError as error:
            # What was read along may have been broken off and begun anew: the whole blob, verified, decides.
            await layer.downloaded.wait()
            try:
                await self._unpack_now(layer)
            except EngineError:
                raise EngineError(f"failed to register layer: {error}") from error

    async def _unpack_now(self, layer: _Coming) -> None:
        loop = asyncio.get_running_loop()

        def read(done: int) -> None:
            if layer.downloaded.is_set():
                loop.call_soon_threadsafe(layer.meter.show, "Extracting", done)

        images = self._source.images
        with Following(images.content, layer.blob.digest, layer.growth, read) as file:
            source, media_type = cast("BinaryIO", file), layer.blob.media_type  # it is one for whoever only reads
            work = self._source.downloads.unpackers.submit(images.layers.unpack, source, media_type, layer.diff_id, layer.parent)
            try:
                await asyncio.shield(asyncio.wrap_future(work))
            finally:
                if not work.done() and not work.cancel():
                    file.abandon()
                    await asyncio.wait({asyncio.wrap_future(work)})
