"""Files of containers: `docker cp`, export and diff."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

import msgspec

from runtime.containers.archive import Extraction, get_archive, put_archive, stat_path
from runtime.containers.changes import changes as read_changes
from runtime.containers.export import export as read_export
from runtime.docker_api.backend import Backend
from runtime.docker_api.exchange import Bytes, Empty, Headers, Json, Request, Response
from runtime.errors import InvalidParameter

if TYPE_CHECKING:
    from runtime.containers.archive import PathStat
    from runtime.containers.container import Container

TAR = "application/x-tar"


def _named(engine: Backend, request: Request) -> tuple[Container, str]:
    """Which container, which path in it; raises NotFound, InvalidParameter."""
    path = request.query.text("path")
    if not path:
        raise InvalidParameter("bad parameter: path cannot be empty")
    return engine.containers.find(request.arguments["name"]), path


def _stat_header(stat: PathStat) -> Headers:
    """The header by which `docker cp` learns what it copies; mode: Go's os.FileMode."""
    document = {"name": stat.name, "size": stat.size, "mode": stat.mode, "mtime": stat.mtime, "linkTarget": stat.link_target}
    return (("X-Docker-Container-Path-Stat", base64.b64encode(msgspec.json.encode(document)).decode()),)


async def stat(engine: Backend, request: Request) -> Response:
    """What is at a path, in a header."""
    return Empty(200, _stat_header(await stat_path(*_named(engine, request))))


async def get(engine: Backend, request: Request) -> Response:
    """What is at a path, as a tar."""
    container, path = _named(engine, request)
    found, parts = await get_archive(container, path)
    engine.events.tell("container", "archive-path", container.id, container.facts())
    return Bytes(parts, TAR, _stat_header(found), at_once=True)


async def put(engine: Backend, request: Request) -> Response:
    """Unpack a tar at a path."""
    container, path = _named(engine, request)
    query = request.query
    how = Extraction(no_overwrite_dir_non_dir=query.flag("noOverwriteDirNonDir"), copy_uid_gid=query.flag("copyUIDGID"))
    await put_archive(container, path, aiter(request.body), how)
    engine.events.tell("container", "extract-to-dir", container.id, container.facts())
    return Empty(200)


async def export(engine: Backend, request: Request) -> Response:
    """All its files, as a tar."""
    container = engine.containers.find(request.arguments["name"])
    engine.events.tell("container", "export", container.id, container.facts())
    return Bytes(read_export(container), "application/octet-stream")


async def changes(engine: Backend, request: Request) -> Response:
    """How its files differ from its image's."""
    container = engine.containers.find(request.arguments["name"])
    found = await read_changes(container, container.lowers)
    return Json([{"Path": change.path, "Kind": int(change.kind)} for change in found])
