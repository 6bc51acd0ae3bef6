"""Making a container: a record, a writable layer and its volumes, of an image and a request; must not know how it is started.

The record is written last: a directory without one is a container that was never made, and is swept away at the engine's start.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path

import msgspec

from runtime import clock
from runtime.config import ContainerConfig, CreateRequest, EndpointSettings, HostConfig, LogConfig, NetworkingConfig
from runtime.containers.bundle import sweep_bundle
from runtime.containers.check import check, check_request
from runtime.containers.container import Container
from runtime.containers.defaults import settle
from runtime.containers.index import Claims, Index
from runtime.containers.log_options import DRIVERS, Rotation, rotation
from runtime.containers.merge import command, merge
from runtime.containers.mount_sources import MountSources, Sources
from runtime.containers.origin import SANDBOX, Created, Origin
from runtime.containers.parts import Parts
from runtime.containers.record import MountPoint, Record
from runtime.containers.records import sync_directory
from runtime.containers.restart import check_policy
from runtime.containers.stubs import make_stubs
from runtime.errors import InvalidParameter, NotFound
from runtime.images.image import Image
from runtime.linux.inroot import DIRECTORY, open_in, opened
from runtime.linux.trees import discard_tree
from runtime.networks.names import split_link

_JOINED = "container:"


class Creator:
    """One engine's."""

    def __init__(self, parts: Parts, index: Index) -> None:
        self._parts = parts
        self._index = index
        self._sources = MountSources(parts, index)

    async def create(self, name: str, request: CreateRequest, origin: Origin) -> Created:
        """A container, whole or not at all; raises NotFound (the image), InvalidParameter, Conflict (name), OSError."""
        identity = secrets.token_hex(32)
        check_request(request)
        with self._index.claimed(name, identity) as claims:
            image = self._image(request.image, origin)
            claims.images.update([image.id] if image else [])
            with _image_is_there():
                container, warnings = await self._composed(identity, request, origin, image, claims)
            self._index.add(container)
        self._parts.events.tell("container", "create", identity, container.facts())
        return Created(identity, warnings)

    async def _composed(
        self, identity: str, request: CreateRequest, origin: Origin, image: Image | None, claims: Claims
    ) -> tuple[Container, list[str]]:
        host = self._host(request.host_config)
        config = self._config(request, host, image, identity, origin)
        warnings = check(config, host)
        check_policy(host.restart_policy, host)
        rotation(host.log_config, Rotation(0, 1))
        endpoints = self._endpoints(request.networking_config, config, host)
        async with AsyncExitStack() as undo:
            sources = await self._sources.resolve(config, host, claims, undo)
            record = self._record(identity, claims.name, origin, config, host)
            container = await self._made(_complete(record, image, endpoints, sources), undo)
            undo.pop_all()
        return container, warnings

    def _image(self, name: str, origin: Origin) -> Image | None:
        if origin.kind == SANDBOX and not name:
            return None
        if not name:
            raise InvalidParameter("config cannot be empty in order to create a container")
        image = self._parts.images.find(name)
        wanted = origin.platform.split("/") if origin.platform else []
        have = [image.config.os, image.config.architecture]
        if wanted and wanted[:2] != have[: len(wanted[:2])]:
            raise NotFound(
                f"image with reference {name} was found but its platform ({'/'.join(have)}) "
                f"does not match the specified platform ({origin.platform})"
            )
        return image

    def _host(self, host: HostConfig) -> HostConfig:
        """With Docker's defaults where a client sees them, and with other containers by their ids."""
        settled = settle(host)
        return msgspec.structs.replace(
            settled,
            network_mode=self._by_id(settled.network_mode),
            pid_mode=self._by_id(settled.pid_mode),
            ipc_mode=self._by_id(settled.ipc_mode),
            links=tuple(self._known_link(text) for text in settled.links),
            log_config=LogConfig(type=host.log_config.type or DRIVERS[0], config=host.log_config.config),
        )

    def _known_link(self, text: str) -> str:
        try:
            self._index.find(split_link(text)[0])
        except NotFound as error:
            raise InvalidParameter(f"could not get container for {split_link(text)[0]}: {error}") from error
        return text

    def _by_id(self, mode: str) -> str:
        if not mode.startswith(_JOINED):
            return mode
        return _JOINED + self._index.find(mode.removeprefix(_JOINED)).id

    def _config(
        self, request: CreateRequest, host: HostConfig, image: Image | None, identity: str, origin: Origin
    ) -> ContainerConfig:
        config = merge(request, image.config.config if image else None)
        hostname = config.hostname
        if host.network_mode.startswith(_JOINED):
            hostname = hostname or self._index.find(host.network_mode.removeprefix(_JOINED)).record.config.hostname
        elif host.network_mode == "host" or host.uts_mode == "host":
            hostname = hostname or os.uname().nodename
        return msgspec.structs.replace(config, hostname=hostname or identity[:12])

    def _endpoints(self, networking: NetworkingConfig, config: ContainerConfig, host: HostConfig) -> dict[str, EndpointSettings]:
        """What is asked of each network, by its name; the network mode's is one of them."""
        mode = host.network_mode
        if mode.startswith(_JOINED) or config.network_disabled:
            return {}
        asked = {"bridge" if name == "default" else name: settings for name, settings in networking.endpoints_config.items()}
        asked = asked if mode in asked else {mode: EndpointSettings(), **asked}
        if config.mac_address and not asked[mode].mac_address:
            asked[mode] = msgspec.structs.replace(asked[mode], mac_address=config.mac_address)
        found = {name: self._parts.networks.find(name) for name in asked}
        self._parts.networks.check_endpoints(asked)
        return {network.name: msgspec.structs.replace(asked[name], network_id=network.id) for name, network in found.items()}

    def _record(self, identity: str, name: str, origin: Origin, config: ContainerConfig, host: HostConfig) -> Record:
        path, args = command(config)
        log_format = origin.log_format or ("none" if host.log_config.type == "none" else "json-file")
        log_path = origin.log_path or str(self._parts.layout.container(identity) / f"{identity}-json.log")
        return Record(
            id=identity,
            name=name,
            created=clock.now(),
            image_id="",
            config=config,
            host=host,
            path=path,
            args=args,
            log_path=log_path if log_format != "none" else "",
            log_format=log_format,
            kind=origin.kind,
            netns=origin.netns,
            group_rule=origin.group_rule,
            note=origin.note,
        )

    async def _made(self, record: Record, undo: AsyncExitStack) -> Container:
        container = Container(record, self._parts.layout, self._parts.layers)
        undo.push_async_callback(asyncio.to_thread, discard_tree, container.directory)
        await asyncio.to_thread(_make_files, container)
        copied = [point for point in record.mounts if point.type == "volume" and point.copy]
        if copied:
            async with container.mounted() as root:
                for point in copied:
                    await self._copy_up(root, point)
            await asyncio.to_thread(sweep_bundle, container.bundle)
        await container.save()
        if not container.root.is_volatile:
            await asyncio.to_thread(sync_directory, container.directory.parent)
        return container

    async def _copy_up(self, root: Path, point: MountPoint) -> None:
        """What the image has where an empty volume is mounted becomes the volume's."""
        with opened(root) as inside:
            try:
                found = open_in(inside, point.target, DIRECTORY)
            except OSError:
                return
            try:
                await self._parts.volumes.populate(point.name, Path(f"/proc/self/fd/{found}"))
            finally:
                os.close(found)


@contextmanager
def _image_is_there() -> Iterator[None]:
    """Whatever else is missing is the request's fault: clients take a 404 for a missing image, pull it, and ask again."""
    try:
        yield
    except NotFound as error:
        raise InvalidParameter(str(error)) from error


def _complete(record: Record, image: Image | None, endpoints: dict[str, EndpointSettings], sources: Sources) -> Record:
    return msgspec.structs.replace(
        record,
        image_id=image.id if image else "",
        layer=image.layer if image else "",
        endpoints=endpoints,
        mounts=tuple(sources.points.values()),
        owned_volumes=tuple(sources.owned),
    )


def _make_files(container: Container) -> None:
    container.directory.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    container.directory.mkdir(mode=0o700)
    container.root.make(lambda root: make_stubs(root, container.record))
    sweep_bundle(container.bundle)
