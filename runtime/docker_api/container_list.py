"""GET /containers/json: which containers, and a row for each."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from runtime.clock import NEVER, nanoseconds_of
from runtime.containers.record import Record, State
from runtime.docker_api.backend import Backend
from runtime.docker_api.durations import status_text
from runtime.docker_api.exchange import Json, Request, Response
from runtime.docker_api.filters import Filters, parse_filters
from runtime.docker_api.rendering import endpoint_json, mounts_json, ports_json
from runtime.errors import EngineError, InvalidParameter, NotFound
from runtime.linux.trees import size_of

if TYPE_CHECKING:
    from runtime.containers.container import Container

FILTERS = frozenset(
    {
        "ancestor",
        "before",
        "exited",
        "expose",
        "health",
        "id",
        "is-task",
        "isolation",
        "label",
        "name",
        "network",
        "publish",
        "since",
        "status",
        "volume",
    }
)
HEALTH = ("none", "starting", "healthy", "unhealthy")
_PORTS = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?(?:/(tcp|udp|sctp))?")
_S = 1_000_000_000


async def list_containers(engine: Backend, request: Request) -> Response:
    """The newest first."""
    query = request.query
    filters = parse_filters(query.text("filters"), FILTERS)
    chosen = _choose(engine, query.flag("all"), query.number("limit") or 0, filters)
    names = image_names(engine)
    rows = [row_json(container.record, names(container.record)) for container in chosen]
    if query.flag("size"):
        for row, container in zip(rows, chosen, strict=True):
            row |= await sizes_json(engine, container)
    return Json(rows)


def _choose(engine: Backend, everything: bool, limit: int, filters: Filters) -> list[Container]:
    """As dockerd: a limit or a status asks for those that do not run, too."""
    everything = everything or limit > 0 or "status" in filters
    test = _test(engine, filters)
    found = [container for container in _between(engine, filters) if everything or container.record.life.pid]
    found = [container for container in found if test(container.record)]
    return found[:limit] if limit > 0 else found


def _between(engine: Backend, filters: Filters) -> list[Container]:
    """Those created before the one and since the other; raises NotFound."""
    listed = engine.containers.all()
    for before in filters.get("before"):
        limit = engine.containers.find(before).record.created
        listed = [container for container in listed if container.record.created < limit]
    for since in filters.get("since"):
        limit = engine.containers.find(since).record.created
        listed = [container for container in listed if container.record.created > limit]
    return listed


def _test(engine: Backend, filters: Filters) -> Callable[[Record], bool]:
    """What every row must satisfy; raises InvalidParameter."""
    for status in filters.get("status"):
        if status not in tuple(State):
            raise InvalidParameter(f"invalid filter 'status={status}'")
    for health in filters.get("health"):
        if health not in HEALTH:
            raise InvalidParameter(f"unrecognised filter value for health: {health}")
    codes = _codes(filters)
    publish, expose = _port_set(filters.get("publish")), _port_set(filters.get("expose"))
    ancestors = _ancestors(engine, filters)
    is_task = filters.flag("is-task", False)

    def passes(record: Record) -> bool:
        return (
            not is_task
            and filters.finds("name", (record.name, f"/{record.name}"))
            and filters.begins("id", (record.id,))
            and filters.labels(record.config.labels)
            and filters.is_one("status", (record.life.state,))
            and filters.is_one("health", (record.life.health.status if record.life.health else "none",))
            and (codes is None or _exited_with(record, codes))
            and (ancestors is None or record.image_id in ancestors)
            and _in_network(record, filters)
            and _has_volume(record, filters)
            and (not publish or not publish.isdisjoint(record.host.port_bindings))
            and (not expose or not expose.isdisjoint(record.config.exposed_ports))
        )

    return passes


def _codes(filters: Filters) -> set[int] | None:
    try:
        return {int(value) for value in filters.get("exited")} if "exited" in filters else None
    except ValueError as error:
        raise InvalidParameter(f"invalid filter 'exited={' '.join(filters.get('exited'))}'") from error


def _exited_with(record: Record, codes: set[int]) -> bool:
    return record.life.exit_code in codes and not record.life.pid and record.life.started_at != NEVER


def _port_set(values: tuple[str, ...]) -> set[str]:
    """80, 80/udp, 8000-8010/tcp as ports with protocols; raises InvalidParameter."""
    ports: set[str] = set()
    for value in values:
        found = _PORTS.fullmatch(value)
        if found is None:
            raise InvalidParameter(f"invalid port filter '{value}': expected PORT[-PORT][/PROTOCOL]")
        first, last = int(found[1]), int(found[2] or found[1])
        if not 0 < first <= last < 1 << 16:
            raise InvalidParameter(f"invalid port filter '{value}': expected ports of 1 to 65535")
        ports.update(f"{port}/{found[3] or 'tcp'}" for port in range(first, last + 1))
    return ports


def _ancestors(engine: Backend, filters: Filters) -> set[str] | None:
    """Ids of the images named and of all that were built upon them; one that does not exist has none."""
    if "ancestor" not in filters:
        return None
    found: set[str] = set()
    for name in filters.get("ancestor"):
        try:
            waiting = [engine.images.find(name).id]
        except EngineError:
            continue
        while waiting:
            image_id = waiting.pop()
            if image_id not in found:
                found.add(image_id)
                waiting.extend(engine.images.children(image_id))
    return found


def _in_network(record: Record, filters: Filters) -> bool:
    wanted = filters.get("network")
    return not wanted or any(
        name in wanted or (endpoint.network_id and endpoint.network_id.startswith(wanted))
        for name, endpoint in record.endpoints.items()
    )


def _has_volume(record: Record, filters: Filters) -> bool:
    wanted = filters.get("volume")
    return not wanted or any(
        place in wanted for mount in record.mounts for place in (mount.name, mount.source, mount.target) if place
    )


def row_json(record: Record, image: str) -> dict[str, Any]:
    """A container in a list; `image`: what its image is called."""
    return {
        "Id": record.id,
        "Names": [f"/{record.name}"],
        "Image": image,
        "ImageID": record.image_id,
        "Command": " ".join((record.path, *(f"'{word}'" if " " in word else word for word in record.args))),
        "Created": nanoseconds_of(record.created) // _S,
        "Ports": port_rows(record),
        "Labels": record.config.labels,
        "State": record.life.state,
        "Status": status_text(record.life, time.time_ns()),
        "HostConfig": {"NetworkMode": record.host.network_mode}
        | ({"Annotations": record.host.annotations} if record.host.annotations else {}),
        "NetworkSettings": {"Networks": {name: endpoint_json(endpoint) for name, endpoint in record.endpoints.items()}},
        "Mounts": mounts_json(record),
    }


def image_names(engine: Backend) -> Callable[[Record], str]:
    """What a container's image was called at creation, for as long as it still means that image; else its id."""
    ids: dict[str, str] = {}

    def name_of(record: Record) -> str:
        name = record.config.image
        if name not in ids:
            try:
                ids[name] = engine.images.find(name).id
            except (NotFound, InvalidParameter):
                ids[name] = ""
        return name if ids[name] == record.image_id else record.image_id

    return name_of


def port_rows(record: Record) -> list[dict[str, Any]]:
    """One for each place where a port is reached, one for each port that is nowhere."""
    rows: list[dict[str, Any]] = []
    for name, bindings in ports_json(record).items():
        port, _, protocol = name.partition("/")
        own = {"PrivatePort": int(port), "Type": protocol or "tcp"}
        rows += [{"IP": b["HostIp"], "PublicPort": int(b["HostPort"]), **own} for b in bindings or ()] or [own]
    return rows


async def sizes_json(engine: Backend, container: Container) -> dict[str, int]:
    """What it has written, and that with its image."""
    written = await asyncio.to_thread(size_of, container.upper)
    try:
        image_size = engine.images.find(container.record.image_id).size if container.record.image_id else 0
    except NotFound:
        image_size = 0
    return {"SizeRw": written, "SizeRootFs": written + image_size}
