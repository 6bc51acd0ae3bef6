"""Which resource controls the kernel offers here, by the files of its control groups (v1, v2 and both at once).

Must not know what a container asks for.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from runtime.linux.mountinfo import mounts_of

CGROUPS = Path("/sys/fs/cgroup")
_UNIFIED_OPTIONS = frozenset(
    ("favordynmods", "memory_hugetlb_accounting", "memory_localevents", "memory_recursiveprot", "nsdelegate", "pids_localevents")
)


@dataclass(frozen=True, slots=True)
class Controllers:
    """What can be controlled: each False is something to leave out, with a warning."""

    version: int
    """Of the hierarchy that has the memory controller: 1 or 2."""
    memory: bool
    swap: bool
    reservation: bool
    swappiness: bool
    oom_kill_disable: bool
    shares: bool
    quota: bool
    realtime: bool
    cpuset: bool
    pids: bool
    blkio_weight: bool
    blkio_throttle: bool
    cpus: frozenset[int] = frozenset()
    """That a cpuset may name; empty: not known."""
    nodes: frozenset[int] = frozenset()
    options: tuple[str, ...] = ()
    """Of version 2 itself, the same wherever it is mounted: a mount without them in the host's namespace takes them from all."""


@cache
def controllers(root: Path = CGROUPS) -> Controllers:
    """Look once; what is mounted does not change while an engine runs."""
    unified = root / "cgroup.controllers"
    return _version_2(root, frozenset(unified.read_text().split())) if unified.exists() else _version_1(root)


def _version_1(root: Path) -> Controllers:
    def has(file: str) -> bool:
        return (root / file).exists()

    return Controllers(
        version=1,
        memory=has("memory/memory.limit_in_bytes"),
        swap=has("memory/memory.memsw.limit_in_bytes"),
        reservation=has("memory/memory.soft_limit_in_bytes"),
        swappiness=has("memory/memory.swappiness"),
        oom_kill_disable=has("memory/memory.oom_control"),
        shares=has("cpu/cpu.shares"),
        quota=has("cpu/cpu.cfs_quota_us"),
        realtime=has("cpu/cpu.rt_runtime_us"),
        cpuset=has("cpuset/cpuset.cpus"),
        pids=has("pids/cgroup.procs"),
        blkio_weight=has("blkio/blkio.weight") or has("blkio/blkio.bfq.weight"),
        blkio_throttle=has("blkio/blkio.throttle.read_bps_device"),
        cpus=_numbers(root / "cpuset/cpuset.effective_cpus"),
        nodes=_numbers(root / "cpuset/cpuset.effective_mems"),
    )


def _version_2(root: Path, offered: frozenset[str]) -> Controllers:
    return Controllers(
        version=2,
        memory="memory" in offered,
        swap="memory" in offered and _swap_is_accounted(root),
        reservation="memory" in offered,
        swappiness=False,
        oom_kill_disable=False,
        shares="cpu" in offered,
        quota="cpu" in offered,
        realtime=False,
        cpuset="cpuset" in offered,
        pids="pids" in offered,
        blkio_weight="io" in offered,
        blkio_throttle="io" in offered,
        cpus=_numbers(root / "cpuset.cpus.effective"),
        nodes=_numbers(root / "cpuset.mems.effective"),
        options=_options(root),
    )


def _options(root: Path) -> tuple[str, ...]:
    found = (mounted.options for mounted in mounts_of() if (mounted.target, mounted.kind) == (str(root), "cgroup2"))
    return tuple(sorted(_UNIFIED_OPTIONS & next(found, frozenset())))


def _swap_is_accounted(root: Path) -> bool:
    """By a group that memory is accounted in: the root, which has no limits, does not tell."""
    for group in root.iterdir():
        if (group / "memory.max").exists():
            return (group / "memory.swap.max").exists()
    return os.path.exists("/proc/swaps")


def _numbers(path: Path) -> frozenset[int]:
    try:
        return parse_numbers(path.read_text().strip())
    except (OSError, ValueError):
        return frozenset()


def parse_numbers(text: str) -> frozenset[int]:
    """The numbers of a list like "0-2,7" (cpuset(7)); raises ValueError."""
    found: set[int] = set()
    for part in text.split(",") if text else ():
        first, dash, last = part.partition("-")
        if not (first.isdecimal() and (last.isdecimal() or not dash)):
            raise ValueError(f"expected a list of numbers, got {text!r}")
        low, high = int(first), int(last or first)
        if not low <= high < 1 << 16:
            raise ValueError(f"expected an ascending range below 65536, got {part!r}")
        found.update(range(low, high + 1))
    return frozenset(found)
