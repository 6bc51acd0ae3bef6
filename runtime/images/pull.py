"""Images from registries into the store, as `docker pull` does it and tells it; must not know HTTP.

Layers are downloaded a few at a time and unpacked in order, each while it and those above it are still coming. What is broken off
leaves no image: layers that were unpacked and blobs that were begun wait for the next pull, or for prune.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import suppress
from dataclasses import dataclass

from runtime.errors import NotFound
from runtime.images.arrival import Arrival, Source
from runtime.images.image import Descriptor, Image, ImageConfig, Manifest, Platform
from runtime.images.manifests import (
    BadManifest,
    check_platform,
    choose_manifest,
    read_config,
    read_manifest,
)
from runtime.images.narration import Tell, narrate
from runtime.images.platforms import parse_platform
from runtime.images.progress import Progress
from runtime.images.reference import Reference
from runtime.images.registry import Credentials, Registries
from runtime.images.registry.refusals import Refusal, pull_error
from runtime.images.registry.repository import Answer, Repository
from runtime.images.store import Images

DEEPEST = 3
"""Indexes within indexes that are followed."""


def pull(
    images: Images, registries: Registries, reference: Reference, platform: str, credentials: Credentials | None
) -> AsyncGenerator[Progress, None]:
    """Fetch what a tag or digest stands for, or every tag of the repository if it says neither.

    Raises NotFound, Unauthorized, Unavailable, EngineError, those of a first answer before anything is told.
    """

    async def work(tell: Tell) -> None:
        wanted = parse_platform(platform)
        repository = registries.repository(reference, credentials)
        with images.lease():
            pulling = Pull(images, registries, repository, wanted, must_suit=bool(platform))
            try:
                if reference.tag or reference.digest:
                    await pulling.one(reference, tell)
                else:
                    await _all_tags(pulling, reference, tell)
            except Refusal as refusal:
                raise pull_error(refusal, reference) from refusal

    return narrate(work)


async def _all_tags(pulling: Pull, reference: Reference, tell: Tell) -> None:
    updated = False
    for tag in sorted(set(await pulling.repository.tags())):
        updated |= await pulling.one(reference.with_tag(tag), tell, with_status=False)
    tell(_status(reference, updated=updated))


def _status(reference: Reference, *, updated: bool) -> Progress:
    found = "Downloaded newer image for" if updated else "Image is up to date for"
    return Progress(status=f"Status: {found} {reference.familiar}")


@dataclass(frozen=True, slots=True)
class Found:
    """An image at a registry."""

    digest: str
    """By which it may be pulled again: of its index, where it has one."""
    manifest_digest: str
    manifest: Manifest
    config: ImageConfig
    config_bytes: bytes


@dataclass(frozen=True, slots=True)
class Pull:
    """Pulls from one repository."""

    images: Images
    registries: Registries
    repository: Repository
    wanted: Platform
    must_suit: bool
    """Whether an image for another platform is none: the user asked for this one."""

    async def one(self, reference: Reference, tell: Tell, *, with_status: bool = True) -> bool:
        """Pull one image; returns whether the reference means another image than before."""
        found = await self._find(reference)
        tell(Progress(status=f"Pulling from {reference.path}", id=reference.digest or reference.tag))
        updated = await self._take(found, reference, tell)
        tell(Progress(status=f"Digest: {found.digest}"))
        if with_status:
            tell(_status(reference, updated=updated))
        return updated

    async def _find(self, reference: Reference) -> Found:
        """What the registry has for us; all of it verified and kept."""
        answer = await self.repository.manifest(reference.digest or reference.tag)
        manifest, digest, through_index = read_manifest(answer.data, reference.familiar), answer.digest, False
        for _ in range(DEEPEST):
            await self._keep(answer.data)
            if isinstance(manifest, Manifest):
                break
            through_index = True
            answer = await self._child(choose_manifest(manifest, self.wanted))
            manifest = read_manifest(answer.data, reference.familiar)
        if not isinstance(manifest, Manifest):
            raise BadManifest(f"indexes within indexes of {reference.familiar}, deeper than {DEEPEST}")
        data = await self._config(manifest.config)
        config = read_config(data, manifest)
        if self.must_suit and not through_index:
            check_platform(config, self.wanted, reference)
        return Found(digest, answer.digest, manifest, config, data)

    async def _child(self, descriptor: Descriptor) -> Answer:
        answer = await self.repository.manifest(descriptor.digest)
        if len(answer.data) != descriptor.size:
            raise BadManifest(f"manifest {descriptor.digest} has {len(answer.data)} bytes, expected {descriptor.size}")
        return answer

    async def _config(self, descriptor: Descriptor) -> bytes:
        content = self.images.content
        if content.has(descriptor.digest):
            return await asyncio.to_thread(content.read, descriptor.digest)
        data = await self.repository.small_blob(descriptor.digest, descriptor.size)
        await self._keep(data)
        return data

    async def _keep(self, data: bytes) -> None:
        await asyncio.to_thread(self.images.content.put, data)

    def _present(self, image_id: str) -> Image | None:
        with suppress(NotFound):
            return self.images.find(image_id)
        return None

    async def _take(self, found: Found, reference: Reference, tell: Tell) -> bool:
        """Have the image, by that name; returns whether the name meant another one, or none."""
        by_digest = reference.with_digest(found.digest).familiar
        name = by_digest if reference.digest else reference.familiar
        before, image = self._present(name), self._present(found.manifest.config.digest)
        tag = None if reference.digest else reference
        if image is None:
            source = Source(self.images, self.registries.downloads, self.repository)
            blobs = await Arrival(source, found.manifest, found.config, tell).run()
            manifest = found.manifest_digest if blobs == found.manifest.layers else None
            image = await asyncio.to_thread(self.images.add, found.config_bytes, manifest, blobs, tag)
        elif tag and (before is None or before.id != image.id):
            await asyncio.to_thread(self.images.tag, image.id, tag)
        await asyncio.to_thread(self.images.digest_added, image.id, by_digest)
        self.images.events.tell("image", "pull", reference.familiar, {"name": reference.name})
        return before is None or before.id != image.id
