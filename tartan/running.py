"""Which flannelds run on this host, ours and Go's, and with which flags; must not know what is asked about them.

A host is a network namespace: a process of another one is none of its.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

NAME = "flanneld"
CLAIM = "@flanneld "
"""How /proc/net/unix shows the abstract sockets that a flanneld holds (flanneld.linux.lock)."""


@dataclass(frozen=True, slots=True)
class Running:
    """One flanneld."""

    pid: int
    arguments: tuple[str, ...]
    """After the program's name."""
    environ: Mapping[str, str] = field(repr=False)
    """Its FLANNELD_ variables."""


def running_here() -> tuple[Running, ...]:
    """Every flanneld in our network namespace, as far as we may see processes."""
    own = os.stat("/proc/thread-self/ns/net")
    found = []
    for entry in sorted(Path("/proc").glob("[0-9]*"), key=lambda path: int(path.name)):
        with suppress(OSError):  # it has ended meanwhile, or is not ours to look at
            if int(entry.name) != os.getpid() and os.path.samestat(os.stat(entry / "ns/net"), own):
                found += _read(entry)
    return tuple(found)


def _read(entry: Path) -> list[Running]:
    arguments = arguments_of((entry / "cmdline").read_bytes().decode(errors="replace").split("\0")[:-1])
    if arguments is None:
        return []
    pairs = (pair.partition("=") for pair in (entry / "environ").read_bytes().decode(errors="replace").split("\0"))
    return [Running(int(entry.name), arguments, {name: value for name, _, value in pairs if name.startswith("FLANNELD_")})]


def arguments_of(command: Sequence[str]) -> tuple[str, ...] | None:
    """What follows flanneld's name in a command line, be it a program or a script or module of python; None for another program."""
    for place, word in enumerate(command):
        if os.path.basename(word) == NAME:
            return tuple(command[place + 1 :])
        if place and not word.startswith("-"):
            return None
        if not place and not os.path.basename(word).startswith("python"):
            return None
    return None


def is_claimed() -> bool:
    """True if a flanneld of ours serves a network on this host, be its process visible or not."""
    with suppress(OSError):
        return any(CLAIM in line for line in Path("/proc/thread-self/net/unix").read_text(errors="replace").splitlines())
    return False
