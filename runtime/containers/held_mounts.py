"""What a container mounts besides its root, made ready on the host: binds' directories, volumes, images, shared memory.

Must not know how the runtime mounts them into the container.
"""

from __future__ import annotations

import asyncio
import os
import stat
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import msgspec

from flanneld.linux import netns
from runtime.containers.bundle import MOUNTS, PART, ROOT, SHM
from runtime.containers.container import Container
from runtime.containers.index import Index
from runtime.containers.mount_points import parse_bind, parse_mount
from runtime.containers.parts import Parts
from runtime.containers.record import MountPoint
from runtime.errors import Conflict, EngineError, InvalidParameter
from runtime.linux.inroot import open_in, opened
from runtime.linux.overlay import mount_overlay

SHAREABLE = "shareable"
_JOINED = "container:"
_NO_RIGHTS = netns.Mount(2 | 4 | 8)
"""MS_NOSUID, MS_NODEV, MS_NOEXEC."""


class HeldMounts:
    """One engine's."""

    def __init__(self, parts: Parts, index: Index) -> None:
        self._parts = parts
        self._index = index

    async def prepare(self, container: Container, held: AsyncExitStack) -> tuple[MountPoint, ...]:
        """Every mount with a source that is there; `held` gives back. Raises EngineError, OSError."""
        points = []
        if container.record.host.binds or container.record.host.mounts:
            await asyncio.to_thread(_make_bind_sources, container)
        for number, point in enumerate(container.record.mounts):
            points.append(await self._ready(container, number, point, held))
        if container.record.host.ipc_mode == SHAREABLE:
            await asyncio.to_thread(_mount_shm, container)
            held.push_async_callback(asyncio.to_thread, netns.unmount, container.bundle / SHM)
        return tuple(points)

    async def _ready(self, container: Container, number: int, point: MountPoint, held: AsyncExitStack) -> MountPoint:
        place = container.bundle / MOUNTS / str(number)
        if point.type == "volume":
            facts = {"destination": point.target, "read/write": str(point.writable).lower(), "propagation": ""}
            source = await self._parts.volumes.mount(point.name, container.id, **facts)
            held.push_async_callback(self._parts.volumes.unmount, point.name, container.id)
        elif point.type == "image":
            await asyncio.to_thread(self._mount_image, point.source, place)
            held.push_async_callback(asyncio.to_thread, netns.unmount, place / ROOT)
            source = place / ROOT
        else:
            return point
        if part := _subpath(container, point.target):
            held.push_async_callback(asyncio.to_thread, netns.unmount, place / PART)
            await asyncio.to_thread(_mount_part, source, part, place)
            source = place / PART
        return msgspec.structs.replace(point, source=str(source))

    async def adopt(self, container: Container, held: AsyncExitStack) -> None:
        """They are there, from an engine before this one."""
        for number, point in enumerate(container.record.mounts):
            if point.type == "volume":
                held.push_async_callback(self._parts.volumes.unmount, point.name, container.id)
                with suppress(EngineError):  # somebody deleted its files: it has what it has
                    await self._parts.volumes.mount(point.name, container.id)
            for name in (ROOT, PART):  # what is not mounted is not unmounted
                held.push_async_callback(asyncio.to_thread, netns.unmount, container.bundle / MOUNTS / str(number) / name)
        if container.record.host.ipc_mode == SHAREABLE:
            held.push_async_callback(asyncio.to_thread, netns.unmount, container.bundle / SHM)

    def shm(self, container: Container) -> Path | None:
        """What is its /dev/shm when others share it; None: it has its own. Raises Conflict, NotFound."""
        mode = container.record.host.ipc_mode
        if mode == SHAREABLE:
            return container.bundle / SHM
        if not mode.startswith(_JOINED):
            return None
        donor = self._index.find(mode.removeprefix(_JOINED))
        if donor.record.host.ipc_mode != SHAREABLE:
            raise Conflict(f"IPC: container {donor.id}: non-shareable IPC (hint: use IpcMode:shareable for the donor container)")
        return donor.bundle / SHM

    def _mount_image(self, image_id: str, place: Path) -> None:
        image = self._parts.images.find(image_id)
        upper, work, root = place / "upper", place / "work", place / ROOT
        for directory in (upper, work, root):
            directory.mkdir(parents=True, exist_ok=True)
        mount_overlay(self._parts.layers.lower_dirs(image.layer) if image.layer else (), upper, work, root, volatile=True)


def _make_bind_sources(container: Container) -> None:
    """`-v` makes what it binds, `--mount` only when told to."""
    host = container.record.host
    sources = [parse_bind(text, "") for text in host.binds]
    wanted = [point.source for point in sources if point.type == "bind"]
    wanted += [mount.source for mount in host.mounts if mount.bind_options and mount.bind_options.create_mountpoint]
    for source in wanted:
        if not os.path.lexists(source):
            Path(source).mkdir(parents=True)


def _subpath(container: Container, target: str) -> str:
    """Which part of a volume or an image is mounted there; "": all of it."""
    for mount in container.record.host.mounts:
        options = mount.volume_options or mount.image_options
        if options is not None and options.subpath and parse_mount(mount).target == target:
            return options.subpath
    return ""


def _mount_part(whole: Path, part: str, place: Path) -> None:
    """Bind a part by its descriptor: another container that has the volume, too, may turn its path into a link at any time."""
    with opened(whole) as root:
        try:
            found = open_in(root, part, os.O_PATH)
        except OSError as error:
            raise InvalidParameter(f"cannot access path {whole / part}: {(error.strerror or 'failed').lower()}") from error
        try:
            target = place / PART
            target.parent.mkdir(parents=True, exist_ok=True)
            if stat.S_ISDIR(os.fstat(found).st_mode):
                target.mkdir()
            else:
                target.touch()
            netns.mount(f"/proc/self/fd/{found}", target, flags=netns.Mount.BIND)
        finally:
            os.close(found)


def _mount_shm(container: Container) -> None:
    target = container.bundle / SHM
    target.mkdir(exist_ok=True)
    options = f"mode=1777,size={container.record.host.shm_size}"
    netns.mount("shm", target, "tmpfs", _NO_RIGHTS, options)
