"""One step of something long that a client watches: a pull, a push, a load, a build; must not know how it is shown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Progress:
    """A line of Docker's progress streams; a field that says nothing is empty."""

    status: str = ""
    """"Downloading", "Pull complete", "Digest: sha256:.."."""
    id: str = ""
    """Of the layer (12 digits) or tag that the status is about."""
    current: int = 0
    """Bytes done; 0 with `total` 0: no bar is shown."""
    total: int = 0
    """Bytes to do; 0: unknown."""
    stream: str = ""
    """Text for people, with its line feed: "Loaded image: busybox:latest"."""
    aux: Mapping[str, Any] | None = None
    """Facts for programs: a push's digest, a build's image id."""
    code: int = 0
    """With an error: what a build's command returned."""
    error: str = ""
    """Why it ended early; the last line."""
