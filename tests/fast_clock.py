"""Runs a program with a faster clock: by `python fast_clock.py 60 python -P -m flanneld --flag` ten minutes pass in ten seconds.

Its time, its sleeping and its limits are all compressed alike; the world's are not.
"""

from __future__ import annotations

import asyncio
import runpy
import selectors
import sys
import time


class FastSelector(selectors.EpollSelector):
    """Waits for real seconds what is asked for in compressed ones."""

    factor = 1.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        return super().select(None if timeout is None else timeout / self.factor)


class FastPolicy(asyncio.DefaultEventLoopPolicy):
    def new_event_loop(self) -> asyncio.AbstractEventLoop:
        return asyncio.SelectorEventLoop(FastSelector())


def main() -> None:
    """argv: the factor, then the program's own command line as `python -P -m MODULE ARGUMENT..`."""
    factor = float(sys.argv[1])
    module = sys.argv.index("-m") + 1
    real_time, real_monotonic, began_time, began = time.time, time.monotonic, time.time(), time.monotonic()
    time.time = lambda: began_time + (real_time() - began_time) * factor
    time.monotonic = lambda: began + (real_monotonic() - began) * factor
    FastSelector.factor = factor
    asyncio.set_event_loop_policy(FastPolicy())
    name, sys.argv = sys.argv[module], sys.argv[module:]
    runpy.run_module(name, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
