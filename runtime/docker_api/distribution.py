"""GET /distribution/NAME/json: what a registry has under a name, without pulling it."""

from __future__ import annotations

from runtime.docker_api.backend import Backend
from runtime.docker_api.exchange import Json, Request, Response
from runtime.images.distribution import distribution
from runtime.images.reference import parse_reference
from runtime.images.registry import parse_auth


async def inspect(engine: Backend, request: Request) -> Response:
    """The descriptor and the platforms of an image."""
    reference = parse_reference(request.arguments["name"]).with_default_tag()
    found = await distribution(engine.registries, reference, parse_auth(request.header("x-registry-auth")))
    return Json(found.encode())
