"""How much of a disk directories take: measured by going through them, and not more often than is worth it; must not know whose."""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from cri_api.v1 import api_pb2 as cri

FRESH_S = 10.0
"""How long a measurement is good, as a kubelet's own."""
SHARE = 50
"""It is good for so many times the time it took, too: large trees are gone through rarely."""
_BLOCK = 512
"""Of st_blocks (stat(2))."""


@dataclass(frozen=True, slots=True)
class Used:
    """Of some directories."""

    bytes: int
    inodes: int
    time_ns: int
    """When it was measured."""


class DiskUsage:
    """What was measured, by directories. Those that are gone are forgotten after a while."""

    def __init__(self) -> None:
        self._known: dict[tuple[Path, ...], tuple[Used, float]] = {}
        """With the time until which it is good."""

    async def of(self, *directories: Path) -> Used:
        """Of these together."""
        known = self._known.get(directories)
        now = time.monotonic()
        if known and known[1] > now:
            return known[0]
        found = await asyncio.to_thread(measure, *directories)
        spent = time.monotonic() - now
        self._known = {key: each for key, each in self._known.items() if each[1] > now - FRESH_S}
        self._known[directories] = (found, now + max(FRESH_S, SHARE * spent))
        return found


def measure(*directories: Path) -> Used:
    """Go through these trees; what goes meanwhile is not counted. Blocks."""
    used = inodes = 0
    waiting = [str(directory) for directory in directories]
    while waiting:
        with suppress(OSError), os.scandir(waiting.pop()) as entries:
            for entry in entries:
                with suppress(OSError):
                    used += entry.stat(follow_symlinks=False).st_blocks * _BLOCK
                    inodes += 1
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
    return Used(used, inodes, time.time_ns())


def filesystem_usage(mountpoint: Path, used: Used) -> cri.FilesystemUsage:
    """In CRI's terms."""
    return cri.FilesystemUsage(
        timestamp=used.time_ns,
        fs_id=cri.FilesystemIdentifier(mountpoint=str(mountpoint)),
        used_bytes=cri.UInt64Value(value=used.bytes),
        inodes_used=cri.UInt64Value(value=used.inodes),
    )
