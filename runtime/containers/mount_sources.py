"""Where a new container's mounts come from: volumes found or made, other containers' mounts; must not know how mounts are made."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from runtime.config import ContainerConfig, HostConfig
from runtime.containers.index import Claims, Index
from runtime.containers.mount_points import parse_bind, parse_mount, parse_volumes_from
from runtime.containers.parts import Parts
from runtime.containers.record import MountPoint
from runtime.errors import InvalidParameter
from runtime.volume import LOCAL


@dataclass(slots=True)
class Sources:
    """A container's mounts by target, and the volumes made for it alone."""

    points: dict[str, MountPoint] = field(default_factory=dict)
    owned: list[str] = field(default_factory=list)


class MountSources:
    """One engine's."""

    def __init__(self, parts: Parts, index: Index) -> None:
        self._parts = parts
        self._index = index

    async def resolve(self, config: ContainerConfig, host: HostConfig, claims: Claims, undo: AsyncExitStack) -> Sources:
        """Every mount with its source; `undo` removes the volumes made for it. Raises InvalidParameter, NotFound, Conflict."""
        sources = Sources()
        asked = self._asked(host)
        targets = {point.target for point in asked}
        for point in self._taken_over(host.volumes_from):
            if point.target not in targets:
                sources.points[point.target] = point
        tmpfs = {"/" + target.strip("/") for target in host.tmpfs}
        for point in (*asked, *_of_image(config, host, tmpfs)):
            if point.target not in sources.points:
                found = sources.points[point.target] = await self._found(point, host)
                claims.images.update([found.source] if found.type == "image" else [])
                claims.volumes.update([found.name] if found.type == "volume" else [])
                if found.type == "volume" and not point.name:
                    sources.owned.append(found.name)
                    undo.push_async_callback(self._parts.volumes.remove, found.name, force=True, in_use=lambda _: [])
        return sources

    def _asked(self, host: HostConfig) -> list[MountPoint]:
        """--volume and --mount, whose targets must differ."""
        driver = host.volume_driver or LOCAL
        points = [*(parse_bind(text, driver) for text in host.binds), *(parse_mount(mount) for mount in host.mounts)]
        seen: set[str] = set()
        for point in points:
            if point.target in seen:
                raise InvalidParameter(f"Duplicate mount point: {point.target}")
            seen.add(point.target)
        for mount in host.mounts:
            made = mount.bind_options is not None and mount.bind_options.create_mountpoint
            if mount.type == "bind" and not made and not Path(mount.source).exists():
                raise InvalidParameter(f'invalid mount config for type "bind": bind source path does not exist: {mount.source}')
        return points

    def _taken_over(self, texts: Iterable[str]) -> Iterable[MountPoint]:
        for text in texts:
            reference, access = parse_volumes_from(text)
            for point in self._index.find(reference).record.mounts:
                if point.type != "tmpfs":
                    yield msgspec.structs.replace(point, writable=point.writable and access != "ro", copy=False)

    async def _found(self, point: MountPoint, host: HostConfig) -> MountPoint:
        if point.type == "image":
            return msgspec.structs.replace(point, source=self._parts.images.find(point.name).id)
        if point.type != "volume":
            return point
        same = (mount for mount in host.mounts if mount.volume_options and parse_mount(mount).target == point.target)
        options = next((mount.volume_options for mount in same), None)
        labels = dict(options.labels) if options else {}
        driver_options = dict(options.driver_config.options) if options and options.driver_config else {}
        volume = await self._parts.volumes.create(point.name, point.driver or LOCAL, driver_options, labels)
        source = str(self._parts.volumes.path(volume.name))
        return msgspec.structs.replace(point, name=volume.name, driver=volume.driver, source=source)


def _of_image(config: ContainerConfig, host: HostConfig, covered: set[str]) -> list[MountPoint]:
    """The image's volumes, and those that `-v /path` asks for: anonymous ones, where nothing else is mounted."""
    points = [parse_bind(target, host.volume_driver or LOCAL) for target in config.volumes]
    return [msgspec.structs.replace(point, mode="") for point in points if point.target not in covered]
