"""Word of it when a file is opened by anybody: inotify(7) through ctypes; must not know which file, or why."""

from __future__ import annotations

import ctypes
import os
import select
from pathlib import Path
from typing import Self

IN_OPEN = 0x20
IN_CLOEXEC, IN_NONBLOCK = os.O_CLOEXEC, os.O_NONBLOCK
MOST_BYTES = 4096
_libc = ctypes.CDLL(None, use_errno=True)


class Openings:
    """Tells of each time that a file is opened after this was made. For one thread, but for `wake`."""

    def __init__(self, path: Path) -> None:
        """Raises OSError."""
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._notices = -1
        try:
            self._notices = _checked(_libc.inotify_init1(IN_CLOEXEC | IN_NONBLOCK), path)
            _checked(_libc.inotify_add_watch(self._notices, os.fsencode(path), IN_OPEN), path)
        except BaseException:
            self.close()
            raise

    def wait(self) -> bool:
        """Return when somebody opens the file (true) or calls `wake` (false)."""
        poll = select.poll()
        for descriptor in (self._notices, self._wake):
            poll.register(descriptor, select.POLLIN)
        ready = {descriptor for descriptor, _ in poll.poll()}
        if self._notices in ready:
            os.read(self._notices, MOST_BYTES)
        return self._notices in ready

    def wake(self) -> None:
        """Have `wait` return, now or next time."""
        os.eventfd_write(self._wake, 1)

    def close(self) -> None:
        for descriptor in (self._notices, self._wake):
            if descriptor >= 0:
                os.close(descriptor)
        self._notices = self._wake = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _checked(result: int, path: Path) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), str(path))
    return result
