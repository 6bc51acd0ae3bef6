"""Images from an archive into the store, as `docker load` does it and tells it; must not know what an archive looks like."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

from runtime.errors import NotFound
from runtime.images.archive_members import read_members
from runtime.images.archive_plan import Loading, plan
from runtime.images.image import OCI_CONFIG, Descriptor, ImageConfig, Manifest
from runtime.images.layers import chain_id
from runtime.images.manifests import read_config
from runtime.images.progress import Progress
from runtime.images.reference import Reference
from runtime.images.store import Images
from runtime.piped import into_thread


async def load(images: Images, stream: AsyncIterator[bytes]) -> AsyncIterator[Progress]:
    """Add every image of an archive; raises BadArchive, NotFound, DigestMismatch, EngineError. Those that came before it stay."""
    try:
        with images.lease():
            members = await into_thread(stream, lambda source: read_members(images.content, source))
            for loading in await asyncio.to_thread(plan, members):
                async for step in _load(images, loading):
                    yield step
    finally:
        await images.sweep()  # manifest.json and the like are blobs, too, until then


async def _load(images: Images, loading: Loading) -> AsyncIterator[Progress]:
    data = await asyncio.to_thread(images.content.read, loading.config)
    config = _checked(data, loading)
    parent = ""
    for diff_id, blob in zip(config.rootfs.diff_ids, loading.blobs, strict=True):
        chain = chain_id(parent, diff_id)
        if not images.layers.has(chain):
            yield Progress(status="Loading layer", id=diff_id[7:19], total=blob.size)
            path = images.content.path(blob.digest)
            await asyncio.to_thread(images.layers.unpack, path, blob.media_type, diff_id, parent)
            yield Progress(status="Loading layer", id=diff_id[7:19], current=blob.size, total=blob.size)
        parent = chain
    image = await asyncio.to_thread(images.add, data, loading.manifest or None, loading.blobs)
    for tag in loading.tags:
        if (before := _holder(images, tag)) not in ("", image.id):
            yield Progress(
                stream=f"The image {tag.familiar} already exists, renaming the old one with ID {before} to empty string\n"
            )
        await asyncio.to_thread(images.add, data, loading.manifest or None, loading.blobs, tag)
        yield Progress(stream=f"Loaded image: {tag.familiar}\n")
    if not loading.tags:
        yield Progress(stream=f"Loaded image ID: {image.id}\n")
    images.events.tell("image", "load", image.id, {**config.config.labels, "name": image.id})


def _checked(data: bytes, loading: Loading) -> ImageConfig:
    described = Descriptor(media_type=OCI_CONFIG, digest=loading.config, size=len(data))
    return read_config(data, Manifest(schema_version=2, config=described, layers=loading.blobs))


def _holder(images: Images, tag: Reference) -> str:
    with suppress(NotFound):
        return images.find(tag.familiar).id
    return ""
