"""A client over WebSocket: a byte in front of each message says which stream it is of (Kubernetes' channel.k8s.io protocols).

    0 stdin   1 stdout   2 stderr   3 error (the outcome)   4 resize   255 (version 5) the client ends the stream in the next byte

With base64 in its name a protocol has text messages: a digit, then base64. Must not know what streams are for.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import Sequence
from typing import Any

from wsproto import ConnectionType, WSConnection
from wsproto.connection import ConnectionState
from wsproto.events import AcceptConnection, BytesMessage, CloseConnection, Event, Ping, RejectConnection, Request, TextMessage
from wsproto.utilities import LocalProtocolError, RemoteProtocolError

from runtime.cri.streaming.remote import Inlet, outcome_text

READ = 64 << 10
PIECE = 32 << 10
"""Bytes of a message that we send."""
MOST_MESSAGE_BYTES = 1 << 20
STDIN, STDOUT, STDERR, ERROR, RESIZE, CLOSE = 0, 1, 2, 3, 4, 255
V5, V4, V1 = "v5.channel.k8s.io", "v4.channel.k8s.io", "channel.k8s.io"
BASE64_V4, BASE64_V1 = "v4.base64.channel.k8s.io", "base64.channel.k8s.io"
COMMANDS = (V5, V4, BASE64_V4, V1, BASE64_V1)
"""Versions for commands, best first."""
PORTS = (V4, BASE64_V4, V1, BASE64_V1)
LEAVE_S = 5.0
"""For a client to answer our goodbye."""


class WebSocketError(Exception):
    """The peer does not speak WebSocket as it should."""


class WebSocketLink:
    """A connection that has been switched to WebSocket; messages go to `inlets` by their channel."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._socket = WSConnection(ConnectionType.SERVER)
        self._message = bytearray()
        self.protocol = ""
        self.inlets: dict[int, Inlet] = {}
        self.gone = asyncio.Event()

    async def accept(self, headers: Sequence[tuple[bytes, bytes]], target: str, known: Sequence[str]) -> bool:
        """Answer the handshake, with the best protocol that both know ("" if the client names none); raises ConnectionError."""
        try:
            self._socket.initiate_upgrade_connection(list(headers), target)
            asked = next(iter(self._socket.events()))
        except (RemoteProtocolError, StopIteration):
            return False
        assert isinstance(asked, Request)  # noqa: S101 - a handshake brings nothing else
        offered = asked.subprotocols
        chosen = next((name for name in known if name in offered), None)
        if offered and chosen is None:
            await self._send(RejectConnection(status_code=403))
            return False
        self.protocol = chosen or V1
        await self._send(AcceptConnection(subprotocol=chosen))
        return True

    @property
    def is_base64(self) -> bool:
        return "base64" in self.protocol

    @property
    def version(self) -> int:
        return 5 if self.protocol == V5 else 4 if self.protocol in (V4, BASE64_V4) else 1

    async def run(self, first: bytes) -> None:
        """Read until the client leaves; raises ConnectionError, WebSocketError. `first` has come already."""
        try:
            data = first or await self._reader.read(READ)
            while data and not self.gone.is_set():
                self._socket.receive_data(data)
                for event in self._socket.events():
                    await self._take(event)
                data = b"" if self.gone.is_set() else await self._reader.read(READ)
        except RemoteProtocolError as error:
            raise WebSocketError(str(error)) from error
        finally:
            self.gone.set()
            for inlet in self.inlets.values():
                inlet.end()

    async def _take(self, event: object) -> None:
        match event:
            case Ping():
                await self._send(event.response())
            case CloseConnection():
                self.gone.set()
                if self._socket.state is ConnectionState.REMOTE_CLOSING:
                    await self._send(event.response())
            case BytesMessage() | TextMessage():
                self._message += event.data.encode() if isinstance(event.data, str) else event.data
                if len(self._message) > MOST_MESSAGE_BYTES:
                    raise WebSocketError(f"a message of more than {MOST_MESSAGE_BYTES} bytes")
                if event.message_finished:
                    whole = bytes(self._message)
                    self._message.clear()
                    await self._sort(whole)
            case _:
                pass

    async def _sort(self, message: bytes) -> None:
        if not message:
            return
        channel, data = message[0], message[1:]
        if self.is_base64:
            try:
                channel, data = channel - ord("0"), base64.b64decode(data)
            except binascii.Error as error:
                raise WebSocketError(f"no base64: {error}") from error
        if channel == CLOSE and self.version == 5 and data:
            if data[0] in self.inlets:
                self.inlets[data[0]].end()
        elif channel in self.inlets:
            await self.inlets[channel].feed(data)

    async def send(self, channel: int, data: bytes) -> None:
        """Send it in one message at least; raises ConnectionError."""
        for start in range(0, len(data) or 1, PIECE):
            piece = data[start : start + PIECE]
            if self.is_base64:
                await self._send(TextMessage(data=f"{channel}{base64.b64encode(piece).decode()}"))
            else:
                await self._send(BytesMessage(data=bytes((channel,)) + piece))

    async def leave(self) -> None:
        """Say goodbye, and wait a moment for the answer; raises ConnectionError."""
        if not self.gone.is_set():
            await self._send(CloseConnection(code=1000))
            try:
                await asyncio.wait_for(self.gone.wait(), LEAVE_S)
            except TimeoutError:
                return

    async def _send(self, event: Event) -> None:
        try:
            data = self._socket.send(event)
        except LocalProtocolError as error:
            raise ConnectionResetError("the client has left") from error
        self._writer.write(data)
        await self._writer.drain()


class WebSocketRemote:
    """A command's client."""

    def __init__(self, link: WebSocketLink, *, wants_stdin: bool) -> None:
        self._link = link
        self.stdin, self.sizes = Inlet(), Inlet()
        link.inlets.update({STDIN: self.stdin, RESIZE: self.sizes})
        if not wants_stdin:
            self.stdin.drop()

    async def greet(self, *, stdout: bool) -> None:
        """Say that the command's streams are there, as Kubernetes does: with nothing in the first of its outputs."""
        await self._link.send(STDOUT if stdout else STDERR, b"")

    async def stdout(self, data: bytes) -> None:
        await self._link.send(STDOUT, data)

    async def stderr(self, data: bytes) -> None:
        await self._link.send(STDERR, data)

    async def finish(self, outcome: dict[str, Any]) -> None:
        text = outcome_text(outcome, is_json=self._link.version >= 4)
        if text:
            await self._link.send(ERROR, text)
        await self._link.leave()
