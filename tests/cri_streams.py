"""Clients of the streaming server, as blunt as a test needs them: SPDY and WebSocket, each over a connection of its own.

`EchoCommand` is a process that is not one: its streams are a socket that the test holds the other end of.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, BytesMessage, CloseConnection, Message, Request, TextMessage

from runtime.containers.monitor import Stream
from runtime.cri.streaming import spdy
from runtime.cri.streaming.commands import Command
from runtime.cri.streaming.remote import ended_with


@dataclass
class EchoCommand:
    """What a process does, by hand: `reader` is what it is told, `say` its output, in Docker's frames unless it has a terminal."""

    tty: bool = False
    code: int = 0
    sizes: list[tuple[int, int]] = field(default_factory=list)
    reader: asyncio.StreamReader = field(init=False)
    writer: asyncio.StreamWriter = field(init=False)
    begun: asyncio.Event = field(default_factory=asyncio.Event)

    async def begin(self) -> Command:
        ours, theirs = socket.socketpair()
        self.reader, self.writer = await asyncio.open_connection(sock=theirs)
        stream = Stream(*await asyncio.open_connection(sock=ours))
        self.begun.set()
        return Command(stream, self.tty, self._resize, self._outcome)

    async def _resize(self, height: int, width: int) -> None:
        self.sizes.append((height, width))

    async def _outcome(self) -> dict[str, Any]:
        return ended_with(self.code)

    def say(self, data: bytes, stream: int = 1) -> None:
        self.writer.write(data if self.tty else bytes((stream, 0, 0, 0)) + len(data).to_bytes(4, "big") + data)

    async def end(self) -> None:
        if self.begun.is_set():
            self.writer.close()
            with suppress(ConnectionError):
                await self.writer.wait_closed()


class SpdyPeer:
    """A client over SPDY: opens streams, keeps what comes on each."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.frames = spdy.Frames()
        self.got: dict[int, bytearray] = {}
        self.ended: set[int] = set()
        self.pings: list[int] = []
        self._next = 1

    def open(self, **headers: str) -> int:
        number, self._next = self._next, self._next + 2
        self.got[number] = bytearray()
        self.writer.write(self.frames.open(number, headers))
        return number

    def send(self, stream: int, data: bytes, *, is_last: bool = False) -> None:
        self.writer.write(spdy.data(stream, data, is_last=is_last))

    def said(self, stream: int) -> bytes:
        """What the server has said on it so far."""
        return bytes(self.got[stream])

    async def until_ended(self, *streams: int) -> None:
        """Read until the server has ended all of these."""
        while not self.ended.issuperset(streams):
            await self._read()

    async def until(self, stream: int, data: bytes) -> None:
        while self.said(stream) != data:
            await self._read()

    async def until_pinged(self) -> None:
        while not self.pings:
            await self._read()

    async def _read(self) -> None:
        data = await self.reader.read(65536)
        assert data, "the server has left"
        for event in self.frames.feed(data):
            match event:
                case spdy.Data(stream, payload, is_last):
                    self.got[stream] += payload
                    self.ended |= {stream} if is_last else set()
                case spdy.Pinged(number):
                    self.pings.append(number)
                case _:
                    pass


async def connect(url: str, headers: dict[str, str]) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, str]:
    """Send an upgrade request; returns the answer's head too."""
    target = urlsplit(url)
    reader, writer = await asyncio.open_connection(target.hostname, target.port)
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    writer.write(f"POST {target.path} HTTP/1.1\r\nHost: x\r\n{lines}\r\n".encode())
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    return reader, writer, head


@asynccontextmanager
async def spdy_peer(url: str, *protocols: str) -> AsyncIterator[SpdyPeer]:
    """A client over SPDY that offers these protocols."""
    offered = {"X-Stream-Protocol-Version": ", ".join(protocols)} if protocols else {}
    reader, writer, head = await connect(url, {"Connection": "Upgrade", "Upgrade": "SPDY/3.1", **offered})
    assert head.startswith("HTTP/1.1 101 "), head
    try:
        yield SpdyPeer(reader, writer)
    finally:
        writer.close()


class WebSocketPeer:
    """A client over WebSocket: messages as they are, by channel."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._socket = WSConnection(ConnectionType.CLIENT)
        self.got: dict[int, bytes] = {}
        self.protocol: str | None = None
        self.closed = False

    async def begin(self, url: str, *protocols: str) -> None:
        target = urlsplit(url)
        self._writer.write(self._socket.send(Request(host="x", target=target.path, subprotocols=list(protocols))))
        while self.protocol is None:
            await self.read()

    def send(self, channel: int, data: bytes) -> None:
        if "base64" in (self.protocol or ""):
            message: Message[Any] = TextMessage(data=f"{channel}{base64.b64encode(data).decode()}")
        else:
            message = BytesMessage(data=bytes((channel,)) + data)
        self._writer.write(self._socket.send(message))

    async def read(self) -> None:
        self._socket.receive_data(await self._reader.read(65536) or None)
        for event in self._socket.events():
            match event:
                case AcceptConnection():
                    self.protocol = event.subprotocol or ""
                case BytesMessage():
                    self._keep(event.data[0], bytes(event.data[1:]))
                case TextMessage():
                    self._keep(int(event.data[0]), base64.b64decode(event.data[1:]))
                case CloseConnection():
                    self.closed = True
                    self._writer.write(self._socket.send(event.response()))
                case _:
                    raise AssertionError(f"unexpected {event}")

    def _keep(self, channel: int, data: bytes) -> None:
        self.got[channel] = self.got.get(channel, b"") + data

    async def until_closed(self) -> dict[str, Any]:
        """The outcome, once the server has said goodbye."""
        while not self.closed:
            await self.read()
        outcome: dict[str, Any] = json.loads(self.got.get(3, b"{}"))
        return outcome


@asynccontextmanager
async def websocket_peer(url: str, *protocols: str) -> AsyncIterator[WebSocketPeer]:
    """A client over WebSocket that offers these protocols."""
    target = urlsplit(url)
    reader, writer = await asyncio.open_connection(target.hostname, target.port)
    peer = WebSocketPeer(reader, writer)
    try:
        await peer.begin(url, *protocols)
        yield peer
    finally:
        writer.close()


def noise(count: int) -> bytes:
    return os.urandom(count)
