"""Images: inspect, history, tag, remove, prune, search."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from runtime.clock import NEVER, nanoseconds_of
from runtime.config import ContainerConfig
from runtime.docker_api.backend import Backend
from runtime.docker_api.exchange import Empty, Json, Request, Response
from runtime.docker_api.filters import as_mapping, parse_filters
from runtime.docker_api.image_list import repository_of
from runtime.docker_api.rendering import config_json, image_config_json
from runtime.errors import InvalidParameter
from runtime.images.reference import Reference, parse_reference
from runtime.images.registry import parse_auth
from runtime.images.registry import search as search_registry

if TYPE_CHECKING:
    from runtime.images.image import History, Image

PRUNE_FILTERS = frozenset({"dangling", "label", "label!", "until"})
SEARCH_FILTERS = frozenset({"is-automated", "is-official", "stars"})
_S = 1_000_000_000


async def inspect(engine: Backend, request: Request) -> Response:
    """All that is known of an image."""
    image = engine.images.find(request.arguments["name"])
    config = image.config
    platform = {"Variant": config.variant} if config.variant else {}
    return Json(
        {
            "Id": image.id,
            "RepoTags": list(image.tags),
            "RepoDigests": list(image.digests),
            "Parent": image.parent,
            "Comment": config.comment,
            "Created": config.created or NEVER,
            "DockerVersion": "",
            "Author": config.author,
            "Config": image_config_json(config.config) if request.version >= (1, 50) else _old_config_json(config.config),
            "Architecture": config.architecture,
            **platform,
            "Os": config.os,
            "Size": image.size,
            "GraphDriver": {"Name": "overlay2", "Data": _directories(engine, image)},
            "RootFS": {"Type": "layers", "Layers": list(config.rootfs.diff_ids)},
            "Metadata": {"LastTagTime": NEVER},
        }
        | ({"VirtualSize": image.size} if request.version < (1, 44) else {})
    )


def _old_config_json(config: ContainerConfig) -> dict[str, Any]:
    return config_json(config) | {"Labels": config.labels or None}


def _directories(engine: Backend, image: Image) -> dict[str, str]:
    """Where its layers are unpacked, the topmost first."""
    found = [str(path) for path in engine.images.layers.lower_dirs(image.layer)] if image.layer else []
    lower = {"LowerDir": ":".join(found[1:])} if found[1:] else {}
    return lower | ({"UpperDir": found[0]} if found else {})


async def history(engine: Backend, request: Request) -> Response:
    """The steps by which an image was made, the last first; the sizes are those of the layers."""
    image = engine.images.find(request.arguments["name"])
    sizes = await asyncio.to_thread(engine.images.layer_sizes, image)
    told = sum(not step.empty_layer for step in image.config.history)
    of_steps = iter(sizes[max(0, len(sizes) - told) :])  # whoever made the lowest layers may have kept no history
    steps = [_step_json(step, 0 if step.empty_layer else next(of_steps, 0)) for step in image.config.history]
    if not steps:
        return Json([])
    steps[-1] |= {"Id": image.id, "Tags": list(image.tags) or None}
    ancestor = _parent(engine, image)
    for step in reversed(steps[:-1]):  # steps built here are images, too
        if ancestor is None:
            break
        step |= {"Id": ancestor.id, "Tags": list(ancestor.tags) or None}
        ancestor = _parent(engine, ancestor)
    return Json(steps[::-1])


def _parent(engine: Backend, image: Image) -> Image | None:
    return engine.images.find(image.parent) if image.parent else None


def _step_json(step: History, size: int) -> dict[str, Any]:
    try:
        created = nanoseconds_of(step.created) // _S if step.created else 0
    except ValueError:
        created = 0
    return {
        "Id": "<missing>",
        "Created": created,
        "CreatedBy": step.created_by,
        "Tags": None,
        "Size": size,
        "Comment": step.comment,
    }


def reference_of(repository: str, tag: str) -> Reference | None:
    """`repo` and `tag` of a query; no repository: none. Raises InvalidParameter."""
    if not repository:
        return None
    if "@" in repository:
        raise InvalidParameter("cannot create a tag when a digest is given: expected repo[:tag]")
    named = parse_reference(repository)
    if tag and named.tag:
        named = parse_reference(repository_of(repository))
    return parse_reference(f"{named.name}:{tag}") if tag else named.with_default_tag()


async def tag(engine: Backend, request: Request) -> Response:
    """Give an image another name."""
    image = engine.images.find(request.arguments["name"])
    reference = reference_of(request.query.text("repo"), request.query.text("tag"))
    if reference is None:
        raise InvalidParameter("invalid reference format: repository name must not be empty")
    await asyncio.to_thread(engine.images.tag, image.id, reference)
    return Empty(201)


async def remove(engine: Backend, request: Request) -> Response:
    """Take a name from an image; with the last one it goes, and with it the steps it was built by that nobody needs."""
    query = request.query
    name, force, prune_parents = request.arguments["name"], query.flag("force"), not query.flag("noprune")
    return Json(await engine.images.remove(name, force, prune_parents, engine.containers.of_image))


async def prune(engine: Backend, request: Request) -> Response:
    """Remove images without a name, or with dangling=false all that no container is made of."""
    filters = parse_filters(request.query.text("filters"), PRUNE_FILTERS)
    pruned = await engine.images.prune(filters.flag("dangling", True), as_mapping(filters), engine.containers.of_image)
    return Json({"ImagesDeleted": pruned.deleted or None, "SpaceReclaimed": pruned.bytes})


async def search(engine: Backend, request: Request) -> Response:
    """Repositories of a registry that have a word in their name."""
    query = request.query
    filters = parse_filters(query.text("filters"), SEARCH_FILTERS)
    credentials = parse_auth(request.header("x-registry-auth"))
    limit = query.number("limit") or 0
    found = await search_registry(engine.registries, query.text("term"), limit, as_mapping(filters), credentials)
    return Json([asdict(result) for result in found])
