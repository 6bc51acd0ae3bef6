"""CRI's image service on the engine's images: what docker has built or pulled is here, and what is pulled here is there.

Must not know registries or containers.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec
from cri_api.v1 import api_pb2 as cri

from runtime.cri.answers import whole_name
from runtime.cri.disk_usage import DiskUsage, filesystem_usage
from runtime.errors import EngineError, InvalidParameter, NotFound
from runtime.images.image import Image
from runtime.images.pull import pull
from runtime.images.reference import parse_reference
from runtime.images.registry import Credentials

if TYPE_CHECKING:
    from runtime.engine import Engine


class PodImages:
    """One engine's."""

    def __init__(self, engine: Engine, disk: DiskUsage) -> None:
        self._engine = engine
        self._images = engine.images
        self._disk = disk

    def of(self, image_id: str) -> Image | None:
        """An image by its id; None: it is gone."""
        with suppress(NotFound):
            return self._images.find(image_id) if image_id else None
        return None

    async def list(self, request: cri.ListImagesRequest) -> cri.ListImagesResponse:
        """ListImages: all but the steps of builds, or the one that is asked for."""
        wanted = request.filter.image.image
        found = [image for image in [self._find(wanted)] if image] if wanted else self._images.list()
        shown = [image for image in found if wanted or image.tags or image.digests or not self._images.children(image.id)]
        return cri.ListImagesResponse(images=[image_told(image) for image in shown])

    async def status(self, request: cri.ImageStatusRequest) -> cri.ImageStatusResponse:
        """ImageStatus: nothing, and no error, when there is no such image."""
        image = self._find(request.image.image)
        if image is None:
            return cri.ImageStatusResponse()
        info = (
            {"info": json.dumps({"chainID": image.layer, "imageSpec": msgspec.to_builtins(image.config)})}
            if request.verbose
            else {}
        )
        return cri.ImageStatusResponse(image=image_told(image), info=info)

    def _find(self, name: str) -> Image | None:
        """Raises InvalidParameter for what is no name of an image."""
        if not name:
            raise InvalidParameter("no image specified")
        try:
            return self._images.find(name)
        except NotFound:
            return None

    async def pull(self, request: cri.PullImageRequest) -> cri.PullImageResponse:
        """PullImage: returns the image's id."""
        reference = parse_reference(request.image.image).with_default_tag()
        credentials = _credentials(request.auth) if request.HasField("auth") else None
        telling = pull(self._images, self._engine.registries, reference, "", credentials)
        try:
            async for progress in telling:
                if progress.error:
                    raise EngineError(progress.error)
        finally:
            await telling.aclose()
        return cri.PullImageResponse(image_ref=self._images.find(reference.familiar).id)

    async def remove(self, request: cri.RemoveImageRequest) -> cri.RemoveImageResponse:
        """RemoveImage: with all its names; nothing happens when there is none."""
        image = self._find(request.image.image)
        if image is not None:
            with suppress(NotFound):
                await self._images.remove(image.id, True, True, self._engine.containers.of_image)
        return cri.RemoveImageResponse()

    async def fs_info(self, request: cri.ImageFsInfoRequest) -> cri.ImageFsInfoResponse:
        """ImageFsInfo: images and writable layers are on one file system."""
        layout = self._engine.settings.layout
        images, containers = await asyncio.gather(self._disk.of(layout.layers, layout.content), self._disk.of(layout.containers))
        return cri.ImageFsInfoResponse(
            image_filesystems=[filesystem_usage(layout.root, images)],
            container_filesystems=[filesystem_usage(layout.root, containers)],
        )


def image_told(image: Image) -> cri.Image:
    """An image in CRI's terms."""
    user = image.config.config.user.partition(":")[0]
    number = int(user) if user.isascii() and user.isdigit() and len(user) < 12 else None
    return cri.Image(
        id=image.id,
        repo_tags=[whole_name(tag) for tag in image.tags],
        repo_digests=[whole_name(digest) for digest in image.digests],
        size=image.size or 1,  # a kubelet takes 0 for an error
        uid=cri.Int64Value(value=number) if number is not None else None,
        username="" if number is not None else user,
        spec=cri.ImageSpec(image=image.id, annotations=image.config.config.labels),
    )


def _credentials(auth: cri.AuthConfig) -> Credentials:
    """What a kubelet found in its pull secrets; raises InvalidParameter."""
    username, password = auth.username, auth.password
    if auth.auth and not username:
        try:
            username, _, password = base64.b64decode(auth.auth, validate=True).decode().rstrip("\0").partition(":")
        except (binascii.Error, UnicodeDecodeError) as error:
            raise InvalidParameter("invalid auth: expected base64 of username:password") from error
    return Credentials(username, password, auth.identity_token, auth.registry_token, auth.server_address)
