"""Images on their way: pull, push, import, save, load."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from runtime.config import ContainerConfig
from runtime.docker_api.backend import Backend
from runtime.docker_api.changes import apply_changes
from runtime.docker_api.exchange import Bytes, Lines, Request, Response
from runtime.docker_api.image_list import repository_of
from runtime.docker_api.images import reference_of
from runtime.docker_api.progress import progress_lines
from runtime.errors import InvalidParameter, NotSupported
from runtime.images.importing import import_tar
from runtime.images.load import load as load_archive
from runtime.images.pull import pull
from runtime.images.push import push as push_image
from runtime.images.reference import Reference, parse_reference
from runtime.images.registry.auth import parse_auth
from runtime.images.save import save as save_archive


async def create(engine: Backend, request: Request) -> Response:
    """Pull an image (`fromImage`), or make one of a tar of its files (`fromSrc`)."""
    query = request.query
    if query.text("fromImage"):
        reference = _pulled(query.text("fromImage"), query.text("tag"))
        credentials = parse_auth(request.header("x-registry-auth"))
        return Lines(progress_lines(pull(engine.images, engine.registries, reference, query.text("platform"), credentials)))
    if query.text("fromSrc") != "-":
        raise NotSupported("import fetches nothing by itself: download the tar and import it from standard input")
    reference_or_none = reference_of(query.text("repo"), query.text("tag"))
    changes = apply_changes(ContainerConfig(), query.all("changes"))
    return Lines(_imported(engine, request, reference_or_none, changes))


def _pulled(name: str, tag: str) -> Reference:
    """What is meant: `tag` is a tag or a digest and wins over the name's own; none at all: every tag. Raises InvalidParameter."""
    if not tag:
        return parse_reference(name)
    return parse_reference(f"{repository_of(name)}{'@' if ':' in tag else ':'}{tag}")


async def _imported(
    engine: Backend, request: Request, reference: Reference | None, changes: ContainerConfig
) -> AsyncIterator[dict[str, Any]]:
    message = request.query.text("message")
    image = await import_tar(engine.images, aiter(request.body), reference, message, changes)
    yield {"status": image.id}


async def push(engine: Backend, request: Request) -> Response:
    """Send an image to its registry; without a tag all tags of that name."""
    name, tag = request.arguments["name"], request.query.text("tag")
    reference = parse_reference(f"{repository_of(name)}:{tag}" if tag else name)
    credentials = parse_auth(request.header("x-registry-auth"))
    return Lines(progress_lines(push_image(engine.images, engine.registries, reference, credentials)))


async def save(engine: Backend, request: Request) -> Response:
    """Images as a tar, that `load` and other engines read."""
    named = request.arguments.get("name")
    names = [named] if named else [name for value in request.query.all("names") for name in value.split(",")]
    if not names:
        raise InvalidParameter("no image to save: expected names=NAME")
    return Bytes(save_archive(engine.images, names), "application/x-tar")


async def load(engine: Backend, request: Request) -> Response:
    """Images from a tar."""
    return Lines(progress_lines(load_archive(engine.images, aiter(request.body))))
