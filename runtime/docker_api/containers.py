"""What is done to containers: from create to remove."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec import field

from runtime.config import CreateRequest, Resources, RestartPolicy
from runtime.containers.waiting import Condition
from runtime.docker_api.backend import Backend
from runtime.docker_api.exchange import Empty, Json, Later, Request, Response
from runtime.docker_api.filters import as_mapping, parse_filters
from runtime.errors import InvalidParameter

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from runtime.containers.container import Container
    from runtime.containers.waiting import WaitResult

PRUNE_FILTERS = frozenset({"label", "label!", "until"})


class UpdateRequest(Resources, frozen=True):
    """The body of POST /containers/NAME/update."""

    restart_policy: RestartPolicy = field(default=RestartPolicy())


def _container(engine: Backend, request: Request) -> Container:
    return engine.containers.find(request.arguments["name"])


async def create(engine: Backend, request: Request) -> Response:
    """A container that does not run yet."""
    data = await request.decoded(CreateRequest)
    platform = request.query.text("platform")
    made = await engine.containers.create(request.query.text("name"), data, platform=platform)
    return Json({"Id": made.id, "Warnings": list(made.warnings)}, 201)


async def start(engine: Backend, request: Request) -> Response:
    """Let it run."""
    if len(await request.read()) > 7:  # "null" and "{}" of old clients are nothing
        raise InvalidParameter("starting container with non-empty request body was deprecated since API v1.22 and removed in v1.24")
    await engine.containers.start(_container(engine, request))
    return Empty()


async def stop(engine: Backend, request: Request) -> Response:
    """Ask it to end, then make it."""
    query = request.query
    await engine.containers.stop(_container(engine, request), query.number("t"), query.text("signal") or None)
    return Empty()


async def restart(engine: Backend, request: Request) -> Response:
    """Stop it if it runs, and start it."""
    query = request.query
    await engine.containers.restart(_container(engine, request), query.number("t"), query.text("signal") or None)
    return Empty()


async def kill(engine: Backend, request: Request) -> Response:
    """Send a signal to its first process."""
    await engine.containers.kill(_container(engine, request), request.query.text("signal") or "SIGKILL")
    return Empty()


async def pause(engine: Backend, request: Request) -> Response:
    """Freeze its processes."""
    await engine.containers.pause(_container(engine, request))
    return Empty()


async def unpause(engine: Backend, request: Request) -> Response:
    """Let its processes go on."""
    await engine.containers.unpause(_container(engine, request))
    return Empty()


async def rename(engine: Backend, request: Request) -> Response:
    """Give it another name."""
    name = request.query.text("name")
    if not name:
        raise InvalidParameter("Neither old nor new names may be empty")
    await engine.containers.rename(_container(engine, request), name)
    return Empty()


async def update(engine: Backend, request: Request) -> Response:
    """Change what it may use, and whether it is started again."""
    container = _container(engine, request)
    data = await request.decoded(UpdateRequest)
    policy = data.restart_policy if data.restart_policy.name else None
    return Json({"Warnings": list(await engine.containers.update(container, data, policy))})


async def resize(engine: Backend, request: Request) -> Response:
    """Tell its terminal how large the user's is; one without a terminal has nothing to be told."""
    height, width = terminal_size(request)
    container = _container(engine, request)
    if container.record.config.tty:
        await engine.containers.resize(container, height, width)
        engine.events.tell("container", "resize", container.id, container.facts(height=str(height), width=str(width)))
    return Empty(200)


def terminal_size(request: Request) -> tuple[int, int]:
    """Height and width in characters; raises InvalidParameter."""
    height, width = request.query.number("h"), request.query.number("w")
    if height is None or width is None or not (0 <= height < 1 << 16 and 0 <= width < 1 << 16):
        raise InvalidParameter(f"invalid terminal size h={height} w={width}: expected both, 0 to 65535")
    return height, width


async def wait(engine: Backend, request: Request) -> Response:
    """The exit code once there is one; the wait is registered before the client hears of it."""
    text = request.query.text("condition") or Condition.NOT_RUNNING
    if text not in tuple(Condition):
        raise InvalidParameter(f'invalid condition: "{text}"')
    result = engine.containers.wait(_container(engine, request), Condition(text))
    return Later(lambda: _wait_json(result))


async def _wait_json(result: Awaitable[WaitResult]) -> dict[str, Any]:
    ended = await result
    return {"StatusCode": ended.code, "Error": {"Message": ended.error} if ended.error else None}


async def remove(engine: Backend, request: Request) -> Response:
    """Remove it, with `v` its anonymous volumes, with `force` even while it runs."""
    query = request.query
    if query.flag("link"):
        raise InvalidParameter("links of containers are not kept: expected the container's own name, without link=1")
    await engine.containers.remove(_container(engine, request), query.flag("force"), query.flag("v"))
    return Empty()


async def prune(engine: Backend, request: Request) -> Response:
    """Remove all that do not run."""
    filters = parse_filters(request.query.text("filters"), PRUNE_FILTERS)
    pruned = await engine.containers.prune(as_mapping(filters))
    return Json({"ContainersDeleted": list(pruned.ids), "SpaceReclaimed": pruned.bytes})
