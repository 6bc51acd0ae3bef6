"""Volumes: made, found, listed, filled, mounted while used, removed; must not know containers, but for the ids of their users.

The local driver's: a directory, or with the options type, device and o a file system that is mounted at its first use and unmounted
after its last. Mounts outlive the engine: its next run is told the users again, and finds the file system mounted.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from weakref import WeakValueDictionary

from flanneld.linux.netns import unmount
from runtime import clock
from runtime.errors import Conflict, EngineError, NotFound
from runtime.events import Events
from runtime.layout import Layout
from runtime.linux.trees import size_of
from runtime.volume import ANONYMOUS, LOCAL, Filters, Pruned, Volume, check_driver, check_name, is_listed, is_pruned
from runtime.volume_files import (
    DATA,
    ensure_data,
    is_to_be_filled,
    make_volume,
    mark_filled,
    read_volumes,
    remove_volume,
)

__all__ = ["Pruned", "Volume", "Volumes"]

InUse = Callable[[str], list[str]]
"""The ids of the containers, running or not, that a volume is needed by."""
KIND = "volume"
_ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}


class Volumes:
    """One engine's."""

    def __init__(self, layout: Layout, events: Events) -> None:
        self._layout = layout
        self._events = events
        self._volumes: dict[str, Volume] = {}
        self._users: dict[str, set[str]] = {}
        """By volume: running containers."""
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        """By name: held by whoever makes, mounts, fills or removes that volume."""

    async def load(self) -> None:
        """Find what is on disk; raises OSError."""
        self._volumes = {volume.name: volume for volume in await asyncio.to_thread(lambda: list(read_volumes(self._layout)))}

    async def create(
        self, name: str, driver: str = LOCAL, options: Mapping[str, str] | None = None, labels: Mapping[str, str] | None = None
    ) -> Volume:
        """A new volume, "": one without a name; or the one of that name, which has to be of this driver and these options if any.

        Raises InvalidParameter, NotFound (the driver), Conflict, OSError.
        """
        driver, options, labels = driver or LOCAL, dict(options or {}), dict(labels or {})
        if not name:
            name = secrets.token_hex(32)
            labels.setdefault(ANONYMOUS, "")
        check_name(name)
        check_driver(name, driver, options)
        async with self._lock(name):
            if (known := self._volumes.get(name)) is not None:
                if options and options != known.options:
                    raise Conflict(f"create {name}: volume name must be unique: it exists with other options")
                return known
            wanted = Volume(name=name, driver=driver, created=clock.now(), labels=labels, options=options)
            made = self._volumes[name] = await asyncio.to_thread(make_volume, self._layout, wanted)
            self._events.tell(KIND, "create", name, {"driver": driver})
            return made

    def find(self, name: str) -> Volume:
        """Raises NotFound."""
        if name not in self._volumes:
            raise NotFound(f"get {name}: no such volume")
        return self._volumes[name]

    def path(self, name: str) -> Path:
        """What containers see of it; raises NotFound."""
        self.find(name)
        return self._layout.volumes / name / DATA

    def list(self, filters: Filters, in_use: InUse) -> list[Volume]:
        """By name; raises InvalidParameter for a filter that there is not."""
        return [found for _, found in sorted(self._volumes.items()) if is_listed(found, filters, bool(in_use(found.name)))]

    async def remove(self, name: str, force: bool, in_use: InUse) -> None:
        """With `force`, that there is none is no error; raises NotFound, Conflict, OSError."""
        async with self._lock(name):
            if force and name not in self._volumes:
                return
            volume = self.find(name)
            users = sorted({*in_use(name), *self._users.get(name, ())})
            if users:
                raise Conflict(f"remove {name}: volume is in use - [{', '.join(users)}]")
            await asyncio.to_thread(remove_volume, self._layout, name)
            self._volumes.pop(name, None)
            self._events.tell(KIND, "destroy", name, {"driver": volume.driver})

    async def prune(self, filters: Filters, in_use: InUse) -> Pruned:
        """Remove those that nobody needs, without the filter `all` only those without a name; raises InvalidParameter, OSError."""
        names, freed = [], 0
        for volume in [found for found in self._volumes.values() if is_pruned(found, filters)]:
            size = await self.usage(volume.name)
            try:
                await self.remove(volume.name, False, in_use)
            except (Conflict, NotFound):
                continue
            names.append(volume.name)
            freed += size
        self._events.tell(KIND, "prune", "", {"reclaimed": str(freed)})
        return Pruned(tuple(names), freed)

    async def mount(self, name: str, user: str, **facts: str) -> Path:
        """Have it ready for a container that is about to run, as often as it is asked; raises NotFound, EngineError.

        `facts`: what the event says besides.
        """
        async with self._lock(name):
            volume = self.find(name)
            path = await self._ready(volume)
            users = self._users.setdefault(name, set())
            if user not in users:
                users.add(user)
                self._events.tell(KIND, "mount", name, {"driver": volume.driver, "container": user, **facts})
            return path

    async def unmount(self, name: str, user: str) -> None:
        """That container has ended; nothing happens when it did not use the volume."""
        async with self._lock(name):
            users = self._users.get(name, set())
            if user not in users:
                return
            users.discard(user)
            volume = self.find(name)
            await self._rest(volume)
            self._events.tell(KIND, "unmount", name, {"driver": volume.driver, "container": user})

    async def populate(self, name: str, source: Path) -> None:
        """Copy in what an image has where the volume is mounted, unless it holds something; raises NotFound, EngineError, OSError.

        Owners, modes, times, links and attributes are kept, the directory's own too. `source` must not change meanwhile.
        """
        async with self._lock(name):
            volume = self.find(name)
            path = await self._ready(volume)
            try:
                if await asyncio.to_thread(is_to_be_filled, path):
                    await _copy(source, path)
                    await asyncio.to_thread(mark_filled, path)
            finally:
                await self._rest(volume)

    async def usage(self, name: str) -> int:
        """Bytes of its files; raises NotFound."""
        return await asyncio.to_thread(size_of, self.path(name))

    async def _ready(self, volume: Volume) -> Path:
        path = self.path(volume.name)
        mounted = await asyncio.to_thread(ensure_data, path)
        if volume.is_mounted_on_use and not mounted:
            await _mount(volume, path)
        return path

    async def _rest(self, volume: Volume) -> None:
        """Unmount what nobody uses."""
        if volume.is_mounted_on_use and not self._users.get(volume.name):
            await asyncio.to_thread(unmount, self.path(volume.name))

    def _lock(self, name: str) -> asyncio.Lock:
        return self._locks.setdefault(name, asyncio.Lock())


async def _mount(volume: Volume, path: Path) -> None:
    """By mount(8), which knows network file systems' helpers and what `bind` and `ro` mean together."""
    options = ("-o", volume.options["o"]) if volume.options.get("o") else ()
    command = ("mount", "-t", volume.options["type"], *options, "--", volume.options["device"], str(path))
    why = await _run(*command)
    if why:
        raise EngineError(f"error while mounting volume '{path}': failed to mount local volume: {why}")


async def _copy(source: Path, target: Path) -> None:
    descriptor = os.open(source, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        # By the descriptor: what the caller has resolved inside an image stays what it was.
        why = await _run("cp", "-a", "--", f"/proc/self/fd/{descriptor}/.", str(target), keep=descriptor)
    finally:
        os.close(descriptor)
    if why:
        raise EngineError(f"failed to populate volume: {why}")


async def _run(*command: str, keep: int | None = None) -> str:
    """Run a program to its end; returns what it complained about when it failed, "" when it did not."""
    null = asyncio.subprocess.DEVNULL
    child = await asyncio.create_subprocess_exec(
        *command,
        stdin=null,
        stdout=null,
        stderr=asyncio.subprocess.PIPE,
        env=_ENVIRONMENT,
        pass_fds=() if keep is None else (keep,),
    )
    try:
        _, complaint = await child.communicate()
    except asyncio.CancelledError:
        child.kill()
        await child.wait()
        raise
    why = " ".join(complaint.decode(errors="replace").split())
    return "" if child.returncode == 0 else why or f"{command[0]} failed with {child.returncode}"
