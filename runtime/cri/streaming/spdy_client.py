"""A client over SPDY: its streams by what they say they are, and the writing of all of them on one connection.

Must not know what a stream is for beyond its name. Frames are read by `run`, everything else waits for what it brings.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

from runtime.cri.streaming import spdy
from runtime.cri.streaming.remote import Inlet, outcome_text

READ = 64 << 10
PIECE = 32 << 10
"""Bytes of a data frame that we send: other streams get their turn between two."""
STREAMS_WITHIN_S = 30.0
"""A client makes its streams at once; Kubernetes' own server waits as long."""
MOST_STREAMS = 1024
"""Open at a time on one connection."""


class SpdyStream:
    """One of a client's streams; what comes is in `inlet`."""

    def __init__(self, link: SpdyLink, number: int, headers: Mapping[str, str]) -> None:
        self._link = link
        self._number = number
        self.headers = headers
        self.inlet = Inlet()
        self.is_reset = asyncio.Event()
        self._ended = False

    async def send(self, data: bytes) -> None:
        """Raises ConnectionError."""
        for start in range(0, len(data), PIECE):
            if self._ended or self.is_reset.is_set():
                return
            await self._link.write(spdy.data(self._number, data[start : start + PIECE]))

    async def end(self) -> None:
        """Nothing more comes from us; a second call does nothing. Raises ConnectionError."""
        if not self._ended and not self.is_reset.is_set():
            self._ended = True
            await self._link.write(spdy.data(self._number, b"", is_last=True))
        self._link.forget(self._number)

    def heard_reset(self) -> None:
        """The client does not want it any more."""
        self.is_reset.set()
        self.inlet.drop()


class SpdyLink:
    """A connection that has been switched to SPDY."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._frames = spdy.Frames()
        self._streams: dict[int, SpdyStream] = {}
        self._opened: asyncio.Queue[SpdyStream | None] = asyncio.Queue()
        self._last = 0

    async def run(self, first: bytes) -> None:
        """Read until the client leaves; raises ConnectionError, SpdyError. `first` has come already."""
        try:
            data = first or await self._reader.read(READ)
            while data:
                for event in self._frames.feed(data):
                    await self._take(event)
                data = await self._reader.read(READ)
        finally:
            for stream in self._streams.values():
                stream.heard_reset()
            self._opened.put_nowait(None)

    async def _take(self, event: spdy.Event) -> None:
        match event:
            case spdy.Opened():
                await self._open(event)
            case spdy.Data(number, data, is_last):
                stream = self._streams.get(number)
                if stream is not None:
                    await stream.inlet.feed(data)
                    if is_last:
                        stream.inlet.end()
            case spdy.Reset(number):
                if stream := self._streams.pop(number, None):
                    stream.heard_reset()
            case spdy.Pinged(number) if number % 2:
                await self.write(spdy.ping(number))
            case _:
                pass

    async def _open(self, event: spdy.Opened) -> None:
        if len(self._streams) >= MOST_STREAMS or event.stream <= self._last:
            await self.write(spdy.reset(event.stream, spdy.REFUSED))
            return
        self._last = event.stream
        stream = self._streams[event.stream] = SpdyStream(self, event.stream, event.headers)
        if event.is_last:
            stream.inlet.end()
        await self.write(self._frames.reply(event.stream))
        self._opened.put_nowait(stream)

    async def streams(self) -> AsyncIterator[SpdyStream]:
        """The client's streams as it opens them, until it leaves."""
        while (stream := await self._opened.get()) is not None:
            yield stream

    async def write(self, frame: bytes) -> None:
        """Raises ConnectionError."""
        self._writer.write(frame)
        await self._writer.drain()

    def forget(self, number: int) -> None:
        """Neither side is interested in that stream any more."""
        if stream := self._streams.pop(number, None):
            stream.inlet.drop()

    async def leave(self) -> None:
        """Say goodbye; raises ConnectionError."""
        await self.write(spdy.go_away(self._last))


class SpdyRemote:
    """A command's client: one stream for each of error, stdin, stdout, stderr and resize, as far as they are wanted."""

    def __init__(self, link: SpdyLink, version: int) -> None:
        self._link = link
        self._version = version
        self._streams: dict[str, SpdyStream] = {}

    @property
    def stdin(self) -> Inlet:
        return self._inlet("stdin")

    @property
    def sizes(self) -> Inlet:
        return self._inlet("resize")

    def _inlet(self, name: str) -> Inlet:
        if name in self._streams:
            return self._streams[name].inlet
        nothing = Inlet()
        nothing.end()
        return nothing

    async def gather(self, wanted: set[str]) -> None:
        """Wait for the streams that a client opens; raises ConnectionError, TimeoutError when one does not come."""
        missing = set(wanted)
        async with asyncio.timeout(STREAMS_WITHIN_S):
            async for stream in self._link.streams():
                name = stream.headers.get("streamtype", "")
                self._streams[name] = stream
                missing.discard(name)
                if not missing:
                    return
        raise ConnectionResetError("the client has left before its streams were there")

    async def stdout(self, data: bytes) -> None:
        await self._send("stdout", data)

    async def stderr(self, data: bytes) -> None:
        await self._send("stderr", data)

    async def _send(self, name: str, data: bytes) -> None:
        if name in self._streams:
            await self._streams[name].send(data)

    async def finish(self, outcome: dict[str, Any]) -> None:
        text = outcome_text(outcome, is_json=self._version >= 4)
        await self._send("error", text)
        for name in ("stdout", "stderr", "error", "stdin", "resize"):
            if name in self._streams:
                await self._streams[name].end()
        await self._link.leave()
