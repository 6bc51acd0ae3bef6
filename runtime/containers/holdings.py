"""What a running container holds of its host, each thing with how it is given back; must not know what the things are."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

from flanneld.log import Log
from runtime.errors import EngineError

log = Log(__name__)


class Holdings:
    """Given back once, in two lines that do not wait for each other; within a line the last is the first."""

    def __init__(self) -> None:
        self.process = AsyncExitStack()
        """The process and all that it sees of files."""
        self.network = AsyncExitStack()

    async def give_back(self) -> None:
        """Give everything back; what cannot be is logged, and left for the engine's next start."""
        await asyncio.gather(give_back(self.process), give_back(self.network))


async def give_back(line: AsyncExitStack) -> None:
    """Give one line back; what cannot be is logged."""
    try:
        await line.aclose()
    except (EngineError, OSError) as error:
        log.error("not given back by a container", why=f"{type(error).__name__}: {error}")
