"""What is mounted where, as /proc/PID/mountinfo tells (proc(5)); must not know what for."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_ESCAPED = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class Mounted:
    """One line: `device` as st_dev has it, `target` as the process sees it."""

    device: int
    target: str
    kind: str
    options: frozenset[str]
    """Of the file system; a control group's are its controllers."""
    propagation: tuple[str, ...] = ()
    """shared:N, master:N; none: private."""


def parse_mountinfo(text: str) -> Iterator[Mounted]:
    """Lowest mount first, as the kernel lists them."""
    for line in text.splitlines():
        _, _, numbers, _, target, *rest = line.split(" ")
        dash = rest.index("-")
        kind, _, options = rest[dash + 1 :]
        major, minor = map(int, numbers.split(":"))
        propagation = tuple(rest[1:dash])
        yield Mounted(os.makedev(major, minor), _plain(target), kind, frozenset(options.split(",")), propagation)


def mounts_of(pid: int | None = None) -> tuple[Mounted, ...]:
    """What a process sees mounted, None: this thread; raises OSError (ESRCH, ENOENT: there is none)."""
    who = "thread-self" if pid is None else str(pid)
    return tuple(parse_mountinfo(Path("/proc", who, "mountinfo").read_text(errors="surrogateescape")))


def is_mounted(target: Path) -> bool:
    """Whether something is mounted at exactly this path, which has no symlinks in it; raises OSError."""
    return any(mounted.target == str(target) for mounted in mounts_of())


def _plain(text: str) -> str:
    return _ESCAPED.sub(lambda match: chr(int(match[1], 8)), text)
