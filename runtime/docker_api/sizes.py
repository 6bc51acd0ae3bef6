"""How much a container or a volume occupies; must not know why somebody asks."""

from __future__ import annotations

import os
from pathlib import Path


def size_of(directory: Path) -> int:
    """Bytes of the files below, hard links counted once; what vanishes meanwhile does not count. Blocking."""
    seen: set[tuple[int, int]] = set()
    total = 0
    waiting = [str(directory)]
    while waiting:
        try:
            entries = list(os.scandir(waiting.pop()))
        except OSError:
            continue
        for entry in entries:
            try:
                status = entry.stat(follow_symlinks=False)
            except OSError:
                continue
            if entry.is_dir(follow_symlinks=False):
                waiting.append(entry.path)
            elif (status.st_dev, status.st_ino) not in seen:
                seen.add((status.st_dev, status.st_ino))
                total += status.st_size
    return total
