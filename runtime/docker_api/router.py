"""The API as one table, and what answers a request by it; must not know how any answer is made or carried."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import TypeAlias

from runtime.docker_api import (
    archives,
    attaching,
    build,
    container_list,
    container_view,
    containers,
    disk_usage,
    distribution,
    events,
    execs,
    image_list,
    image_transfers,
    images,
    networks,
    output,
    refused,
    system,
    volumes,
)
from runtime.docker_api.backend import Backend
from runtime.docker_api.errors import error_response
from runtime.docker_api.exchange import Request, Response
from runtime.docker_api.target import API_VERSION, MINIMUM_VERSION, text_of
from runtime.errors import InvalidParameter, NotFound

Handler: TypeAlias = Callable[[Backend, Request], Awaitable[Response]]

ROUTES: tuple[tuple[str, str, Handler], ...] = (
    ("GET", "/_ping", system.ping),
    ("HEAD", "/_ping", system.ping),
    ("GET", "/version", system.version),
    ("GET", "/info", system.info),
    ("GET", "/system/df", disk_usage.disk_usage),
    ("GET", "/events", events.events),
    ("POST", "/auth", system.auth),
    # containers
    ("GET", "/containers/json", container_list.list_containers),
    ("POST", "/containers/create", containers.create),
    ("POST", "/containers/prune", containers.prune),
    ("GET", "/containers/{name}/json", container_view.inspect),
    ("POST", "/containers/{name}/start", containers.start),
    ("POST", "/containers/{name}/stop", containers.stop),
    ("POST", "/containers/{name}/restart", containers.restart),
    ("POST", "/containers/{name}/kill", containers.kill),
    ("POST", "/containers/{name}/pause", containers.pause),
    ("POST", "/containers/{name}/unpause", containers.unpause),
    ("POST", "/containers/{name}/rename", containers.rename),
    ("POST", "/containers/{name}/update", containers.update),
    ("POST", "/containers/{name}/resize", containers.resize),
    ("POST", "/containers/{name}/wait", containers.wait),
    ("DELETE", "/containers/{name}", containers.remove),
    ("POST", "/containers/{name}/attach", attaching.attach),
    ("GET", "/containers/{name}/attach/ws", refused.attach_websocket),
    ("GET", "/containers/{name}/logs", output.logs),
    ("GET", "/containers/{name}/stats", output.stats),
    ("GET", "/containers/{name}/top", output.top),
    ("GET", "/containers/{name}/changes", archives.changes),
    ("GET", "/containers/{name}/export", archives.export),
    ("HEAD", "/containers/{name}/archive", archives.stat),
    ("GET", "/containers/{name}/archive", archives.get),
    ("PUT", "/containers/{name}/archive", archives.put),
    ("POST", "/containers/{name}/exec", execs.create),
    ("POST", "/exec/{id}/start", execs.start),
    ("POST", "/exec/{id}/resize", execs.resize),
    ("GET", "/exec/{id}/json", execs.inspect),
    # images
    ("GET", "/images/json", image_list.list_images),
    ("GET", "/images/search", images.search),
    ("GET", "/images/get", image_transfers.save),
    ("POST", "/images/load", image_transfers.load),
    ("POST", "/images/create", image_transfers.create),
    ("POST", "/images/prune", images.prune),
    ("GET", "/images/{name:.+}/get", image_transfers.save),
    ("GET", "/images/{name:.+}/history", images.history),
    ("GET", "/images/{name:.+}/json", images.inspect),
    ("POST", "/images/{name:.+}/push", image_transfers.push),
    ("POST", "/images/{name:.+}/tag", images.tag),
    ("DELETE", "/images/{name:.+}", images.remove),
    ("GET", "/distribution/{name:.+}/json", distribution.inspect),
    ("POST", "/commit", build.commit),
    ("POST", "/build", build.build),
    ("POST", "/build/prune", build.prune),
    ("POST", "/build/cancel", build.cancel),
    # networks
    ("GET", "/networks", networks.list_networks),
    ("GET", "/networks/", networks.list_networks),
    ("POST", "/networks/create", networks.create),
    ("POST", "/networks/prune", networks.prune),
    ("GET", "/networks/{id}", networks.inspect),
    ("DELETE", "/networks/{id}", networks.remove),
    ("POST", "/networks/{id}/connect", networks.connect),
    ("POST", "/networks/{id}/disconnect", networks.disconnect),
    # volumes
    ("GET", "/volumes", volumes.list_volumes),
    ("POST", "/volumes/create", volumes.create),
    ("POST", "/volumes/prune", volumes.prune),
    ("GET", "/volumes/{name}", volumes.inspect),
    ("PUT", "/volumes/{name}", refused.swarm),
    ("DELETE", "/volumes/{name}", volumes.remove),
    # what Docker has and we have not
    ("POST", "/session", refused.buildkit),
    ("POST", "/grpc", refused.buildkit),
    ("GET", "/plugins", refused.no_plugins),
    ("GET", "/plugins/{name:.+}/json", refused.plugin),
    ("*", "/plugins/{rest:.*}", refused.plugins),
    ("*", "/containers/{name}/checkpoints{rest:.*}", refused.checkpoints),
    ("POST", "/swarm/{verb:init|join|leave}", refused.no_swarm),
    ("*", "/{kind:swarm|services|nodes|tasks|secrets|configs}{rest:(?:/.*)?}", refused.swarm),
)


@dataclass(frozen=True, slots=True)
class Route:
    """A row of the table, ready to be matched."""

    method: str
    pattern: re.Pattern[str]
    handler: Handler

    def match(self, request: Request) -> dict[str, str] | None:
        """What the path has at the pattern's names; None: it is another's."""
        if self.method not in ("*", request.method):
            return None
        found = self.pattern.fullmatch(request.path)
        return None if found is None else found.groupdict()


def _compile(method: str, pattern: str, handler: Handler) -> Route:
    """{name} is one segment, {name:EXPRESSION} what it says."""
    expression = re.sub(r"\{(\w+)(?::([^}]+))?\}", lambda name: f"(?P<{name[1]}>{name[2] or '[^/]+'})", pattern)
    return Route(method, re.compile(expression), handler)


class Router:
    """Answers requests out of one engine."""

    def __init__(self, engine: Backend, routes: tuple[tuple[str, str, Handler], ...] = ROUTES) -> None:
        self._engine = engine
        self._routes = [_compile(*route) for route in routes]

    async def answer(self, request: Request) -> Response:
        """What the handler says, or how it failed; never raises but when cancelled."""
        try:
            _check_version(request.version)
            return await self._handle(request)
        except Exception as error:
            return error_response(error)

    async def _handle(self, request: Request) -> Response:
        for route in self._routes:
            arguments = route.match(request)
            if arguments is not None:
                return await route.handler(self._engine, replace(request, arguments=arguments))
        raise NotFound("page not found")


def _check_version(version: tuple[int, int]) -> None:
    if version > API_VERSION:
        limit = text_of(API_VERSION)
        raise InvalidParameter(f"client version {text_of(version)} is too new. Maximum supported API version is {limit}")
    if version < MINIMUM_VERSION:
        raise InvalidParameter(
            f"client version {text_of(version)} is too old. Minimum supported API version is {text_of(MINIMUM_VERSION)}, "
            "please upgrade your client to a newer version"
        )
