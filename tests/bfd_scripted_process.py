"""A BFD process that says what a test has it say, and writes down what it is told; and a client of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from pathlib import Path

from bgp.bfd import words
from bgp.bfd.client import BfdSpeaker
from bgp.bfd.packet import State
from bgp.bfd.service import BfdSettings
from bgp.bfd.settings import settings_for
from bgp.bfd.words import Hello, Report, Said, Standing
from flanneld.lease import IPAddress

WITHIN_S = 5.0
PEER, OTHER = IPv4Address("192.0.2.2"), IPv4Address("192.0.2.3")
WANTED: dict[IPAddress, BfdSettings] = {PEER: BfdSettings(IPv4Address("192.0.2.1"), 100, 3)}
UP, DOWN = Standing(State.UP), Standing(State.DOWN)


@dataclass
class Scene:
    """Both."""

    speaker: BfdSpeaker
    told: list[tuple[IPAddress, bool, str]] = field(default_factory=list)
    """What the client has called changes."""
    heard: list[Said] = field(default_factory=list)
    """What the process was told."""
    hello: Hello = field(default_factory=lambda: Hello("", ""))
    connections: int = 0
    writer: asyncio.StreamWriter | None = None
    stall_s: float = 0.0
    """For so long nobody else has the loop when it has greeted."""

    async def says(self, *said: Said | bytes) -> None:
        """Have the process say that, and the client hear it."""
        await self.until(lambda: self.writer is not None and self.heard)
        assert self.writer is not None
        self.writer.write(b"".join(one if isinstance(one, bytes) else words.encode(one) for one in said))
        await asyncio.sleep(0.02)

    async def reports(self, standing: Standing, peer: IPAddress = PEER) -> None:
        await self.says(Report({peer: standing}))

    async def until(self, look: Callable[[], object]) -> None:
        until = time.monotonic() + WITHIN_S
        while not look():
            assert time.monotonic() < until, (self.told, self.heard)
            await asyncio.sleep(0.005)

    async def hangs_up(self, life: str = "") -> None:
        """The connection is lost, and there is another; of the same process, unless it has another life."""
        self.hello = Hello(self.hello.settings, life or self.hello.life)
        assert self.writer is not None
        before, writer, self.writer = self.connections, self.writer, None
        self.heard.clear()
        writer.close()
        await self.until(lambda: self.connections > before and self.heard)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writer = writer
        self.connections += 1
        writer.write(words.encode(self.hello))
        time.sleep(self.stall_s)  # noqa: ASYNC251  # that is the point
        while line := await reader.readline():
            self.heard.append(words.decode(line))
        writer.close()


@asynccontextmanager
async def scripted(directory: Path) -> AsyncIterator[Scene]:
    """A client that runs, and what it is to find."""
    speaker = BfdSpeaker(directory)
    scene = Scene(speaker, hello=Hello(settings_for(directory, None, 120.0).name, "first"))
    speaker.changed = lambda *told: scene.told.append(told)
    server = await asyncio.start_unix_server(scene.serve, directory / "bfd.sock")
    running = asyncio.create_task(speaker.run())
    try:
        yield scene
        assert not running.done(), running
    finally:
        running.cancel()
        await asyncio.wait((running,))
        server.close()
        await asyncio.sleep(0.01)
