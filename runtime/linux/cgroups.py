"""Reading control groups wherever they are mounted: v1 controller by controller, v2, or both at once (cgroups(7)).

Must not know how limits are set, which the OCI runtime does, nor what runs in a group.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Self

from runtime.linux.cgroup_files import (
    BlockIo,
    CpuUse,
    MemoryUse,
    parse_blkio_v1,
    parse_cpu_v1,
    parse_cpu_v2,
    parse_io_v2,
    parse_limit,
    parse_number,
    parse_pairs,
)
from runtime.linux.mountinfo import Mounted, mounts_of

V2 = ""
"""The unified hierarchy, among v1's controllers."""
_LISTS_PROCESSES = ("pids", "memory", "devices", "freezer", "cpu", V2)
"""Hierarchies that an OCI runtime puts a container into, the surest first; v2 last: in a hybrid it may be left out."""


@dataclass(frozen=True, slots=True)
class CgroupStats:
    """What a group has used."""

    version: int
    """1 or 2: of the hierarchy that accounts for memory."""
    cpu: CpuUse
    memory: MemoryUse
    pids_current: int = 0
    pids_limit: int = 0
    bytes_moved: tuple[BlockIo, ...] = ()
    operations: tuple[BlockIo, ...] = ()


def mounted_here() -> Mapping[str, Path]:
    """Where each controller is mounted, as this thread sees it; raises OSError."""
    return _mounted_in(os.stat("/proc/thread-self/ns/mnt").st_ino)


@lru_cache(maxsize=16)
def _mounted_in(_namespace: int) -> Mapping[str, Path]:
    # Controllers stay where they are, and the table of mounts is as long as there are containers.
    return hierarchies(mounts_of())


def hierarchies(mounts: Iterable[Mounted]) -> dict[str, Path]:
    """Where each controller is mounted; v2 by the name ""."""
    found: dict[str, Path] = {}
    for mounted in mounts:
        if mounted.kind == "cgroup2":
            found.setdefault(V2, Path(mounted.target))
        elif mounted.kind == "cgroup":
            for option in mounted.options:
                found.setdefault(option, Path(mounted.target))
    return found


@dataclass(frozen=True, slots=True)
class Cgroup:
    """One group in all hierarchies."""

    directories: Mapping[str, Path] = field(repr=False)
    """By controller; v2: ""."""

    @classmethod
    def at(cls, path: str, mounts: Iterable[Mounted] | None = None) -> Self:
        """The group of this absolute path in each hierarchy, as an OCI runtime takes `cgroupsPath`; raises OSError."""
        inner = PurePosixPath("/", path).relative_to("/")
        places = mounted_here() if mounts is None else hierarchies(mounts)
        return cls({name: where / inner for name, where in places.items()})

    def exists(self) -> bool:
        """Whether any hierarchy has it."""
        return any(directory.is_dir() for directory in self.directories.values())

    def remove(self) -> bool:
        """Remove it from every hierarchy; False: something is left in it, a process or a group. Nothing happens when it is gone."""
        for directory in dict.fromkeys(self.directories.values()):
            try:
                directory.rmdir()
            except FileNotFoundError:
                pass
            except OSError:
                return False
        return True

    def processes(self) -> list[int]:
        """Everything in it and below, ascending; empty when it is gone."""
        for name in _LISTS_PROCESSES:
            if name in self.directories and (found := _processes(self.directories[name])):
                return sorted(found)
        return []

    def oom_kills(self) -> int:
        """How many of its processes the kernel has killed for want of memory."""
        file = "memory.oom_control" if self._is_v1("memory") else "memory.events"
        return parse_pairs(self._read("memory", file)).get("oom_kill", 0)

    def stats(self) -> CgroupStats:
        """What it has used; all zero when it is gone."""
        moved, done = self._block_io()
        return CgroupStats(
            version=1 if self._is_v1("memory") else 2,
            cpu=self._cpu(),
            memory=self._memory(),
            pids_current=parse_number(self._read("pids", "pids.current")),
            pids_limit=parse_number(self._read("pids", "pids.max")),
            bytes_moved=moved,
            operations=done,
        )

    def _cpu(self) -> CpuUse:
        if not self._is_v1("cpuacct"):
            return parse_cpu_v2(self._read("cpu", "cpu.stat"))
        usage, per_cpu, times = (self._read("cpuacct", f"cpuacct.{file}") for file in ("usage", "usage_percpu", "stat"))
        return parse_cpu_v1(usage, per_cpu, times, self._read("cpu", "cpu.stat"))

    def _memory(self) -> MemoryUse:
        details = parse_pairs(self._read("memory", "memory.stat"))
        if not self._is_v1("memory"):
            return MemoryUse(
                usage=parse_number(self._read("memory", "memory.current")),
                limit=parse_limit(self._read("memory", "memory.max")),
                failures=parse_pairs(self._read("memory", "memory.events")).get("oom", 0),
                details=details,
            )
        return MemoryUse(
            usage=parse_number(self._read("memory", "memory.usage_in_bytes")),
            peak=parse_number(self._read("memory", "memory.max_usage_in_bytes")),
            limit=parse_limit(self._read("memory", "memory.limit_in_bytes")),
            failures=parse_number(self._read("memory", "memory.failcnt")),
            details=details,
        )

    def _block_io(self) -> tuple[tuple[BlockIo, ...], tuple[BlockIo, ...]]:
        """Bytes and operations; with v1 of the throttling layer, which counts under any scheduler."""
        if not self._is_v1("blkio"):
            text = self._read("io", "io.stat")
            return parse_io_v2(text, "rbytes", "wbytes"), parse_io_v2(text, "rios", "wios")
        moved, done = (self._read("blkio", f"blkio.throttle.{what}_recursive") for what in ("io_service_bytes", "io_serviced"))
        return parse_blkio_v1(moved), parse_blkio_v1(done)

    def _is_v1(self, controller: str) -> bool:
        return controller in self.directories

    def _read(self, controller: str, file: str) -> str:
        """A file's text, "" when there is none; of v2 where v1 has not got the controller."""
        directory = self.directories.get(controller) or self.directories.get(V2)
        try:
            return (directory / file).read_text() if directory else ""
        except OSError:  # ENODEV too: the group was removed while we had the file open
            return ""


def _processes(directory: Path) -> set[int]:
    found: set[int] = set()
    with suppress(FileNotFoundError):  # a group below has ended meanwhile
        for file in directory.rglob("cgroup.procs"):
            with suppress(OSError):  # EOPNOTSUPP: v2's groups of threads alone, whose processes are listed above them
                found.update(map(int, file.read_text().split()))
    return found
