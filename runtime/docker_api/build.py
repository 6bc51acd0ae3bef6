"""Images made here: build and commit."""

from __future__ import annotations

import base64
import binascii
from typing import Any

import msgspec

from runtime.build.options import BuildOptions, CommitOptions
from runtime.config import ContainerConfig, HostConfig, Ulimit, decode
from runtime.containers.merge import merge
from runtime.docker_api.backend import Backend
from runtime.docker_api.changes import apply_changes
from runtime.docker_api.exchange import Empty, Json, Lines, Query, Request, Response
from runtime.docker_api.filters import as_mapping, parse_filters
from runtime.docker_api.images import reference_of
from runtime.docker_api.progress import progress_lines
from runtime.errors import InvalidParameter, NotSupported
from runtime.images.reference import HUB, parse_reference
from runtime.images.registry.auth import Credentials, credentials_of

PRUNE_FILTERS = frozenset({"description", "id", "inuse", "parent", "private", "shared", "type", "unused-for", "until"})


async def build(engine: Backend, request: Request) -> Response:
    """Carry out the Dockerfile of a context, which is the body: a tar."""
    query = request.query
    if query.text("version", "1") not in ("", "1"):
        raise NotSupported("this engine builds without BuildKit: set DOCKER_BUILDKIT=0 to build with buildx installed")
    if query.flag("squash"):
        raise NotSupported("squash is only supported with experimental mode")
    if query.text("remote"):
        raise NotSupported("a context is not fetched by the engine: send it, or a Dockerfile, as the request's body")
    content_type = request.header("content-type").partition(";")[0].strip()
    if content_type not in ("", "application/x-tar", "application/tar", "application/octet-stream"):
        raise InvalidParameter(f"Content-Type {content_type} is not application/x-tar")
    options = build_options(query, registry_config(request.header("x-registry-config")))
    return Lines(progress_lines(engine.builder.build(aiter(request.body), options)))


def build_options(query: Query, credentials: dict[str, Credentials]) -> BuildOptions:
    """The query of POST /build; raises InvalidParameter. What is null or of an unknown key is not there."""
    return BuildOptions(
        tags=tuple(parse_reference(tag).with_default_tag() for tag in query.all("t") if tag),
        dockerfile=query.text("dockerfile") or "Dockerfile",
        target=query.text("target"),
        arguments=_json(query, "buildargs", dict[str, str | None]),
        labels=_json(query, "labels", dict[str, str]),
        no_cache=query.flag("nocache"),
        pull=query.flag("pull"),
        remove=query.flag("rm", default=True),
        force_remove=query.flag("forcerm"),
        quiet=query.flag("q"),
        platform=query.text("platform"),
        host=_host(query),
        credentials=credentials,
    )


def _host(query: Query) -> HostConfig:
    """What a build's containers may use and see."""
    return HostConfig(
        network_mode=query.text("networkmode") or "default",
        extra_hosts=tuple(query.text("extrahosts").split(",")) if query.text("extrahosts") else (),
        shm_size=query.number("shmsize") or 0,
        memory=query.number("memory") or 0,
        memory_swap=query.number("memswap") or 0,
        cpu_shares=query.number("cpushares") or 0,
        cpu_period=query.number("cpuperiod") or 0,
        cpu_quota=query.number("cpuquota") or 0,
        cpuset_cpus=query.text("cpusetcpus"),
        cpuset_mems=query.text("cpusetmems"),
        cgroup_parent=query.text("cgroupparent"),
        ulimits=_json(query, "ulimits", tuple[Ulimit, ...]),
    )


def _json(query: Query, key: str, kind: type[Any]) -> Any:
    """A JSON document in the query; empty: nothing of that kind."""
    text = query.text(key)
    if text in ("", "null"):
        return () if kind is tuple[Ulimit, ...] else {}
    if kind == dict[str, str | None]:  # null is a value here: an argument named without one
        try:
            return msgspec.json.decode(text, type=kind)
        except msgspec.MsgspecError as error:
            raise InvalidParameter(f"{key}: {error}") from error
    return decode(text, kind)


def registry_config(header: str) -> dict[str, Credentials]:
    """Read X-Registry-Config, base64url of JSON {registry: credentials}; what makes no sense is forgiven, as in Docker."""
    try:
        document = msgspec.json.decode(base64.urlsafe_b64decode(header.strip() + "==="), type=dict[str, dict[str, Any]])
    except (ValueError, binascii.Error, msgspec.MsgspecError):
        return {}
    found = {_host_of(server): credentials_of(entry) for server, entry in document.items()}
    return {host: credentials for host, credentials in found.items() if credentials is not None}


def _host_of(server: str) -> str:
    """ "https://index.docker.io/v1/" and the like as the host of a reference."""
    host = server.partition("://")[2] or server
    host = host.partition("/")[0]
    return HUB if host in ("index.docker.io", "registry-1.docker.io") else host


async def prune(engine: Backend, request: Request) -> Response:
    """Forget what builds remember."""
    filters = parse_filters(request.query.text("filters"), PRUNE_FILTERS)
    pruned = await engine.builder.prune(as_mapping(filters), everything=request.query.flag("all"))
    return Json({"CachesDeleted": list(pruned.caches) or None, "SpaceReclaimed": pruned.bytes})


async def cancel(engine: Backend, request: Request) -> Response:
    """Ending a build is done by leaving it."""
    if not request.query.text("id"):
        raise InvalidParameter("build ID not provided")
    return Empty()


async def commit(engine: Backend, request: Request) -> Response:
    """An image of a container's files and config."""
    query = request.query
    container = engine.containers.find(query.text("container"))
    asked = await request.decoded(ContainerConfig)
    base = container.record.config if asked == ContainerConfig() else asked
    changed = apply_changes(base, query.all("changes"))
    options = CommitOptions(
        config=merge(changed, container.record.config),
        reference=reference_of(query.text("repo"), query.text("tag")),
        comment=query.text("comment"),
        author=query.text("author"),
        pause=query.flag("pause", default=True),
    )
    return Json({"Id": await engine.builder.commit(container, options)}, 201)
