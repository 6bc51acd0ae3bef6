"""One client's connection over HTTP/1.1 (RFC 9112), parsed by h11: requests one after the other, their answers in every kind that
`exchange.py` has; must not know what is asked.

A client half-closes and still listens: the end of what it sends never ends an answer. That it has left is seen by the socket's
hang-up, which the kernel reports for a Unix socket only once both directions are closed.
"""

from __future__ import annotations

import asyncio
import select
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from http import HTTPStatus
from typing import Any

import h11
import msgspec

from runtime.docker_api.errors import error_line, error_response
from runtime.docker_api.exchange import Bytes, Empty, Headers, Hijack, Json, Later, Lines, Query, Request, Response, Text
from runtime.docker_api.iterating import closing
from runtime.docker_api.target import split_target
from runtime.errors import InvalidParameter

HEAD_LIMIT = 64 * 1024
"""Bytes of a request's head."""
CHUNK = 256 * 1024
"""Bytes read at once, and of an answer that may wait for a slow client."""
IDLE_S = 600.0
"""A connection without a request for so long is closed."""
PATIENCE_S = 60.0
"""For a request's head once it has begun, and for a client that does not read its short answer."""
SKIPPED = 256 * 1024
"""Bytes of a body nobody wants that are read so that the connection can be used again, as in Go's server."""
LINGER_S = 2.0
"""For a client that still sends to notice our answer, before the connection is closed under it."""
JSON_TYPE = ("Content-Type", "application/json")


class ClientGone(ConnectionError):
    """Nobody is there any more to be answered."""


class Connection:
    """A client and what it asks; `answer` never raises."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        answer: Callable[[Request], Awaitable[Response]],
        headers: Headers,
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._answer = answer
        self._headers = headers
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_LIMIT)
        self.is_working = False
        """A handler is at work, which is not to be interrupted half-way."""
        self.is_last = False
        """No request is taken after the present one."""

    async def converse(self) -> None:
        """Serve requests until the client leaves or there can be no next one."""
        with suppress(ConnectionError, TimeoutError, h11.LocalProtocolError):
            while await self._exchange():
                self._http.start_next_cycle()
            await self._linger()

    async def _exchange(self) -> bool:
        """One request and its answer: whether another may follow."""
        try:
            head = await self._next_head()
        except h11.RemoteProtocolError as error:
            await self._respond(Json({"message": str(error)}, error.error_status_hint), close=True)
            return False
        if head is None:
            return False
        request = _request_of(head, self._body())
        self.is_working = True
        try:
            response = await self._answer(request)
        finally:
            self.is_working = False
        if isinstance(response, Hijack):
            await self._hand_over(response, request)
            return False
        await self._respond(response, head_only=head.method == b"HEAD")
        return not self.is_last and self._http.our_state is h11.DONE and self._http.their_state is h11.DONE

    async def _next_head(self) -> h11.Request | None:
        """The next request's head, None when there is none; raises h11.RemoteProtocolError."""
        if not self._http.trailing_data[0]:
            async with asyncio.timeout(IDLE_S):
                self._http.receive_data(await self._reader.read(CHUNK))
        async with asyncio.timeout(PATIENCE_S):
            event = await self._next_event()
        return event if isinstance(event, h11.Request) else None

    async def _next_event(self) -> h11.Event | type[h11.NEED_DATA | h11.PAUSED]:
        while (event := self._http.next_event()) is h11.NEED_DATA:
            self._http.receive_data(await self._reader.read(CHUNK))
        return event

    async def _body(self) -> AsyncIterator[bytes]:
        """The present request's body; raises InvalidParameter when it is cut off or not well-formed."""
        if self._http.they_are_waiting_for_100_continue:
            await self._send(h11.InformationalResponse(status_code=100, headers=[], reason=b"Continue"))
        try:
            while isinstance(event := await self._next_event(), h11.Data):
                yield bytes(event.data)
        except h11.RemoteProtocolError as error:
            raise InvalidParameter(f"request body: {error}") from error

    async def _respond(self, response: Response, *, head_only: bool = False, close: bool = False) -> None:
        match response:
            case Json():
                try:
                    body = msgspec.json.encode(response.document) + b"\n"
                except (TypeError, ValueError, RecursionError) as error:
                    await self._respond(error_response(error), head_only=head_only, close=close)
                    return
                await self._whole(response.status, (JSON_TYPE, *response.headers), b"" if head_only else body, close=close)
            case Text():
                body = b"" if head_only else response.text.encode()
                headers = (("Content-Type", "text/plain; charset=utf-8"), *response.headers)
                await self._whole(response.status, headers, body, close=close)
            case Empty():
                await self._whole(response.status, response.headers, b"", close=close)
            case Later():
                async with self._while_present():
                    await self._later(response)
            case Lines():
                parts = _lines(response.documents)
                await self._stream(Bytes(parts, "application/json", at_once=response.at_once), tell=_error_as_line)
            case Bytes():
                await self._stream(response)

    async def _whole(self, status: int, headers: Headers, body: bytes, *, close: bool) -> None:
        """An answer that is there as a whole."""
        close = not await self._skip_body() or close
        length = () if status in (204, 304) else (("Content-Length", str(len(body))),)
        async with asyncio.timeout(PATIENCE_S):
            await self._send(self._head(status, (*headers, *length, *((("Connection", "close"),) if close else ()))))
            if body:
                await self._send(h11.Data(data=body))
            await self._send(h11.EndOfMessage())

    async def _later(self, response: Later) -> None:
        await self._skip_body()
        await self._send(self._head(200, (JSON_TYPE,)))
        try:
            document = await response.document()
        except Exception as error:
            document = error_line(error)
        await self._send(h11.Data(data=msgspec.json.encode(document) + b"\n"))
        await self._send(h11.EndOfMessage())

    async def _stream(self, response: Bytes, tell: Callable[[Exception], bytes] | None = None) -> None:
        """Send parts as they come. A failure before the first is an answer of its own; later `tell` says it, or it is cut."""
        async with self._while_present(), closing(response.parts) as parts:
            first = b""
            if not response.at_once:
                try:
                    first = await anext(parts, b"")
                except Exception as error:
                    await self._respond(error_response(error))
                    return
            await self._send(self._head(200, (("Content-Type", response.content_type), *response.headers)))
            if first:
                await self._send(h11.Data(data=first))
            try:
                async for part in parts:
                    await self._send(h11.Data(data=part))
            except ConnectionError:
                raise
            except Exception as error:
                if tell is None:
                    raise ClientGone(error_line(error)["error"]) from error  # the cut is what tells the client
                await self._send(h11.Data(data=tell(error)))
            await self._send(h11.EndOfMessage())
        await self._skip_body()  # else the connection would be closed, unannounced, under the client's next request

    async def _hand_over(self, response: Hijack, request: Request) -> None:
        """Leave HTTP: 101 to who asked for it, 200 to older clients, which take what follows as the connection's own bytes too."""
        try:
            await self._skip_body()
            self._writer.write(self._farewell(response.content_type, request.header("upgrade")))
            await self._writer.drain()
        except BaseException:
            response.unused()
            raise
        source = _Rest(self._http.trailing_data[0], self._reader)
        async with self._while_present():
            await response.talk(source, self._writer)

    def _farewell(self, content_type: str, upgrade: str) -> bytes:
        status = "101 UPGRADED" if upgrade else "200 OK"
        switched = (("Connection", "Upgrade"), ("Upgrade", upgrade)) if upgrade else ()
        headers = (("Content-Type", content_type), *switched, *self._headers)
        lines = (f"HTTP/1.1 {status}", *(f"{name}: {value}" for name, value in headers), "", "")
        return "\r\n".join(lines).encode("latin-1")

    def _head(self, status: int, headers: Headers) -> h11.Response:
        return h11.Response(status_code=status, reason=HTTPStatus(status).phrase.encode(), headers=[*self._headers, *headers])

    async def _send(self, event: h11.Event) -> None:
        self._writer.write(self._http.send(event) or b"")
        await self._writer.drain()

    async def _skip_body(self) -> bool:
        """Read what is left of a short body: whether it is over."""
        if self._http.they_are_waiting_for_100_continue:
            return False
        left = SKIPPED
        with suppress(TimeoutError, InvalidParameter):
            async with asyncio.timeout(LINGER_S):
                while left > 0 and self._http.their_state is h11.SEND_BODY:
                    event = await self._next_event()
                    left -= len(event.data) if isinstance(event, h11.Data) else 0
        return self._http.their_state is not h11.SEND_BODY

    async def _linger(self) -> None:
        """Let a client that is still sending read our answer: closing on unread bytes would take it from it."""
        if self._http.their_state is not h11.SEND_BODY:
            return
        self._writer.write_eof()
        async with asyncio.timeout(LINGER_S):
            while await self._reader.read(CHUNK):
                pass

    @asynccontextmanager
    async def _while_present(self) -> AsyncIterator[None]:
        """Cancel what is inside when the client leaves; raises ClientGone then."""
        loop = asyncio.get_running_loop()
        with select.epoll(1) as hang_up:
            hang_up.register(self._writer.get_extra_info("socket").fileno(), 0)  # the hang-up is reported unasked
            try:
                async with asyncio.timeout(None) as presence:

                    def left() -> None:
                        loop.remove_reader(hang_up.fileno())
                        presence.reschedule(loop.time())

                    loop.add_reader(hang_up.fileno(), left)
                    try:
                        yield
                    finally:
                        loop.remove_reader(hang_up.fileno())
            except TimeoutError as error:
                if presence.expired():
                    raise ClientGone("the client has left") from error
                raise


class _Rest:
    """A reader some of whose bytes had been read already."""

    def __init__(self, first: bytes, reader: asyncio.StreamReader) -> None:
        self._first = first
        self._reader = reader

    async def read(self, n: int, /) -> bytes:
        if self._first:
            taken, self._first = self._first[:n], self._first[n:]
            return taken
        return await self._reader.read(n)


def _request_of(head: h11.Request, body: AsyncIterator[bytes]) -> Request:
    version, path, query = split_target(head.target.decode("latin-1"))
    headers: dict[str, str] = {}
    for name, value in head.headers:
        key = name.decode("latin-1")
        headers[key] = f"{headers[key]}, {value.decode('latin-1')}" if key in headers else value.decode("latin-1")
    return Request(head.method.decode("latin-1"), path, version, Query(query), headers, body)


async def _lines(documents: AsyncIterator[Any]) -> AsyncIterator[bytes]:
    async with closing(documents):
        async for document in documents:
            yield msgspec.json.encode(document) + b"\r\n"


def _error_as_line(error: Exception) -> bytes:
    return msgspec.json.encode(error_line(error)) + b"\r\n"
