"""A second thread that makes what a first one consumes, a few pieces ahead: decompressing and hashing beside the writing of files;
must not know what the pieces are.
"""

from __future__ import annotations

from collections.abc import Iterator
from queue import Queue
from threading import Event, Thread
from types import TracebackType
from typing import Self

AHEAD = 8


class ReadAhead(Iterator[bytes]):
    """What the iterator gives, made in a thread of its own; what it raises is raised here. Leave it before closing the source."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._queue: Queue[bytes | BaseException | None] = Queue(AHEAD)
        self._stopped = Event()
        self._thread = Thread(target=self._make, name="read-ahead", daemon=True)

    def _make(self) -> None:
        try:
            for chunk in self._chunks:
                self._queue.put(chunk)
                if self._stopped.is_set():
                    return
            self._queue.put(None)
        except BaseException as error:  # whatever it is, the other thread has to hear of it
            self._queue.put(error)

    def __next__(self) -> bytes:
        found = self._queue.get()
        if isinstance(found, bytes):
            return found
        self._queue.put(found)  # for whoever asks again
        if found is None:
            raise StopIteration
        raise found

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stopped.set()
        while self._thread.is_alive():
            while not self._queue.empty():
                self._queue.get_nowait()
            self._thread.join(0.01)
