"""exabgp of the bgp backend, which outlives its daemon for a while, with what it keeps."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator
from functools import partial

from bgp.speaker.farewell import Found, part_with, speakers_here
from tartan.leftovers import Leftover


def speakers() -> Iterator[Leftover]:
    """One for each exabgp that runs here."""
    for found in speakers_here():
        yield Leftover(
            f"exabgp of the bgp backend, process {found.pid}", partial(_remove, found), f"its state in {found.directory}"
        )


def _remove(found: Found) -> None:
    asyncio.run(part_with(found))
    shutil.rmtree(found.directory, ignore_errors=True)
