"""exabgp and BFD of the bgp backend, which outlive their daemon for a while, with what they keep."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Iterator
from functools import partial

from bgp.bfd import client
from bgp.bfd.settings import MODULE
from bgp.process import Found, running_here
from bgp.speaker import farewell
from tartan.leftovers import Leftover


def speakers() -> Iterator[Leftover]:
    """One for each process that runs here; BFD first, by which neighbours know that nothing has failed."""
    for found in running_here(MODULE):
        yield _leftover("bfd", found, _end_bfd)
    for found in farewell.speakers_here():
        yield _leftover("exabgp", found, _end_exabgp)


def _leftover(what: str, found: Found, remove: Callable[[Found], None]) -> Leftover:
    return Leftover(f"{what} of the bgp backend, process {found.pid}", partial(remove, found), f"its state in {found.directory}")


def _end_bfd(found: Found) -> None:
    asyncio.run(client.part_with(found))
    for path in found.directory.glob("bfd.*"):  # exabgp is to be found by what else is there
        path.unlink(missing_ok=True)


def _end_exabgp(found: Found) -> None:
    asyncio.run(farewell.part_with(found))
    shutil.rmtree(found.directory, ignore_errors=True)
