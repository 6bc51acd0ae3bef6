"""What a container may use, from the API's terms to OCI's linux.resources; must not know who enforces it.

What the kernel does not offer here is left out; `check.py` is where users are told.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from typing import Any

from runtime.config import Resources, ThrottleDevice
from runtime.errors import InvalidParameter
from runtime.linux.controllers import Controllers, controllers

CPU_PERIOD_US = 100_000
"""Of the quota that --cpus becomes."""
UNLIMITED = -1


def resources(host: Resources, offered: Controllers | None = None) -> dict[str, Any]:
    """OCI's linux.resources without devices, only what is limited; raises InvalidParameter for a block device that is none."""
    offered = offered or controllers()
    parts = {
        "memory": _memory(host, offered),
        "cpu": _cpu(host, offered),
        "pids": {"limit": host.pids_limit if host.pids_limit > 0 else UNLIMITED} if host.pids_limit and offered.pids else {},
        "blockIO": _block_io(host, offered),
        "unified": dict(host.unified) if offered.version == 2 else {},
    }
    return {name: part for name, part in parts.items() if part}


def _memory(host: Resources, offered: Controllers) -> dict[str, Any]:
    swappiness = host.memory_swappiness
    wanted: dict[str, Any] = {}
    if host.memory and offered.memory:
        wanted["limit"] = host.memory
    if host.memory_reservation and offered.reservation:
        wanted["reservation"] = host.memory_reservation
    if swap := memory_and_swap(host) if offered.swap else 0:
        wanted["swap"] = swap
    if swappiness is not None and swappiness != UNLIMITED and offered.swappiness:
        wanted["swappiness"] = swappiness
    if host.oom_kill_disable and offered.oom_kill_disable:
        wanted["disableOOMKiller"] = True
    return wanted


def memory_and_swap(host: Resources) -> int:
    """Bytes of memory and swap together: twice the memory where nothing is said; -1: no limit, 0: not limited at all."""
    return host.memory_swap or (2 * host.memory if host.memory > 0 else 0)


def _cpu(host: Resources, offered: Controllers) -> dict[str, Any]:
    quota, period = host.cpu_quota, host.cpu_period
    if host.nano_cpus:
        quota, period = host.nano_cpus * CPU_PERIOD_US // 1_000_000_000, CPU_PERIOD_US
    wanted = {
        "shares": host.cpu_shares if offered.shares else 0,
        "quota": quota if offered.quota else 0,
        "period": period if offered.quota else 0,
        "realtimeRuntime": host.cpu_realtime_runtime if offered.realtime else 0,
        "realtimePeriod": host.cpu_realtime_period if offered.realtime else 0,
        "cpus": host.cpuset_cpus if offered.cpuset else "",
        "mems": host.cpuset_mems if offered.cpuset else "",
    }
    return {name: value for name, value in wanted.items() if value}


def _block_io(host: Resources, offered: Controllers) -> dict[str, Any]:
    wanted: dict[str, Any] = {}
    if offered.blkio_weight:
        weights = [_device(device.path) | {"weight": device.weight} for device in host.blkio_weight_device]
        wanted |= {"weight": host.blkio_weight, "weightDevice": weights}
    if offered.blkio_throttle:
        wanted |= {
            "throttleReadBpsDevice": _rates(host.blkio_device_read_bps),
            "throttleWriteBpsDevice": _rates(host.blkio_device_write_bps),
            "throttleReadIOPSDevice": _rates(host.blkio_device_read_iops),
            "throttleWriteIOPSDevice": _rates(host.blkio_device_write_iops),
        }
    return {name: value for name, value in wanted.items() if value}


def _rates(devices: Iterable[ThrottleDevice]) -> list[dict[str, int]]:
    return [_device(device.path) | {"rate": device.rate} for device in devices]


def _device(path: str) -> dict[str, int]:
    try:
        status = os.stat(path)
    except OSError as error:
        raise InvalidParameter(f"cannot use block device {path}: {os.strerror(error.errno or 0).lower()}") from error
    if not stat.S_ISBLK(status.st_mode):
        raise InvalidParameter(f"cannot use block device {path}: it is not one")
    return {"major": os.major(status.st_rdev), "minor": os.minor(status.st_rdev)}
