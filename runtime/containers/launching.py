"""From a container's record to its process, and back to nothing: network, mounts, bundle, monitor; must not know states and verbs.

Everything taken on the way is put into the container's holdings at once, so that a failure at any step gives back what was taken.
What does not depend on each other is done at one time: a start waits for the runtime, not for us.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal

import msgspec

from runtime import clock
from runtime.containers import bundle
from runtime.containers.container import Container
from runtime.containers.held_mounts import HeldMounts
from runtime.containers.holdings import Holdings, give_back
from runtime.containers.index import Index
from runtime.containers.log_options import Rotation, rotation
from runtime.containers.monitor import LogSettings, Monitor, MonitorSettings
from runtime.containers.parts import Parts
from runtime.containers.record import MountPoint, Record, State
from runtime.containers.spec import Given, build_spec
from runtime.errors import Conflict
from runtime.linux.cgroups import Cgroup
from runtime.monitor.build import built_monitor
from runtime.networks.network import Joined


class Launcher:
    """One engine's."""

    def __init__(self, parts: Parts, index: Index) -> None:
        self._parts = parts
        self._index = index
        self._mounts = HeldMounts(parts, index)

    async def launch(self, container: Container) -> Record:
        """Start the process, under the container's lock; returns its record as a running one, written already but for the pid.

        Raises StartFailed (the runtime's words), Conflict (ports, others' namespaces), EngineError, OSError; then nothing is left.
        """
        held = Holdings()
        try:
            joined, points = await self._gathered(container, held)
            record = _begun(container.record, joined)
            await asyncio.to_thread(self._write_bundle, container, joined, points)
            held.process.push_async_callback(self._forget, container)
            pid = await self._run(container, record)
        except BaseException:
            await held.give_back()
            raise
        container.holdings = held
        return msgspec.structs.replace(record, life=msgspec.structs.replace(record.life, pid=pid))

    async def _gathered(self, container: Container, held: Holdings) -> tuple[Joined, tuple[MountPoint, ...]]:
        if container.monitor is None:  # else somebody has attached to it, and its bundle is there
            await asyncio.to_thread(bundle.make_bundle, container.bundle)
        held.process.push_async_callback(self.abandon, container)
        monitor, joined, points, root = await asyncio.gather(
            self.monitor(container),
            self._join(container, held),
            self._mounts.prepare(container, held.process),
            container.root.hold(),
            return_exceptions=True,
        )
        if not isinstance(root, BaseException):
            held.process.push_async_callback(container.root.drop)
        for result in (joined, points, root, monitor):
            if isinstance(result, BaseException):
                raise result
        assert isinstance(joined, Joined) and isinstance(points, tuple)  # noqa: S101, PT018 - what is no error
        return joined, points

    async def _join(self, container: Container, held: Holdings) -> Joined:
        record = container.record
        if record.netns:
            return Joined(netns=record.netns)
        joined = await self._parts.networks.prepare(record)
        held.network.push_async_callback(self._release_network, container)
        return joined

    async def _release_network(self, container: Container) -> None:
        await self._parts.networks.release(container.record)

    async def _forget(self, container: Container) -> None:
        """Nothing of it runs any more, or is to."""
        runc, group = self._parts.runc, Cgroup.at(container.record.cgroup)
        if not await asyncio.to_thread(runc.forget, container.id, group):
            await runc.delete(container.id)

    async def _run(self, container: Container, record: Record) -> int:
        """The record is written while the runtime is at work: should we die now, the next engine knows what to look for."""
        monitor = await self.monitor(container)
        pid, written = await asyncio.gather(monitor.start(), container.save(record), return_exceptions=True)
        for result in (pid, written):
            if isinstance(result, BaseException):
                raise result
        return int(str(pid))

    def _write_bundle(self, container: Container, joined: Joined, points: tuple[MountPoint, ...]) -> None:
        record = container.record
        given = Given(
            rootfs=container.rootfs,
            cgroup=record.cgroup,
            pid_of=self._pid_of,
            netns=joined.netns,
            hostname=joined.hostname,
            etc_files=self._etc_files(container, joined),
            mounts=points,
            shm=self._mounts.shm(container),
            init=built_monitor() if record.host.init else None,
        )
        bundle.write_config(container.bundle, build_spec(record, given).document)

    def _etc_files(self, container: Container, joined: Joined) -> dict[str, Any]:
        if joined.shares_files_of:
            return bundle.etc_files(self._index.find(joined.shares_files_of).directory)
        texts = {bundle.HOSTS: joined.etc_hosts, bundle.RESOLV_CONF: joined.resolv_conf}
        hostname = joined.hostname or container.record.config.hostname
        files = {name: text for name, text in texts.items() if text} | {bundle.HOSTNAME: f"{hostname}\n"}
        return bundle.write_etc(container.directory, files)

    def _pid_of(self, identity: str) -> int:
        other = self._index.find(identity)
        if not other.is_running:
            raise Conflict(f"cannot join namespace of a non running container: container {other.id} is not running")
        return other.record.life.pid

    async def monitor(self, container: Container) -> Monitor:
        """Its monitor, launched now if need be: clients attach before the start. Raises EngineError."""
        if container.monitor is None:
            await asyncio.to_thread(bundle.make_bundle, container.bundle)
            settings = self._monitor_settings(container.record)
            container.monitor = await Monitor.launch(container.bundle, settings, self._command(container))
        return container.monitor

    def _command(self, container: Container) -> list[str]:
        console = container.bundle / bundle.CONSOLE if container.record.config.tty else None
        return self._parts.runc.run_arguments(container.bundle, container.id, container.bundle / bundle.PID, console)

    def _monitor_settings(self, record: Record) -> MonitorSettings:
        config, defaults = record.config, self._parts.settings
        kept = rotation(record.host.log_config, Rotation(defaults.log_max_bytes, defaults.log_max_files))
        log = None
        if record.log_path:
            form: Literal["json-file", "cri"] = "cri" if record.log_format == "cri" else "json-file"
            kept = Rotation(0, 1) if form == "cri" else kept  # a kubelet rotates its pods' logs itself
            log = LogSettings(Path(record.log_path), form, kept.max_bytes, kept.max_files)
        return MonitorSettings(name=record.name, tty=config.tty, stdin=config.open_stdin, stdin_once=config.stdin_once, log=log)

    async def adopt(self, container: Container, monitor: Monitor | None) -> None:
        """It was launched by an engine before this one: its holdings are ours. None: its monitor is gone."""
        held = Holdings()
        container.monitor = monitor
        held.process.push_async_callback(self.abandon, container)
        await self._mounts.adopt(container, held.process)
        container.root.adopt()
        held.process.push_async_callback(container.root.drop)
        held.process.push_async_callback(self._forget, container)
        if not container.record.netns:
            held.network.push_async_callback(self._release_network, container)
        container.holdings = held

    @asynccontextmanager
    async def clearing(self, container: Container) -> AsyncIterator[bool]:
        """Its process has ended. Within the context its network has been given back, after it everything: unmounting may take its
        time, for the kernel writes all that is to be written on that disk, unless it is volatile. Gives whether the kernel killed
        something for want of memory.
        """
        oom = Cgroup.at(container.record.cgroup).oom_kills() > 0
        held, container.holdings = container.holdings or Holdings(), None
        rest = asyncio.create_task(give_back(held.process))
        try:
            await give_back(held.network)
            if container.root.is_volatile:
                await rest
            yield oom
        finally:
            await rest

    async def abandon(self, container: Container) -> None:
        """Nothing of it runs: let go of the monitor, one that waits for a start ends, and delete the bundle; raises OSError."""
        if container.monitor is not None:
            container.monitor.close()
            container.monitor = None
        if container.bundle.exists():
            await asyncio.to_thread(bundle.sweep_bundle, container.bundle)


def _begun(record: Record, joined: Joined) -> Record:
    life = msgspec.structs.replace(
        record.life,
        state=State.RUNNING,
        pid=0,
        exit_code=0,
        error="",
        oom_killed=False,
        started_at=clock.now(),
        finished_at=clock.NEVER,
    )
    ports = {port: tuple(bindings) for port, bindings in joined.ports.items()}
    endpoints = {**record.endpoints, **joined.endpoints}
    return msgspec.structs.replace(record, life=life, endpoints=endpoints, ports=ports)
