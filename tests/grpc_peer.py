"""A gRPC server for tests, on h2 as our client is, that does with a call what a test wants: most of which no etcd would do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from struct import pack
from typing import TypeAlias

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, Event, RequestReceived, StreamEnded, StreamReset
from h2.settings import SettingCodes

LOOPBACK = "127.0.0.1"
HEADERS = ((":status", "200"), ("content-type", "application/grpc"))
Script: TypeAlias = Callable[["Peer", int, bytes], None]
"""What happens when a call has said all: the peer, the stream's number, and the bytes that the client sent."""


class Peer:
    """One client's connection, as the server sees it."""

    def __init__(self, writer: asyncio.StreamWriter, script: Script, settings: dict[SettingCodes | int, int]) -> None:
        self.h2 = H2Connection(H2Configuration(client_side=False, header_encoding="utf-8"))
        self.events: list[Event] = []
        self.writer = writer
        self._script = script
        self._asked: dict[int, bytes] = {}
        self._unsent: list[tuple[int, bytes]] = []
        self.h2.initiate_connection()
        self.h2.update_settings(settings)
        self.flush()

    def received(self, data: bytes) -> None:
        for event in self.h2.receive_data(data):
            self.events.append(event)
            match event:
                case RequestReceived():
                    self._asked[event.stream_id] = b""
                case DataReceived():
                    self._asked[event.stream_id] += event.data
                    self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                case StreamEnded():
                    self._script(self, event.stream_id, self._asked[event.stream_id])
        self.flush()

    def answer(self, stream: int, message: bytes, *, status: int = 0, words: str = "") -> None:
        """A whole answer: headers, one message, a status."""
        self.h2.send_headers(stream, HEADERS)
        self.send(stream, pack(">?I", False, len(message)) + message)
        self.finish(stream, status, words)

    def send(self, stream: int, data: bytes) -> None:
        """As much as fits into a frame, again and again; more than the client's window fails, so tests stay below it."""
        for at in range(0, len(data), self.h2.max_outbound_frame_size):
            self.h2.send_data(stream, data[at : at + self.h2.max_outbound_frame_size])

    def finish(self, stream: int, status: int = 0, words: str = "") -> None:
        self.h2.send_headers(stream, (("grpc-status", str(status)), ("grpc-message", words)), end_stream=True)

    def flush(self) -> None:
        self.writer.write(self.h2.data_to_send())

    def resets(self) -> list[int]:
        """The streams that the client has broken off."""
        return [event.stream_id for event in self.events if isinstance(event, StreamReset)]


@asynccontextmanager
async def grpc_peer(script: Script, settings: dict[SettingCodes | int, int] | None = None) -> AsyncIterator[tuple[int, list[Peer]]]:
    """Its port, and the connections that it has had."""
    peers: list[Peer] = []

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = Peer(writer, script, settings or {})
        peers.append(peer)
        try:
            while data := await reader.read(1 << 16):
                peer.received(data)
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(connected, LOOPBACK, 0)
    async with server:
        yield server.sockets[0].getsockname()[1], peers
