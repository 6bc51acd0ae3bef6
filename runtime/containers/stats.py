"""What a container uses, as `docker stats` wants it: the Engine API's JSON, key by key; must not know how it is sent.

Rates are the client's business: each sample carries the processor times of the one before.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from runtime import clock
from runtime.containers.record import Record, State
from runtime.linux.cgroup_files import BlockIo, CpuUse, MemoryUse
from runtime.linux.cgroups import Cgroup, CgroupStats

if TYPE_CHECKING:
    from runtime.containers.container import Container

_GOING = (State.REMOVING, State.DEAD)
Json: TypeAlias = dict[str, Any]
PERIOD_S = 1.0
_TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
_NO_CPU: Json = {
    "cpu_usage": {"total_usage": 0, "usage_in_kernelmode": 0, "usage_in_usermode": 0},
    "throttling_data": {"periods": 0, "throttled_periods": 0, "throttled_time": 0},
}
_NO_BLKIO = (
    "io_service_bytes_recursive",
    "io_serviced_recursive",
    "io_queue_recursive",
    "io_service_time_recursive",
    "io_wait_time_recursive",
    "io_merged_recursive",
    "io_time_recursive",
    "sectors_recursive",
)


async def stats(container: Container, *, stream: bool, one_shot: bool) -> AsyncGenerator[Json, None]:
    """A sample each second until the container is removed; without `stream` one alone, which `one_shot` gives at once.

    A container that does not run uses nothing, and is none the less shown. Raises OSError.
    """
    previous, before = _NO_CPU, clock.NEVER
    primed = stream or one_shot
    while container.record.life.state not in _GOING:
        sample = await asyncio.to_thread(_sample, container.record)
        if primed or not sample:
            identity = {"name": f"/{container.name}", "id": container.id}
            yield {**_empty(), **sample, "precpu_stats": previous, "preread": before, **identity}
            if not stream:
                return
        primed = True
        previous, before = sample.get("cpu_stats", _NO_CPU), sample.get("read", clock.NEVER)
        await asyncio.sleep(PERIOD_S)


def _sample(record: Record) -> Json:
    """What the container uses now, {} when it does not run; blocking."""
    pid = record.life.pid
    if not pid:
        return {}
    try:
        used = Cgroup.at(record.cgroup).stats()
        networks = parse_net_dev(Path(f"/proc/{pid}/net/dev").read_text())
    except (FileNotFoundError, ProcessLookupError):
        return {}
    system_ns, cpus = parse_system_cpu(Path("/proc/stat").read_text())
    rendered: Json = {
        "read": clock.now(),
        "pids_stats": _given(current=used.pids_current, limit=used.pids_limit),
        "blkio_stats": render_blkio(used),
        "num_procs": 0,
        "storage_stats": {},
        "cpu_stats": render_cpu(used.cpu, system_ns, cpus),
        "memory_stats": render_memory(used.memory, host_memory()),
    }
    # The host's interfaces count what everybody sends.
    return rendered if record.host.network_mode == "host" or not networks else {**rendered, "networks": networks}


def _empty() -> Json:
    """The sample of a container that does not run."""
    return {
        "read": clock.NEVER,
        "preread": clock.NEVER,
        "pids_stats": {},
        "blkio_stats": dict.fromkeys(_NO_BLKIO),
        "num_procs": 0,
        "storage_stats": {},
        "cpu_stats": _NO_CPU,
        "precpu_stats": _NO_CPU,
        "memory_stats": {},
    }


def render_cpu(used: CpuUse, system_ns: int, cpus: int) -> Json:
    """`cpu_stats`; the host's time is what the client compares with."""
    usage: Json = {
        "total_usage": used.total_ns,
        "usage_in_kernelmode": used.system_ns,
        "usage_in_usermode": used.user_ns,
    }
    if used.per_cpu_ns:
        usage["percpu_usage"] = list(used.per_cpu_ns)
    throttled = {
        "periods": used.periods,
        "throttled_periods": used.throttled_periods,
        "throttled_time": used.throttled_ns,
    }
    return {"cpu_usage": usage, "system_cpu_usage": system_ns, "online_cpus": cpus, "throttling_data": throttled}


def render_memory(used: MemoryUse, host_bytes: int) -> Json:
    """`memory_stats`; a group without a limit has the host's memory."""
    return {
        **_given(usage=used.usage, max_usage=used.peak, failcnt=used.failures),
        "stats": dict(used.details),
        "limit": min(used.limit, host_bytes),
    }


def render_blkio(used: CgroupStats) -> Json:
    """`blkio_stats`; what only one old scheduler counts is null, as in Docker."""
    return {
        **dict.fromkeys(_NO_BLKIO),
        "io_service_bytes_recursive": _entries(used.bytes_moved),
        "io_serviced_recursive": _entries(used.operations),
    }


def _entries(found: Iterable[BlockIo]) -> list[Json]:
    return [{"major": one.major, "minor": one.minor, "op": one.operation, "value": one.value} for one in found]


def _given(**values: int) -> Json:
    """Without zeros, as Go leaves them out."""
    return {key: value for key, value in values.items() if value}


def parse_net_dev(text: str) -> Json:
    """/proc/PID/net/dev: the counters of each interface but lo (proc_pid_net(5))."""
    found: Json = {}
    for line in text.splitlines()[2:]:
        name, colon, rest = line.partition(":")
        numbers = rest.split()
        if not colon or name.strip() == "lo" or len(numbers) < 12:
            continue
        received, sent = map(int, numbers[:4]), map(int, numbers[8:12])
        counters: Json = dict(zip(("rx_bytes", "rx_packets", "rx_errors", "rx_dropped"), received, strict=True))
        found[name.strip()] = counters | dict(zip(("tx_bytes", "tx_packets", "tx_errors", "tx_dropped"), sent, strict=True))
    return found


def parse_system_cpu(text: str) -> tuple[int, int]:
    """/proc/stat: nanoseconds of all processors in all states, and how many processors there are."""
    total, cpus = 0, 0
    for line in text.splitlines():
        words = line.split()
        if words and words[0] == "cpu":
            total = sum(map(int, words[1:8])) * _TICK_NS
        elif words and words[0].startswith("cpu"):
            cpus += 1
    return total, cpus


def host_memory() -> int:
    """Bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
