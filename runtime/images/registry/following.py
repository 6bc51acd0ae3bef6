"""A blob as a file that can be read while it is still being downloaded; must not know who downloads it.

Read in a thread, which waits for what has not come yet.
"""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Callable
from pathlib import Path
from threading import Condition

from runtime.images.content import Content

LOOK_S = 1.0
"""How often a reader looks by itself."""


class Growth:
    """A file that grows elsewhere: where it is, and news of more."""

    def __init__(self) -> None:
        self.path: Path | None = None
        """None: nothing has come yet."""
        self._news = Condition()

    def grew(self) -> None:
        """Wake readers: there is more, or another file, or an end."""
        with self._news:
            self._news.notify_all()

    def wait(self) -> None:
        """Return when there may be more."""
        with self._news:
            self._news.wait(LOOK_S)


class Following(io.RawIOBase):
    """A blob's bytes from the first to the last, each as soon as it is here.

    A reader gets OSError ECANCELED after `abandon`, and ESTALE when the download began anew: what was read may be wrong.
    """

    def __init__(self, content: Content, digest: str, growth: Growth, read: Callable[[int], None]) -> None:
        super().__init__()
        self._content = content
        self._digest = digest
        self._growth = growth
        self._read = read
        self._file: io.FileIO | None = None
        self._taken = 0
        self._is_abandoned = False

    def readable(self) -> bool:
        return True

    def abandon(self) -> None:
        """Let the reader go; from any thread."""
        self._is_abandoned = True
        self._growth.grew()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        super().close()

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # typeshed's Buffer is narrower at run time
        while not self._is_abandoned:
            is_whole = self._content.has(self._digest)  # before reading: what is written after it is not missed
            if self._file is None:
                self._open()
            count = self._file.readinto(buffer) if self._file is not None else 0
            if count:
                self._taken += count
                self._read(self._taken)
                return count
            if is_whole and self._file is not None:
                self._check_same(self._file)
                return 0
            self._growth.wait()
        raise OSError(errno.ECANCELED, os.strerror(errno.ECANCELED))

    def _open(self) -> None:
        """The part first: it becomes the whole, not the other way round."""
        for path in (self._growth.path, self._content.path(self._digest)):
            try:
                if path is not None:
                    self._file = io.FileIO(path)
                    return
            except FileNotFoundError:
                continue

    def _check_same(self, file: io.FileIO) -> None:
        if os.fstat(file.fileno()).st_ino != self._content.path(self._digest).stat().st_ino:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
