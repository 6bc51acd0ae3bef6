"""A container's output as it was written down, and as it goes on; must not know what wrote it, nor how clients are given it.

Either format, recognised line by line; rotated files too. A reader that follows looks every 10 to 100 ms: rotation, truncation and
a log that is not there yet are then no cases of their own.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

from runtime.containers.log_files import LogFiles
from runtime.containers.log_lines import LogLine

__all__ = ["LogLine", "LogQuery", "read_logs"]

SHORTEST_S = 0.01
LONGEST_S = 0.1
"""Between two looks at a log that does not grow."""


@dataclass(frozen=True, slots=True)
class LogQuery:
    """What is asked of a log."""

    follow: bool = False
    """Go on until the container has ended and all is read."""
    since_ns: int = 0
    until_ns: int = 0
    """Nanoseconds since 1970, both included; 0: no such limit."""
    tail: int | None = None
    """The last so many lines, counted before anything else is left out, as Docker does; None: all."""
    stdout: bool = True
    stderr: bool = True

    def wants(self, line: LogLine) -> bool:
        """Whether it is of a wanted stream and not too old."""
        return (self.stdout if line.stream == 1 else self.stderr) and line.time_ns >= self.since_ns

    def is_over(self, time_ns: int) -> bool:
        """Whether nothing of that time or later is wanted."""
        return 0 < self.until_ns < time_ns


async def read_logs(path: Path, query: LogQuery, still_running: Callable[[], bool]) -> AsyncGenerator[LogLine, None]:
    """Lines in the order they were written, long ones in pieces (`LogLine.starts`); a log that does not exist is empty.

    Raises OSError. Closing the iterator lets go of the files.
    """
    files = LogFiles(path)
    try:
        await asyncio.to_thread(files.start, query.tail)
        async for lines in _batches(files, query, still_running):
            for line in lines:
                if query.is_over(line.time_ns):
                    return
                if query.wants(line):
                    yield line
    finally:
        await asyncio.to_thread(files.close)


async def _batches(files: LogFiles, query: LogQuery, still_running: Callable[[], bool]) -> AsyncIterator[list[LogLine]]:
    pause_s = SHORTEST_S
    while True:
        goes_on = query.follow and still_running() and not query.is_over(time.time_ns())  # before the read: then its end is the end
        if (lines := await asyncio.to_thread(files.read)) is not None:
            pause_s = SHORTEST_S
            yield lines
        elif goes_on:
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_S)
        else:
            yield files.finish()
            return
