"""What flanneld and Go flannel leave on a host, one file per kind: each finds, and says how to remove, what is flannel's only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Leftover:
    """One thing that is flannel's, as it was found."""

    what: str
    """In words."""
    remove: Callable[[], object] = field(compare=False, repr=False)
    """Succeeds when it has gone meanwhile; raises FlanneldError, OSError."""
    known_by: str = ""
    """What tells it from another program's, where its name does not."""
