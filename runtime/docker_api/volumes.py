"""Volumes: list, inspect, make, remove."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from runtime.config import Value
from runtime.docker_api.backend import Backend
from runtime.docker_api.exchange import Empty, Json, Request, Response
from runtime.docker_api.filters import as_mapping, parse_filters

if TYPE_CHECKING:
    from runtime.volumes import Volume

FILTERS = frozenset({"dangling", "driver", "label", "name"})
PRUNE_FILTERS = frozenset({"all", "label", "label!"})


class VolumeRequest(Value, frozen=True):
    """The body of POST /volumes/create."""

    name: str = ""
    driver: str = ""
    driver_opts: dict[str, str] | None = None
    labels: dict[str, str] | None = None


async def list_volumes(engine: Backend, request: Request) -> Response:
    """All that the filters let pass."""
    filters = parse_filters(request.query.text("filters"), FILTERS)
    found = engine.volumes.list(as_mapping(filters), engine.containers.of_volume)
    return Json({"Volumes": [volume_json(volume) for volume in found], "Warnings": None})


def volume_json(volume: Volume) -> dict[str, Any]:
    """A volume, in lists and by itself."""
    return {
        "CreatedAt": volume.created,
        "Driver": volume.driver,
        "Labels": dict(volume.labels) or None,
        "Mountpoint": str(volume.mountpoint),
        "Name": volume.name,
        "Options": dict(volume.options) or None,
        "Scope": "local",
    }


async def create(engine: Backend, request: Request) -> Response:
    """A volume; the same again is the same one."""
    data = await request.decoded(VolumeRequest)
    made = await engine.volumes.create(data.name, data.driver or "local", data.driver_opts, data.labels)
    return Json(volume_json(made), 201)


async def inspect(engine: Backend, request: Request) -> Response:
    """A volume."""
    return Json(volume_json(engine.volumes.find(request.arguments["name"])))


async def remove(engine: Backend, request: Request) -> Response:
    """Remove one that no container refers to."""
    await engine.volumes.remove(request.arguments["name"], request.query.flag("force"), engine.containers.of_volume)
    return Empty()


async def prune(engine: Backend, request: Request) -> Response:
    """Remove those that no container refers to: anonymous ones, before API 1.42 and with `all` the named as well."""
    filters = as_mapping(parse_filters(request.query.text("filters"), PRUNE_FILTERS))
    if request.version < (1, 42):
        filters["all"] = ["true"]
    pruned = await engine.volumes.prune(filters, engine.containers.of_volume)
    return Json({"VolumesDeleted": list(pruned.names), "SpaceReclaimed": pruned.bytes})
