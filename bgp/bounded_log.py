"""A log file that never grows beyond a bound; must not know who writes."""

from __future__ import annotations

import io
import os
from pathlib import Path

MOST_BYTES = 1 << 20


class BoundedLog(io.TextIOBase):
    """A file that is appended to; when it is too long, its second half stays."""

    def __init__(self, path: Path, most_bytes: int = MOST_BYTES) -> None:
        """Raises OSError."""
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._most_bytes = most_bytes

    def fileno(self) -> int:
        return self._descriptor

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        """Others may write to the descriptor at the same time; what they write while the file is cut may be lost."""
        size = os.fstat(self._descriptor).st_size
        if size > self._most_bytes:
            rest = os.pread(self._descriptor, size, size - self._most_bytes // 2)
            os.ftruncate(self._descriptor, 0)
            os.write(self._descriptor, rest[rest.find(b"\n") + 1 :])
        os.write(self._descriptor, text.encode(errors="backslashreplace"))
        return len(text)
