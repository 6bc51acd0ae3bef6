"""What steps made before: a step on the same image that says the same and brings the same files makes the same image; must not know
how steps are done.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

KEPT = 10_000
"""Steps remembered; the oldest are forgotten first."""


def step_key(parent: str, *parts: str) -> str:
    """What a step is found by: the image it stands on, and all that decides what it makes."""
    return hashlib.sha256("\0".join((parent, *parts)).encode()).hexdigest()


class BuildCache:
    """Keys of steps -> ids of the images that they made; a file, read once and rewritten whole."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._made: dict[str, str] = {}
        with suppress(OSError, ValueError):
            self._made = json.loads(file.read_text())

    def find(self, key: str, is_there: Callable[[str], bool]) -> str | None:
        """The image that the step made, if it is still there."""
        image = self._made.get(key)
        return image if image is not None and is_there(image) else None

    def remember(self, key: str, image: str) -> None:
        """The step has made that image."""
        self._made.pop(key, None)
        self._made[key] = image
        while len(self._made) > KEPT:
            del self._made[next(iter(self._made))]
        self._write()

    def clear(self) -> list[str]:
        """Forget everything; returns the keys."""
        keys = list(self._made)
        self._made.clear()
        self._write()
        return keys

    def _write(self) -> None:
        """Losing it costs time, not truth: it is renamed into place, and not synced."""
        written = self._file.with_name(f"{self._file.name}.new")
        written.write_text(json.dumps(self._made))
        os.replace(written, self._file)
