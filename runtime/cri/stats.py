"""What pods and containers use: CRI's statistics calls; must not know how control groups are laid out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cri_api.v1 import api_pb2 as cri

from runtime.containers.stats import host_memory, parse_net_dev
from runtime.cri.disk_usage import DiskUsage, filesystem_usage
from runtime.cri.pods import Member, Pods, Sandbox, has_labels
from runtime.errors import NotFound
from runtime.linux.cgroups import Cgroup, CgroupStats

if TYPE_CHECKING:
    from runtime.engine import Engine

INTERFACE = "eth0"
"""A pod's own, as CNI is asked to call it."""
RATE_OVER_NS = 1_000_000_000
"""A rate is of a time at least so long."""


@dataclass(frozen=True, slots=True)
class _Reading:
    time_ns: int
    total_ns: int
    nano_cores: int | None


class CpuRates:
    """How much processor time is used by the second: between two questions, as nobody measures else."""

    def __init__(self) -> None:
        self._readings: dict[str, _Reading] = {}

    def of(self, group: str, time_ns: int, total_ns: int) -> int | None:
        """Nanoseconds a second, since the last time but one that somebody asked; None: this is the first."""
        before = self._readings.get(group)
        if before is None or total_ns < before.total_ns:
            self._readings[group] = _Reading(time_ns, total_ns, None)
            return None
        span = time_ns - before.time_ns
        if span < RATE_OVER_NS:
            return before.nano_cores
        rate = (total_ns - before.total_ns) * 1_000_000_000 // span
        self._readings[group] = _Reading(time_ns, total_ns, rate)
        return rate

    def keep(self, groups: Iterable[str]) -> None:
        """Forget all others."""
        kept = set(groups)
        self._readings = {group: reading for group, reading in self._readings.items() if group in kept}


class Stats:
    """One engine's."""

    def __init__(self, engine: Engine, pods: Pods, disk: DiskUsage) -> None:
        self._root = engine.settings.layout.root
        self._pods = pods
        self._disk = disk
        self._rates = CpuRates()

    async def container(self, request: cri.ContainerStatsRequest) -> cri.ContainerStatsResponse:
        """ContainerStats."""
        return cri.ContainerStatsResponse(stats=await self._of_member(self._pods.member(request.container_id)))

    async def containers(self, request: cri.ListContainerStatsRequest) -> cri.ListContainerStatsResponse:
        """ListContainerStats: those that everything said in the filter is true of."""
        wanted = request.filter
        everybody = list(self._pods.members())
        self._rates.keep([*(member.id for member in everybody), *(sandbox.id for sandbox in self._pods.sandboxes())])
        found = [
            member
            for member in everybody
            if member.id.startswith(wanted.id)
            and member.sandbox_id.startswith(wanted.pod_sandbox_id)
            and has_labels(member.config.labels, wanted.label_selector)
        ]
        return cri.ListContainerStatsResponse(stats=[await self._of_member(member) for member in found])

    async def sandbox(self, request: cri.PodSandboxStatsRequest) -> cri.PodSandboxStatsResponse:
        """PodSandboxStats."""
        return cri.PodSandboxStatsResponse(stats=await self._of_sandbox(self._pods.sandbox(request.pod_sandbox_id)))

    async def sandboxes(self, request: cri.ListPodSandboxStatsRequest) -> cri.ListPodSandboxStatsResponse:
        """ListPodSandboxStats: those that run, and that everything said in the filter is true of."""
        wanted = request.filter
        stats = []
        for sandbox in self._pods.sandboxes([wanted.id] if wanted.id else None):
            if sandbox.container.is_running and has_labels(sandbox.config.labels, wanted.label_selector):
                with suppress(NotFound):  # it has ended meanwhile
                    stats.append(await self._of_sandbox(sandbox))
        return cri.ListPodSandboxStatsResponse(stats=stats)

    async def _of_member(self, member: Member) -> cri.ContainerStats:
        """What one uses; one that does not run, nothing but its writable layer."""
        config = member.config
        layer = await self._disk.of(member.container.upper)
        stats = cri.ContainerStats(
            attributes=cri.ContainerAttributes(
                id=member.id, metadata=config.metadata, labels=config.labels, annotations=config.annotations
            ),
            writable_layer=filesystem_usage(self._root, layer),
        )
        if member.container.is_running:
            used = await asyncio.to_thread(_read, member.container.record.cgroup)
            now = time.time_ns()
            stats.cpu.CopyFrom(self._cpu(member.id, now, used))
            stats.memory.CopyFrom(memory_usage(now, used))
            swap = used.memory.details.get("total_swap", used.memory.details.get("swap", 0))
            stats.swap.CopyFrom(cri.SwapUsage(timestamp=now, swap_usage_bytes=cri.UInt64Value(value=swap)))
        return stats

    async def _of_sandbox(self, sandbox: Sandbox) -> cri.PodSandboxStats:
        """What a pod uses as a whole; raises NotFound when it does not run."""
        if not sandbox.container.is_running:
            raise NotFound(f"pod sandbox {sandbox.id} is not running")
        config, pid = sandbox.config, sandbox.container.record.life.pid
        members = [member for member in self._pods.members_of(sandbox.id) if member.container.is_running]
        group = config.linux.cgroup_parent or sandbox.container.record.cgroup
        used, processes = await asyncio.to_thread(lambda: (_read(group), len(Cgroup.at(group).processes())))
        now = time.time_ns()
        linux = cri.LinuxPodSandboxStats(
            cpu=self._cpu(sandbox.id, now, used),
            memory=memory_usage(now, used),
            network=await asyncio.to_thread(network_usage, pid),
            process=cri.ProcessUsage(timestamp=now, process_count=cri.UInt64Value(value=processes)),
            containers=[await self._of_member(member) for member in members],
        )
        about = cri.PodSandboxAttributes(
            id=sandbox.id, metadata=config.metadata, labels=config.labels, annotations=config.annotations
        )
        return cri.PodSandboxStats(attributes=about, linux=linux)

    def _cpu(self, group: str, now: int, used: CgroupStats) -> cri.CpuUsage:
        rate = self._rates.of(group, now, used.cpu.total_ns)
        return cri.CpuUsage(
            timestamp=now,
            usage_core_nano_seconds=cri.UInt64Value(value=used.cpu.total_ns),
            usage_nano_cores=None if rate is None else cri.UInt64Value(value=rate),
        )


def _read(group: str) -> CgroupStats:
    return Cgroup.at(group).stats()


def memory_usage(now: int, used: CgroupStats) -> cri.MemoryUsage:
    """Bytes; the working set is what cannot be dropped at once, as cAdvisor reckons it."""
    memory, details = used.memory, used.memory.details
    inactive = _first(details, "total_inactive_file", "inactive_file")
    working_set = max(memory.usage - inactive, 0)
    limit = min(memory.limit, host_memory())
    return cri.MemoryUsage(
        timestamp=now,
        working_set_bytes=cri.UInt64Value(value=working_set),
        available_bytes=cri.UInt64Value(value=max(limit - working_set, 0)),
        usage_bytes=cri.UInt64Value(value=memory.usage),
        rss_bytes=cri.UInt64Value(value=_first(details, "total_rss", "anon")),
        page_faults=cri.UInt64Value(value=_first(details, "total_pgfault", "pgfault")),
        major_page_faults=cri.UInt64Value(value=_first(details, "total_pgmajfault", "pgmajfault")),
    )


def _first(details: Mapping[str, int], *names: str) -> int:
    """cgroup v1's name for it with what is below, else v2's."""
    return next((details[name] for name in names if name in details), 0)


def network_usage(pid: int) -> cri.NetworkUsage:
    """Counters of the interfaces that a process sees; nothing when it has ended. Blocks."""
    try:
        counters = parse_net_dev(Path(f"/proc/{pid}/net/dev").read_text())
    except OSError:
        counters = {}
    interfaces = {
        name: cri.NetworkInterfaceUsage(
            name=name, **{key: cri.UInt64Value(value=values[key]) for key in ("rx_bytes", "rx_errors", "tx_bytes", "tx_errors")}
        )
        for name, values in counters.items()
    }
    default = interfaces.get(INTERFACE)
    others = [each for name, each in interfaces.items() if name != INTERFACE]
    return cri.NetworkUsage(timestamp=time.time_ns(), default_interface=default, interfaces=others)
