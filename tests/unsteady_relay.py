"""A TCP relay in the test's own loop, before a server on loopback: late, cut off, or cut at a chosen moment; it reads nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

LOOPBACK = "127.0.0.1"
CHUNK = 1 << 16


@dataclass
class UnsteadyRelay:
    """What it is to do, which may change at any time."""

    to: int
    """The server's port."""
    port: int = 0
    delay_s: float = 0.0
    """How late each piece of an answer is; the pieces do not wait for one another."""
    pieces_left: int | None = None
    """After so many pieces of answers all connections are cut, once, with what was to come; None: they are not."""
    pieces: int = 0
    """Of answers, handed on so far."""
    _closed: bool = False
    _open: set[asyncio.StreamWriter] = field(default_factory=set)

    def cut(self, *, closed: bool = False) -> None:
        """End all connections in the middle of whatever they carry; `closed`: end new ones at once, until `reopen`."""
        self._closed = closed
        for writer in self._open:
            writer.transport.abort()
        self._open.clear()

    def reopen(self) -> None:
        self._closed = False

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            if self._closed:
                return writer.transport.abort()
            there, out = await asyncio.open_connection(LOOPBACK, self.to)
            self._open |= {writer, out}
            try:
                await asyncio.gather(self._forward(reader, out), self._back(there, writer))
            finally:
                self._open -= {writer, out}
                writer.transport.abort()
                out.transport.abort()
        return None

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(CHUNK):
            writer.write(data)
        writer.transport.abort()

    async def _back(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        while data := await reader.read(CHUNK):
            if self.pieces_left == 0:
                self.pieces_left = None
                return self.cut()
            self.pieces_left = self.pieces_left and self.pieces_left - 1
            self.pieces += 1
            loop.call_later(self.delay_s, _write, writer, data)
        loop.call_later(self.delay_s, writer.transport.abort)
        return None


def _write(writer: asyncio.StreamWriter, data: bytes) -> None:
    if not writer.is_closing():
        writer.write(data)


@asynccontextmanager
async def unsteady_relay(to: int) -> AsyncIterator[UnsteadyRelay]:
    """A relay to that port of loopback, on a free one."""
    relay = UnsteadyRelay(to)
    server = await asyncio.start_server(relay.accept, LOOPBACK, 0)
    relay.port = server.sockets[0].getsockname()[1]
    try:
        yield relay
    finally:
        server.close()
        relay.cut(closed=True)
        await server.wait_closed()
