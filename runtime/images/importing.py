"""An image of nothing but a tar of files, as `docker import` makes it; must not know HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import BinaryIO

from runtime import clock
from runtime.config import ContainerConfig
from runtime.images.content import Content
from runtime.images.decompress import decompressed
from runtime.images.image import OCI_LAYER, Descriptor, History, Image, ImageConfig, RootFs, encode_config
from runtime.images.limits import BadArchive, Limits, limited
from runtime.images.platforms import host_platform
from runtime.images.reference import Reference
from runtime.images.store import Images
from runtime.piped import into_thread


async def import_tar(
    images: Images, stream: AsyncIterator[bytes], reference: Reference | None, message: str, changes: ContainerConfig
) -> Image:
    """Make an image of one layer, the archive, compressed or not; raises BadArchive, EngineError."""
    try:
        with images.lease():
            diff_id = await into_thread(stream, lambda source: _keep(images.content, source))
            path = images.content.path(diff_id)
            await asyncio.to_thread(images.layers.unpack, path, OCI_LAYER, diff_id, "")
            blob = Descriptor(media_type=OCI_LAYER, digest=diff_id, size=path.stat().st_size)
            config = encode_config(_config(diff_id, message, changes))
            image = await asyncio.to_thread(images.add, config, None, [blob], reference)
    finally:
        await images.sweep()
    images.events.tell("image", "import", image.id, {"name": reference.familiar if reference else image.id})
    return image


def _keep(content: Content, source: BinaryIO) -> str:
    """The plain archive as a blob; its digest is the layer's."""
    taken = 0

    def read(size: int) -> bytes:
        nonlocal taken
        data = source.read(size)
        taken += len(data)
        return data

    with content.writer() as writer:
        for chunk in limited(decompressed(read), lambda: taken, Limits()):
            writer.write(chunk)
        if not writer.offset:
            raise BadArchive("the archive is empty")
        return writer.commit()


def _config(diff_id: str, message: str, changes: ContainerConfig) -> ImageConfig:
    made = clock.now()
    platform = host_platform()
    comment = message or "Imported from -"
    return ImageConfig(
        architecture=platform.architecture,
        variant=platform.variant,
        created=made,
        comment=comment,
        config=changes,
        rootfs=RootFs(diff_ids=(diff_id,)),
        history=(History(created=made, comment=comment),),
    )
