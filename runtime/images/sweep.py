"""Takes away blobs and layers that no image needs, unless somebody is about to need them; must not know what images are.

There are no counters of references to go wrong: what is needed is asked for, and the rest goes. Leases put that off: while one is
held nothing goes, and what should have gone meanwhile goes at the end of the last.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from runtime.images.content import Content
from runtime.images.layers import Layers
from runtime.linux.trees import discard_tree


@dataclass(frozen=True, slots=True)
class Needed:
    """What must stay."""

    digests: frozenset[str]
    chains: frozenset[str]
    """With what they stand upon."""


class Sweeper:
    """Of one store."""

    def __init__(self, content: Content, layers: Layers, temporary: Path, needed: Callable[[], Needed]) -> None:
        self._content = content
        self._layers = layers
        self._temporary = temporary
        self._needed = needed
        self._lock = threading.Lock()
        self._leases = 0
        self._is_due = False

    @contextmanager
    def lease(self) -> Iterator[None]:
        """Everything that is here, or comes within the context, stays until its end."""
        with self._lock:
            self._leases += 1
        try:
            yield
        finally:
            with self._lock:
                self._leases -= 1
                trash = self._put_aside() if self._is_due else None
            if trash is not None:
                # Whoever held the lease need not wait for a thousand files to be deleted.
                threading.Thread(target=discard_tree, args=(trash,), name="sweep", daemon=True).start()

    def sweep(self) -> None:
        """Take away what is not needed, now or at the end of the last lease. Blocking."""
        with self._lock:
            trash = self._put_aside()
        if trash is not None:
            discard_tree(trash)

    def _put_aside(self) -> Path | None:
        """What is not needed is out of the store after this, which is quick; the files lie at the path returned."""
        self._is_due = self._leases > 0
        if self._is_due:
            return None
        needed = self._needed()
        trash = self._temporary / f"trash-{os.urandom(16).hex()}"
        trash.mkdir(mode=0o700)
        for chain in self._layers.unneeded(needed.chains):
            self._layers.discard(chain, trash)
        for digest in set(self._content.digests()) - needed.digests:
            with suppress(FileNotFoundError):
                os.rename(self._content.path(digest), trash / digest)
        self._content.drop_stale()
        return trash
