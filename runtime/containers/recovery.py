"""An engine's start over what the one before left: containers that run on are taken over, ends that nobody saw are noted.

What is half made or half gone is swept away. Must not know how the engine before came to its end.
"""

from __future__ import annotations

import asyncio
import signal
import time
from contextlib import suppress
from pathlib import Path

from flanneld.linux.netns import unmount
from flanneld.log import Log
from runtime.containers import bundle
from runtime.containers.container import Container
from runtime.containers.index import Index
from runtime.containers.jobs import Jobs
from runtime.containers.lifecycle import Lifecycle
from runtime.containers.monitor import LOST, Exit, Monitor, NotRunning, read_exit
from runtime.containers.namespaces import other
from runtime.containers.origin import BUILD
from runtime.containers.parts import Parts
from runtime.containers.record import State
from runtime.containers.records import ID, has_record, read_records
from runtime.containers.removing import Remover
from runtime.containers.restart import restarts_with_engine
from runtime.linux.trees import discard_tree

log = Log(__name__)


class Recovery:
    """Done once, before anybody asks for anything."""

    def __init__(self, parts: Parts, index: Index, lifecycle: Lifecycle, remover: Remover, jobs: Jobs) -> None:
        self._parts = parts
        self._index = index
        self._launcher = lifecycle.launcher
        self._lifecycle = lifecycle
        self._remover = remover
        self._jobs = jobs

    async def load(self) -> None:
        """Every container as it is by now; raises OSError."""
        layout = self._parts.layout
        records = await asyncio.to_thread(lambda: list(read_records(layout.containers)))
        containers = [Container(record, layout, self._parts.layers) for record in records]
        for container in containers:
            self._index.add(container)
        await asyncio.to_thread(_sweep, layout.containers)
        running = [container for container in containers if container.is_running]
        ends = await asyncio.gather(*(self._adopted(container) for container in running))
        await self._parts.networks.restore(
            [container.record for container in running if container.is_running and container.monitor]
        )
        for container, end in zip(running, ends, strict=True):
            if end is None:
                self._lifecycle.begin(container)
            else:
                await self._lifecycle.ended(container, end, resumes=False)
        for container in containers:
            if not container.is_running:
                await self._clean(container)
        self._go_on(containers)
        for path in _directories(layout.bundles):
            if ID.fullmatch(path.name) and self._index.get(path.name) is None:
                await self._forget(path)

    async def _adopted(self, container: Container) -> Exit | None:
        """Take over one that was running; how it ended, if it has."""
        monitor = await Monitor.reconnect(container.bundle) if container.bundle.exists() else None
        if monitor is not None:
            await self._launcher.adopt(container, monitor)
            container.live(pid=monitor.pid)
            return None
        end = read_exit(container.bundle)
        if not container.bundle.exists():
            return end or Exit(LOST, self._last_seen_ns(container))
        await self._launcher.adopt(container, None)
        return end or Exit(LOST, time.time_ns())

    @staticmethod
    def _last_seen_ns(container: Container) -> int:
        """A reboot has taken it: when, its log knows best."""
        path = container.log_path
        try:
            return path.stat().st_mtime_ns if path else time.time_ns()
        except OSError:
            return time.time_ns()

    async def _clean(self, container: Container) -> None:
        """Nothing of one that does not run is left on the host: its start was cut short, or its end."""
        if not container.bundle.exists():
            return
        monitor = await Monitor.reconnect(container.bundle)
        if monitor is not None:
            with suppress(NotRunning):
                await monitor.signal(signal.SIGKILL)
            await monitor.exited()
        await self._launcher.adopt(container, monitor)
        async with self._launcher.clearing(container):
            pass

    def _go_on(self, containers: list[Container]) -> None:
        """What was about to be done to them: removal, or a start by their policy."""
        wanted = []
        for container in containers:
            record = container.record
            if record.life.state is State.REMOVING:
                container.live(state=State.DEAD)
            ended = container.state is State.EXITED and record.host.auto_remove
            if ended or container.state is State.DEAD or record.kind == BUILD:
                self._jobs.begin(self._remover.gone(container, force=record.kind == BUILD))
            elif container.state is State.RESTARTING or restarts_with_engine(record.host.restart_policy, container.record.life):
                container.live(state=State.RESTARTING)
                wanted.append(container)
        self._jobs.begin(self._start(wanted))

    async def _start(self, wanted: list[Container]) -> None:
        """Those that live in another's network come after the others, which may be theirs."""
        guests = [container for container in wanted if other(container.record.host.network_mode)]
        hosts = [container for container in wanted if container not in guests]
        for wave in (hosts, guests):
            starts = [self._jobs.finish(self._lifecycle.resume(container)) for container in wave]
            await asyncio.gather(*starts)

    async def _forget(self, path: Path) -> None:
        """The bundle of a container that has no record any more: somebody has deleted it, or restored an older state."""
        log.warning("container without a record ended", id=path.name[:12])
        await self._parts.runc.delete(path.name)
        await asyncio.to_thread(_sweep_away, path)


def _sweep_away(path: Path) -> None:
    for mounted in (path / bundle.ROOT, path / bundle.SHM, *(path / bundle.MOUNTS).glob("*/*")):
        unmount(mounted)
    bundle.sweep_bundle(path)


def _sweep(containers: Path) -> None:
    """What was never made."""
    for path in _directories(containers):
        if ID.fullmatch(path.name) and not has_record(path):
            log.info("half-made container swept away", id=path.name[:12])
            discard_tree(path)


def _directories(parent: Path) -> list[Path]:
    return [path for path in parent.iterdir() if path.is_dir() and not path.is_symlink()] if parent.is_dir() else []
