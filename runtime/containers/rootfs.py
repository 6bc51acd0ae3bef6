"""A container's root file system: its image's layers below a writable one, mounted while somebody needs it; must not know who."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from flanneld.linux.netns import unmount
from runtime.linux.overlay import mount_overlay

if TYPE_CHECKING:
    from runtime.images.layers import Layers

UPPER, INIT, WORK, INIT_WORK = "upper", "init", "work", "init-work"


@dataclass(frozen=True, slots=True)
class Place:
    """Where one root file system is made of what."""

    directory: Path
    """Has the writable layer `upper`, below it `init`, made with the container, and overlay's `work`."""
    target: Path
    """Where it is mounted."""
    layer: str
    """Chain id of the image's topmost layer; "": an empty image."""
    volatile: bool
    """Not synced when unmounted: for one that goes with its container."""


class RootFs:
    """One mount for all its holders: overlay's writable layer must not be mounted twice."""

    def __init__(self, layers: Layers, place: Place) -> None:
        self._layers = layers
        self._place = place
        self._holders = 0
        self._lock = asyncio.Lock()

    @property
    def path(self) -> Path:
        return self._place.target

    @property
    def lowers(self) -> tuple[Path, ...]:
        """What is below the writable layer, topmost first: where things are mounted, then the image's layers."""
        return (self._place.directory / INIT, *self._image())

    @property
    def is_volatile(self) -> bool:
        """Unmounting it takes no time."""
        return self._place.volatile

    def _image(self) -> tuple[Path, ...]:
        return self._layers.lower_dirs(self._place.layer) if self._place.layer else ()

    def make(self, fill: Callable[[Path], None]) -> None:
        """The layers of a new container: an empty writable one, and below it what `fill` makes in the mounted image. Blocking.

        Raises OSError, EngineError.
        """
        place = self._place
        for name, mode in ((UPPER, 0o755), (INIT, 0o755), (WORK, 0o700), (INIT_WORK, 0o700)):
            (place.directory / name).mkdir(mode=mode)
        place.target.mkdir(parents=True, exist_ok=True)
        mount_overlay(self._image(), place.directory / INIT, place.directory / INIT_WORK, place.target, volatile=True)
        try:
            fill(place.target)
        finally:
            self._unmount()
        shutil.rmtree(place.directory / INIT_WORK)

    @asynccontextmanager
    async def mounted(self) -> AsyncIterator[Path]:
        """The mounted root, for as long as the context lasts; raises OSError, EngineError."""
        await self.hold()
        try:
            yield self.path
        finally:
            await self.drop()

    async def hold(self) -> None:
        """Mount unless it is; each hold wants its drop. Raises OSError, EngineError."""
        holding = asyncio.create_task(self._hold())
        if not await _undisturbed(holding):
            if holding.exception() is None:
                await self.drop()
            raise asyncio.CancelledError
        holding.result()

    async def drop(self) -> None:
        """One holder less; the last one unmounts."""
        dropping = asyncio.create_task(self._drop())
        if not await _undisturbed(dropping):
            raise asyncio.CancelledError
        dropping.result()

    async def _hold(self) -> None:
        async with self._lock:
            if self._holders == 0:
                await asyncio.to_thread(self._mount)
            self._holders += 1

    async def _drop(self) -> None:
        async with self._lock:
            if self._holders == 1:
                await asyncio.to_thread(self._unmount)
            self._holders -= 1

    def adopt(self) -> None:
        """It is mounted by an engine before this one, for a container that still runs."""
        self._holders += 1

    def _mount(self) -> None:
        place = self._place
        place.target.mkdir(parents=True, exist_ok=True)
        mount_overlay(self.lowers, place.directory / UPPER, place.directory / WORK, place.target, volatile=place.volatile)

    def _unmount(self) -> None:
        unmount(self._place.target)
        with suppress(FileNotFoundError):
            self._place.target.rmdir()


async def _undisturbed(task: asyncio.Task[None]) -> bool:
    """Wait for its end, come what may: a thread cannot be told to stop mounting. False: we were cancelled meanwhile."""
    undisturbed = True
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError:
            undisturbed = False
    return undisturbed
