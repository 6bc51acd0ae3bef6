"""What the files of control groups say, v1 and v2, as values: kernel's Documentation/admin-guide/cgroup-v1/ and cgroup-v2.rst.

Pure; must not know where the files are. A file that is empty or was not there reads as nothing used.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

UNLIMITED = (1 << 64) - 1
"""What Docker says where a group has no limit of its own."""
_TICK_NS = 10_000_000  # USER_HZ is 100 on every architecture
_US = 1000


@dataclass(frozen=True, slots=True)
class CpuUse:
    """Processor time in nanoseconds since the group was made."""

    total_ns: int = 0
    user_ns: int = 0
    system_ns: int = 0
    per_cpu_ns: tuple[int, ...] = ()
    """v1 alone knows."""
    periods: int = 0
    throttled_periods: int = 0
    throttled_ns: int = 0


@dataclass(frozen=True, slots=True)
class MemoryUse:
    """Bytes, with what belongs to the page cache."""

    usage: int = 0
    peak: int = 0
    """v1 alone, as Docker has it."""
    limit: int = UNLIMITED
    failures: int = 0
    """How often the limit was hit."""
    details: Mapping[str, int] = field(default_factory=dict)
    """memory.stat: the keys that `docker stats` subtracts are total_inactive_file (v1) and inactive_file (v2)."""


@dataclass(frozen=True, slots=True)
class BlockIo:
    """Bytes or operations of one kind on one device."""

    major: int
    minor: int
    operation: str
    value: int


def parse_pairs(text: str) -> dict[str, int]:
    """A "key value" a line; lines of another shape are left out."""
    words = (line.split() for line in text.splitlines())
    return {pair[0]: int(pair[1]) for pair in words if len(pair) == 2 and pair[1].isdecimal()}


def parse_limit(text: str) -> int:
    """A number or "max"; v1 writes a huge number, a multiple of the page size, for none."""
    text = text.strip()
    return int(text) if text.isdecimal() else UNLIMITED


def parse_number(text: str) -> int:
    """A number alone; nothing: 0."""
    text = text.strip()
    return int(text) if text.isdecimal() else 0


def parse_cpu_v1(usage: str, per_cpu: str, times: str, throttling: str) -> CpuUse:
    """cpuacct.usage, cpuacct.usage_percpu, cpuacct.stat and cpu.stat."""
    ticks, held = parse_pairs(times), parse_pairs(throttling)
    return CpuUse(
        total_ns=parse_number(usage),
        user_ns=ticks.get("user", 0) * _TICK_NS,
        system_ns=ticks.get("system", 0) * _TICK_NS,
        per_cpu_ns=tuple(map(int, per_cpu.split())),
        periods=held.get("nr_periods", 0),
        throttled_periods=held.get("nr_throttled", 0),
        throttled_ns=held.get("throttled_time", 0),
    )


def parse_cpu_v2(text: str) -> CpuUse:
    """cpu.stat, which is in microseconds."""
    found = parse_pairs(text)
    return CpuUse(
        total_ns=found.get("usage_usec", 0) * _US,
        user_ns=found.get("user_usec", 0) * _US,
        system_ns=found.get("system_usec", 0) * _US,
        periods=found.get("nr_periods", 0),
        throttled_periods=found.get("nr_throttled", 0),
        throttled_ns=found.get("throttled_usec", 0) * _US,
    )


def parse_blkio_v1(text: str) -> tuple[BlockIo, ...]:
    """blkio.*: "8:0 Read 4096" a line; the sum over all devices at the end is left out."""
    return tuple(_blkio_v1(text))


def _blkio_v1(text: str) -> Iterator[BlockIo]:
    for words in map(str.split, text.splitlines()):
        if len(words) == 3 and ":" in words[0]:
            major, minor = map(int, words[0].split(":"))
            yield BlockIo(major, minor, words[1], int(words[2]))


def parse_io_v2(text: str, read: str, write: str) -> tuple[BlockIo, ...]:
    """io.stat: "8:0 rbytes=4096 wbytes=0 ..." a line; the values of these two keys, by Docker's names read and write."""
    return tuple(_io_v2(text, {"read": read, "write": write}))


def _io_v2(text: str, keys: Mapping[str, str]) -> Iterator[BlockIo]:
    for device, *words in filter(None, map(str.split, text.splitlines())):
        major, minor = map(int, device.split(":"))
        values = dict(word.split("=", 1) for word in words if "=" in word)
        for operation, key in keys.items():
            yield BlockIo(major, minor, operation, int(values.get(key, "0")))
