"""RUN: a command in a container of the image so far, whose writable layer becomes its next one; must not know Dockerfiles."""

from __future__ import annotations

import asyncio
import codecs
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from runtime.config import CreateRequest, Healthcheck, HostConfig
from runtime.containers.origin import BUILD, Origin
from runtime.containers.waiting import Condition
from runtime.errors import EngineError

if TYPE_CHECKING:
    from runtime.containers.container import Container
    from runtime.containers.store import Containers
    from runtime.images.layers import Committed, Layers

_HEADER = 8
"""Bytes before each piece of output: stream, three zeros, length (big-endian)."""


class CommandFailed(EngineError):
    """A command of a build returned something else than 0."""

    def __init__(self, shown: str, code: int) -> None:
        super().__init__(f"The command '{shown}' returned a non-zero code: {code}")
        self.code = code


@dataclass(frozen=True, slots=True)
class Run:
    """One command."""

    image: str
    """Id of the image that it runs in."""
    parent: str
    """Chain id of that image's topmost layer."""
    argv: tuple[str, ...]
    env: tuple[str, ...]
    working_dir: str
    user: str
    host: HostConfig
    shown: str
    """What its failure is called by."""


class Listener(Protocol):
    """Who is told a command's output."""

    def say(self, text: str) -> None: ...

    async def room(self) -> None:
        """Wait until it can take more."""


class Runner:
    """Runs commands of one build, and says their output."""

    def __init__(self, containers: Containers, layers: Layers, listener: Listener) -> None:
        self._containers = containers
        self._layers = layers
        self._listener = listener

    async def run(self, run: Run, *, keep: bool, keep_failed: bool) -> Committed:
        """Run it and keep what it wrote; the container is removed unless it is to be kept. Raises CommandFailed, EngineError."""
        container = await self._create(run)
        self._listener.say(f" ---> Running in {container.id[:12]}\n")
        kept = keep_failed
        try:
            code = await self._execute(container)
            if code:
                raise CommandFailed(run.shown, code)
            committed = await asyncio.to_thread(self._layers.commit, container.upper, run.parent, move=not keep)
            kept = keep
        finally:
            if not kept:
                await asyncio.shield(self._containers.remove(container, force=True, volumes=True))
        if not keep:
            self._listener.say(f" ---> Removed intermediate container {container.id[:12]}\n")
        return committed

    async def _create(self, run: Run) -> Container:
        request = CreateRequest(
            image=run.image,
            cmd=run.argv,
            entrypoint=("",),
            env=run.env,
            working_dir=run.working_dir,
            user=run.user,
            healthcheck=Healthcheck(test=("NONE",)),
            attach_stdout=True,
            attach_stderr=True,
            host_config=run.host,
        )
        created = await self._containers.create("", request, Origin(kind=BUILD))
        return self._containers.find(created.id)

    async def _execute(self, container: Container) -> int:
        stream = await self._containers.attach(container, stdin=False, stdout=True, stderr=True)
        try:
            ended = self._containers.wait(container, Condition.NEXT_EXIT)
            await self._containers.start(container)
            decoders = {number: codecs.getincrementaldecoder("utf-8")("replace") for number in (1, 2)}
            async for number, data in frames(stream.reader):
                if text := decoders.get(number, decoders[1]).decode(data):
                    self._listener.say(text)
                await self._listener.room()
            return (await ended).code
        finally:
            stream.writer.close()


async def frames(reader: asyncio.StreamReader) -> AsyncIterator[tuple[int, bytes]]:
    """(stream, data) of a container's multiplexed output, to its end."""
    while True:
        try:
            header = await reader.readexactly(_HEADER)
            yield header[0], await reader.readexactly(int.from_bytes(header[4:], "big"))
        except asyncio.IncompleteReadError:
            return
