"""GET /system/df: what images, containers and volumes occupy."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

from runtime.docker_api.backend import Backend
from runtime.docker_api.container_list import image_names, row_json, sizes_json
from runtime.docker_api.exchange import Json, Request, Response
from runtime.docker_api.image_list import image_json, is_step
from runtime.docker_api.volumes import volume_json
from runtime.errors import InvalidParameter

KINDS = ("image", "container", "volume", "build-cache")


async def disk_usage(engine: Backend, request: Request) -> Response:
    """All kinds, or those of `type`."""
    kinds = request.query.all("type") or list(KINDS)
    for kind in kinds:
        if kind not in KINDS:
            raise InvalidParameter(f"unknown object type: {kind}")
    document: dict[str, Any] = {"LayersSize": 0, "Images": None, "Containers": None, "Volumes": None, "BuildCache": None}
    if "image" in kinds:
        document |= await _images_json(engine)
    if "container" in kinds:
        names = image_names(engine)
        document["Containers"] = [
            row_json(c.record, names(c.record)) | await sizes_json(engine, c) for c in engine.containers.all()
        ]
    if "volume" in kinds:
        document["Volumes"] = await _volumes_json(engine)
    if "build-cache" in kinds:
        document["BuildCache"] = []  # steps of builds are images
    return Json(document)


async def _images_json(engine: Backend) -> dict[str, Any]:
    """Every image, with how many containers are made of it and how much of it others have as well."""
    images = engine.images.list()
    sizes = [await asyncio.to_thread(engine.images.layer_sizes, image) for image in images]
    chains = [_chains(image.config.rootfs.diff_ids) for image in images]
    counts = Counter(chain for own in chains for chain in own)
    users = Counter(container.record.image_id for container in engine.containers.all())
    rows = []
    layers: dict[tuple[str, ...], int] = {}
    for image, own, own_sizes in zip(images, chains, sizes, strict=True):
        layers.update(zip(own, own_sizes, strict=False))
        shared = sum(size for chain, size in zip(own, own_sizes, strict=False) if counts[chain] > 1)
        if not is_step(engine, image):
            rows.append(image_json(image) | {"SharedSize": shared, "Containers": users[image.id]})
    return {"LayersSize": sum(layers.values()), "Images": rows}


def _chains(diff_ids: tuple[str, ...]) -> list[tuple[str, ...]]:
    """Each layer together with those below: the same contents on something else is another layer."""
    return [diff_ids[: n + 1] for n in range(len(diff_ids))]


async def _volumes_json(engine: Backend) -> list[dict[str, Any]]:
    users = engine.containers.of_volume
    return [
        volume_json(volume) | {"UsageData": {"Size": await engine.volumes.usage(volume.name), "RefCount": len(users(volume.name))}}
        for volume in engine.volumes.list({}, users)
    ]
