"""HTTP/2 for gRPC calls, many over one connection (RFC 9113, by h2); must not know whom it reaches, nor how long one waits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from functools import partial

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import ConnectionTerminated, DataReceived, Event, ResponseReceived, StreamEnded, StreamReset, TrailersReceived
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes, Settings

from flanneld.etcd.call import Call, ConnectionLost, RpcError, Status

WINDOW = 1 << 20
"""Bytes that the peer may send before it hears that they have arrived: a list of 4,000 leases does not wait for us."""

_READ_SIZE = 1 << 16
_HEADERS = (("te", "trailers"), ("content-type", "application/grpc"), ("user-agent", "flanneld"))


class Connection:
    """HTTP/2 over a pair of streams, which it closes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, scheme: str, authority: str) -> None:
        """`scheme` and `authority`: how requests name the server (RFC 9113 §8.3.1)."""
        self._reader = reader
        self._writer = writer
        self._target = ((":scheme", scheme), (":authority", authority))
        self._calls: dict[int, Call] = {}
        self._news = asyncio.Event()
        self.error: RpcError | None = None
        """Why no call can be made any more."""
        self.heard_at = 0.0
        """The loop's time when anything last arrived."""
        self._h2 = _begin()
        self._flush()
        self._reading = asyncio.create_task(self._read())

    async def close(self) -> None:
        """End it in order; every call on it fails. It may be repeated."""
        if not self.error:
            self._h2.close_connection()
            self._flush()
        self.abort(RpcError(Status.UNAVAILABLE, "connection closed by us"))
        await asyncio.wait((self._reading,))

    def abort(self, why: RpcError) -> None:
        """End it without a word to the peer; every call on it fails."""
        self.error = self.error or why
        self._writer.transport.abort()
        for call in self._calls.values():
            call.end(self.error)
        self._calls.clear()
        self._news.set()

    @asynccontextmanager
    async def call(self, path: str, metadata: Iterable[tuple[str, str]]) -> AsyncIterator[Call]:
        """Make a call, which ends with the context. Raises RpcError."""
        while not self.error and self._h2.open_outbound_streams >= self._h2.remote_settings.max_concurrent_streams:
            await self._change()
        if self.error:
            raise self.error
        number = self._h2.get_next_available_stream_id()
        self._h2.send_headers(number, ((":method", "POST"), *self._target, (":path", path), *_HEADERS, *metadata))
        self._flush()
        call = self._calls[number] = Call(partial(self._send, number))
        try:
            yield call
        finally:
            self._forget(number)

    async def _send(self, number: int, data: bytes, last: bool) -> None:
        """Send on a call as much at a time as the peer allows: RFC 9113 §5.2."""
        while data and number in self._calls:
            room = min(self._h2.local_flow_control_window(number), self._h2.max_outbound_frame_size)
            if room <= 0:
                await self._change()
                continue
            self._h2.send_data(number, data[:room], end_stream=last and len(data) <= room)
            data = data[room:]
            self._flush()
        with suppress(OSError):  # `receive` says what has become of the call
            await self._writer.drain()

    async def _read(self) -> None:
        why = "connection lost"
        try:
            while data := await self._reader.read(_READ_SIZE):
                self.heard_at = asyncio.get_running_loop().time()
                for event in self._h2.receive_data(data):
                    self._take(event)
                self._flush()
                self._news.set()
        except OSError as error:
            why = (error.strerror or str(error)).lower()
        except ProtocolError as error:
            why = f"does not speak HTTP/2 as expected: {error}"
        finally:
            self.abort(ConnectionLost(why))

    def _take(self, event: Event) -> None:
        match event:
            case ConnectionTerminated():
                # RFC 9113 §6.8 lets calls that have begun end well; h2 does not.
                raise ConnectionAbortedError("is closing the connection")
            case ResponseReceived() | TrailersReceived() if call := self._calls.get(event.stream_id):
                call.headers_arrived(event.headers)
            case DataReceived():
                self._h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                if call := self._calls.get(event.stream_id):
                    call.data_arrived(event.data)
            case StreamEnded() if call := self._calls.pop(event.stream_id, None):
                call.ended()
            case StreamReset() if call := self._calls.pop(event.stream_id, None):
                call.end(RpcError(Status.UNAVAILABLE, f"broke off the call: HTTP/2 error {event.error_code}"))
            case _:
                pass  # settings, windows, pings: h2 has dealt with them

    def _forget(self, number: int) -> None:
        """No more of this call: the peer hears so, unless both sides have said all."""
        self._calls.pop(number, None)
        stream = self._h2.streams.get(number)
        if not self.error and stream and not stream.closed:
            self._h2.reset_stream(number, ErrorCodes.CANCEL)
            self._flush()
        self._news.set()

    async def _change(self) -> None:
        """Wait for anything to happen that may make room."""
        self._news.clear()
        await self._news.wait()

    def _flush(self) -> None:
        if (data := self._h2.data_to_send()) and not self.error:
            self._writer.write(data)


class _H2(H2Connection):
    MAX_CLOSED_STREAMS = 64  # by default, h2 remembers the last 65,536 in 8 MiB


def _begin() -> H2Connection:
    """Our side of a new connection: no pushes, and windows that do not stall a long list."""
    h2 = _H2(H2Configuration(client_side=True, header_encoding=None))
    h2.local_settings = Settings(
        client=True, initial_values={SettingCodes.ENABLE_PUSH: 0, SettingCodes.INITIAL_WINDOW_SIZE: WINDOW}
    )
    h2.initiate_connection()
    h2.increment_flow_control_window(WINDOW - 65_535)  # which is where it begins: RFC 9113 §6.9.2
    return h2
