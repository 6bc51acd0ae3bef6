"""Whether what a container may use makes sense and can be had here, in Docker's words; must not know how it is enforced."""

from __future__ import annotations

import os

from runtime.config import Resources
from runtime.errors import InvalidParameter
from runtime.linux.controllers import Controllers, parse_numbers

LEAST_MEMORY = 6 << 20
"""Bytes; with less no container starts."""
_GONE = "capabilities or the cgroup is not mounted."


def check_resources(host: Resources, offered: Controllers, *, update: bool = False) -> list[str]:
    """What will be left out, in sentences; raises InvalidParameter. An update may set swap without memory."""
    _check_memory(host, offered, update=update)
    _check_cpu(host)
    _check_cpuset(host.cpuset_cpus, offered.cpus, "cpuset cpus", "CPUs")
    _check_cpuset(host.cpuset_mems, offered.nodes, "cpuset mems", "memory nodes")
    if host.blkio_weight and not 10 <= host.blkio_weight <= 1000:
        raise InvalidParameter("Range of blkio weight is from 10 to 1000")
    return [*_memory_warnings(host, offered), *_other_warnings(host, offered)]


def _check_memory(host: Resources, offered: Controllers, *, update: bool) -> None:
    swap, memory = host.memory_swap, host.memory
    if 0 < memory < LEAST_MEMORY:
        raise InvalidParameter("Minimum memory limit allowed is 6MB")
    if memory > 0 and 0 < swap < memory:
        raise InvalidParameter("Minimum memoryswap limit should be larger than memory limit, see usage")
    if memory == 0 and swap > 0 and not update and offered.swap:
        raise InvalidParameter("You should always set the Memory limit when using Memoryswap limit, see usage")
    if host.memory_swappiness is not None and not -1 <= host.memory_swappiness <= 100:
        raise InvalidParameter(f"Invalid value: {host.memory_swappiness}, valid memory swappiness range is 0-100")
    if 0 < host.memory_reservation < LEAST_MEMORY:
        raise InvalidParameter("Minimum memory reservation allowed is 6MB")
    if 0 < memory < host.memory_reservation:
        raise InvalidParameter("Minimum memory limit can not be less than memory reservation limit, see usage")


def _check_cpu(host: Resources) -> None:
    if host.nano_cpus and host.cpu_period:
        raise InvalidParameter("Conflicting options: Nano CPUs and CPU Period cannot both be set")
    if host.nano_cpus and host.cpu_quota:
        raise InvalidParameter("Conflicting options: Nano CPUs and CPU Quota cannot both be set")
    available = os.cpu_count() or 1
    if not 0 <= host.nano_cpus <= available * 1_000_000_000:
        raise InvalidParameter(f"range of CPUs is from 0.01 to {available:.2f}, as there are only {available} CPUs available")
    if host.cpu_period and not 1000 <= host.cpu_period <= 1_000_000:
        raise InvalidParameter("CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)")
    if 0 < host.cpu_quota < 1000:
        raise InvalidParameter("CPU cfs quota can not be less than 1ms (i.e. 1000)")
    if host.cpu_shares < 0:
        raise InvalidParameter(f"invalid CPU shares ({host.cpu_shares}): value must be a positive integer")


def _check_cpuset(text: str, available: frozenset[int], what: str, kind: str) -> None:
    try:
        wanted = parse_numbers(text)
    except ValueError as error:
        raise InvalidParameter(f"Invalid value {text} for {what}") from error
    if available and not wanted <= available:
        listed = ",".join(map(str, sorted(available)))
        raise InvalidParameter(f"Requested {kind} are not available - requested {text}, available: {listed}")


def _memory_warnings(host: Resources, offered: Controllers) -> list[str]:
    warnings = []
    if host.memory and not offered.memory:
        warnings.append(f"Your kernel does not support memory limit {_GONE} Limitation discarded.")
    if host.memory > 0 and host.memory_swap != -1 and not offered.swap:
        warnings.append(f"Your kernel does not support swap limit {_GONE} Memory limited without swap.")
    if host.memory_swappiness not in (None, -1) and not offered.swappiness:
        warnings.append(f"Your kernel does not support memory swappiness {_GONE} Memory swappiness discarded.")
    if host.memory_reservation and not offered.reservation:
        warnings.append(f"Your kernel does not support memory soft limit {_GONE} Limitation discarded.")
    if host.oom_kill_disable and not offered.oom_kill_disable:
        warnings.append("Your kernel does not support OomKillDisable. OomKillDisable discarded.")
    elif host.oom_kill_disable and not host.memory:
        warnings.append(
            "OOM killer is disabled for the container, but no memory limit is set, this can result in the system running out of "
            "resources."
        )
    return warnings


def _other_warnings(host: Resources, offered: Controllers) -> list[str]:
    discarded = (
        (host.pids_limit and not offered.pids, f"PIDs limit {_GONE} PIDs limit discarded."),
        (host.cpu_shares and not offered.shares, "CPU shares or the cgroup is not mounted. Shares discarded."),
        ((host.cpu_quota or host.nano_cpus) and not offered.quota, "CPU cfs quota or the cgroup is not mounted. Quota discarded."),
        ((host.cpu_realtime_runtime or host.cpu_realtime_period) and not offered.realtime, "CPU real-time scheduling. Discarded."),
        ((host.cpuset_cpus or host.cpuset_mems) and not offered.cpuset, "cpuset or the cgroup is not mounted. Cpuset discarded."),
        (
            (host.blkio_weight or host.blkio_weight_device) and not offered.blkio_weight,
            "Block I/O weight or the cgroup is not mounted. Weight discarded.",
        ),
        (
            (
                host.blkio_device_read_bps
                or host.blkio_device_write_bps
                or host.blkio_device_read_iops
                or host.blkio_device_write_iops
            )
            and not offered.blkio_throttle,
            "Block I/O limits or the cgroup is not mounted. Limits discarded.",
        ),
    )
    return [f"Your kernel does not support {what}" for missing, what in discarded if missing]
