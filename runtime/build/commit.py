"""An image of a container: its writable layer upon the image that it was made of (`docker commit`); must not know HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from msgspec import structs

from runtime.build.options import CommitOptions
from runtime.clock import now
from runtime.containers.record import State
from runtime.images.image import OCI_LAYER, Descriptor, History, Image, ImageConfig, encode_config
from runtime.images.platforms import host_platform

if TYPE_CHECKING:
    from runtime.containers.container import Container
    from runtime.containers.store import Containers
    from runtime.images.layers import Committed, Layers
    from runtime.images.store import Images


async def commit(container: Container, options: CommitOptions, containers: Containers, images: Images, layers: Layers) -> Image:
    """Make the image, and give it its name; raises EngineError."""
    record = container.record
    with images.lease():
        async with _held_still(container, containers, pause=options.pause):
            committed = await asyncio.to_thread(layers.commit, container.upper, record.layer, move=False)
        base = images.find(record.image_id) if record.image_id else None
        below_it = base.config if base else ImageConfig(architecture=host_platform().architecture)
        config = _config(below_it, committed, options, " ".join(record.config.cmd))
        below = images.manifest_of(base.id).layers if base else ()
        blobs = (*below, Descriptor(media_type=OCI_LAYER, digest=committed.blob_digest, size=committed.size))
        parent = base.id if base else ""
        return await asyncio.to_thread(images.add, encode_config(config), None, blobs, options.reference, parent)


@asynccontextmanager
async def _held_still(container: Container, containers: Containers, *, pause: bool) -> AsyncIterator[None]:
    """Paused within the context, if it runs and is not paused anyway."""
    if not pause or container.state is not State.RUNNING:
        yield
        return
    await containers.pause(container)
    try:
        yield
    finally:
        await containers.unpause(container)


def _config(base: ImageConfig, committed: Committed, options: CommitOptions, command: str) -> ImageConfig:
    made = now()
    step = History(created=made, created_by=command, author=options.author, comment=options.comment)
    return structs.replace(
        base,
        created=made,
        author=options.author,
        comment=options.comment,
        config=structs.replace(options.config, image="", hostname="", domainname=""),
        rootfs=structs.replace(base.rootfs, diff_ids=(*base.rootfs.diff_ids, committed.diff_id)),
        history=(*base.history, step),
    )
