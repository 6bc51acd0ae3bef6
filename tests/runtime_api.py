"""A client of the Engine API over its Unix socket, as blunt as a test needs it, and a server with a test's own answers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from runtime.docker_api.clients import serving
from runtime.docker_api.errors import error_response
from runtime.docker_api.exchange import Request, Response

Answer = Callable[[Request], Awaitable[Response]]


class Talk:
    """One connection: what is written is written as it stands."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def say(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def ask(self, method: str, path: str, body: bytes = b"", headers: str = "") -> tuple[int, dict[str, str], bytes]:
        """(status, headers by lower-case name, whole body)."""
        length = f"Content-Length: {len(body)}\r\n" if body else ""
        await self.say(f"{method} {path} HTTP/1.1\r\nHost: x\r\n{length}{headers}\r\n".encode() + body)
        status, got = await self.head()
        return status, got, b"" if method == "HEAD" or status in (204, 304) else await self.body(got)

    async def head(self) -> tuple[int, dict[str, str]]:
        lines = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        fields = (line.partition(": ") for line in lines[1:] if line)
        return int(lines[0].split()[1]), {name.lower(): value for name, _, value in fields}

    async def body(self, headers: dict[str, str]) -> bytes:
        if "content-length" in headers:
            return await self.reader.readexactly(int(headers["content-length"]))
        parts = []
        while part := await self.chunk():
            parts.append(part)
        return b"".join(parts)

    async def chunk(self) -> bytes:
        """One of a chunked body; nothing: the last."""
        size = int(await self.reader.readline(), 16)
        data = await self.reader.readexactly(size + 2)
        return data[:-2]


@asynccontextmanager
async def talking(path: Path) -> AsyncIterator[Talk]:
    """A connection within the context."""
    reader, writer = await asyncio.open_unix_connection(str(path))
    try:
        yield Talk(reader, writer)
    finally:
        writer.close()
        await asyncio.wait([asyncio.ensure_future(writer.wait_closed())])


@asynccontextmanager
async def answering(path: Path, answer: Answer) -> AsyncIterator[Path]:
    """A server with one answer for everything; what it raises is an error's answer, as a router does it."""

    async def guarded(request: Request) -> Response:
        try:
            return await answer(request)
        except Exception as error:
            return error_response(error)

    async with serving(path, guarded):
        yield path


def message(body: bytes) -> Any:
    """What an error's answer says."""
    return json.loads(body)["message"]
