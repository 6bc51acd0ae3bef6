"""Removing containers; must not know how they are ended, nor what their files are.

A container's directory is renamed away first and deleted then: one that is half deleted is never taken for a container, and nobody
who waits for the removal of one waits for the disk.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from flanneld.log import Log
from runtime.containers.container import Container
from runtime.containers.index import Index
from runtime.containers.lifecycle import Lifecycle
from runtime.containers.origin import BUILD, POD_CONTAINER, SANDBOX
from runtime.containers.parts import Parts
from runtime.containers.record import State
from runtime.containers.stopping import Stopper
from runtime.containers.transitions import ALIVE, IDLE, Verb, check
from runtime.containers.waiting import WaitResult
from runtime.errors import Conflict, EngineError, NotFound
from runtime.linux.trees import remove_tree, size_of
from runtime.prune import Pruned, PruneFilter

log = Log(__name__)


class Remover:
    """One engine's."""

    def __init__(self, parts: Parts, index: Index, lifecycle: Lifecycle, stopper: Stopper) -> None:
        self._parts = parts
        self._index = index
        self._launcher = lifecycle.launcher
        self._lifecycle = lifecycle
        self._stopper = stopper

    async def remove(self, container: Container, force: bool, volumes: bool) -> None:
        """Remove it, with its anonymous volumes if asked; `force`: end it first. Raises Conflict, NotFound, EngineError."""
        if container.doomed:
            raise Conflict(f"removal of container {container.id} is already in progress")
        check(Verb.FORCE_REMOVE if force else Verb.REMOVE, container.record)
        container.doomed = True
        try:
            if force:
                await self._end(container)
            async with container.lock:
                if self._index.get(container.id) is not container:
                    raise NotFound(f"No such container: {container.id}")
                check(Verb.REMOVE, container.record)
                await self._remove(container, volumes)
        finally:
            container.doomed = False

    async def _end(self, container: Container) -> None:
        if container.state not in IDLE:
            await self._stopper.end(container)

    async def _remove(self, container: Container, volumes: bool) -> None:
        container.live(state=State.REMOVING)
        try:
            if not container.root.is_volatile:  # which the next engine would remove anyhow
                await container.save()
            await self._launcher.abandon(container)
            going = await asyncio.to_thread(self._put_away, container)
        except (EngineError, OSError) as error:
            container.live(state=State.DEAD, error=str(error))
            await self._lifecycle.keep(container)
            raise EngineError(f"cannot remove container {container.name!r}: {error}") from error
        self._index.discard(container)
        await self.release_volumes(container, volumes)
        self._lifecycle.tell(container, "destroy")
        container.waits.removed(WaitResult(container.record.life.exit_code))
        try:
            await asyncio.to_thread(remove_tree, going)
        except OSError as error:
            log.warning("files of a removed container left for the next start", path=going, why=error)

    def _put_away(self, container: Container) -> Path:
        going = self._parts.layout.temporary / f"removed-{container.id}"
        going.parent.mkdir(parents=True, exist_ok=True)
        return container.directory.rename(going)

    async def release_volumes(self, container: Container, owned: bool) -> None:
        """Delete the anonymous volumes made for it alone."""
        for name in container.record.owned_volumes if owned else ():
            try:
                await self._parts.volumes.remove(name, force=False, in_use=self._index.of_volume)
            except Conflict:
                pass  # another container has taken it over
            except (EngineError, OSError) as error:
                log.warning("anonymous volume not removed", volume=name, why=error)

    async def gone(self, container: Container, *, force: bool = False) -> None:
        """It was made to go at its end, or has half gone already."""
        try:
            await self.remove(container, force, volumes=container.record.host.auto_remove or container.record.kind == BUILD)
        except (Conflict, NotFound):
            pass  # somebody else is at it
        except EngineError as error:
            log.error("container not removed at its end", container=container.name, why=error)

    async def prune(self, chosen: PruneFilter) -> Pruned:
        """Remove all that do not run and that the filter takes; what cannot be removed stays, and so do a kubelet's pods."""
        ids, freed = [], 0
        for container in self._index.all():
            record = container.record
            if (
                container.state in ALIVE
                or record.kind in (SANDBOX, POD_CONTAINER)
                or not chosen.takes(record.created, record.config.labels)
            ):
                continue
            size = await asyncio.to_thread(size_of, container.upper)
            try:
                await self.remove(container, force=False, volumes=False)
            except EngineError:
                continue
            ids.append(container.id)
            freed += size
        return Pruned(ids, freed)
