"""Who lives in given namespaces, and their end; must not know labs."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import TypeAlias

from lab import LabError

NamespaceId: TypeAlias = tuple[int, int]
"""Device and inode of a namespace's file, which tell namespaces apart (namespaces(7))."""

MANNERS_S = 2.0
"""How long SIGTERM may take before SIGKILL."""
PATIENCE_S = 10.0
"""How long the kernel may take to end a killed process."""


def end_inhabitants(files: Iterable[Path]) -> None:
    """End each process whose net, UTS or mount namespace is one of these files, and no other; files of another kind are no matter.

    Raises LabError if one outlives SIGKILL. The caller's own process is spared.
    """
    device = Path("/proc/self/ns/net").stat().st_dev
    namespaces = {(at.st_dev, at.st_ino) for path in files if (at := path.stat()).st_dev == device}
    polite, patient = time.monotonic() + MANNERS_S, time.monotonic() + MANNERS_S + PATIENCE_S
    left = _signal(namespaces, signal.SIGTERM)
    while left:
        time.sleep(0.01)
        now = time.monotonic()
        left = _signal(namespaces, None if now < polite else signal.SIGKILL)
        if now > patient:
            raise LabError(f"process {', '.join(map(str, left))} does not end after SIGKILL")


def _signal(namespaces: Collection[NamespaceId], number: signal.Signals | None) -> list[int]:
    """Send a signal, if any, to all inhabitants; returns their process ids."""
    found = []
    for pid in [int(entry) for entry in os.listdir("/proc") if entry.isdigit()]:
        try:
            handle = os.pidfd_open(pid)
        except OSError:
            continue
        try:
            # With the handle open the number cannot become another process's between the look and the signal.
            if pid != os.getpid() and _lives_in(pid, namespaces):
                found.append(pid)
                if number is not None:
                    signal.pidfd_send_signal(handle, number)
        except ProcessLookupError:
            pass
        finally:
            os.close(handle)
    return found


def _lives_in(pid: int, namespaces: Collection[NamespaceId]) -> bool:
    for kind in ("net", "uts", "mnt"):
        try:
            at = os.stat(f"/proc/{pid}/ns/{kind}")
        except OSError:  # it has ended, or is a zombie
            return False
        if (at.st_dev, at.st_ino) in namespaces:
            return True
    return False
