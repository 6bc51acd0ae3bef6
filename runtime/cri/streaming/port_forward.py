"""Connections of a client carried into a pod: each to a port on the pod's loopback; must not know how a client's streams travel."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from flanneld import FlanneldError
from flanneld.linux import netns
from runtime.cri.streaming.remote import Inlet

READ = 64 << 10
LOOPBACK = ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1"))
CONNECT_S = 10.0
REST_S = 1.0
"""For a client to notice that the pod has closed the connection; what it sends after that goes nowhere."""


class Pipe(Protocol):
    """One connection of a client's."""

    @property
    def inlet(self) -> Inlet: ...
    async def send(self, data: bytes) -> None:
        """Raises ConnectionError."""
        ...

    async def end(self) -> None:
        """Raises ConnectionError."""
        ...


@dataclass(frozen=True, slots=True)
class Forward:
    """A pod that connections go into."""

    netns: str
    """Path of its network namespace; "": the host's."""
    ports: tuple[int, ...] = ()
    """For clients that do not say which themselves."""


async def carry(forward: Forward, port: int, pipe: Pipe, complain: Callable[[str], Awaitable[None]]) -> None:
    """Carry one connection until both sides have ended; `complain` tells the client why there is none. Raises ConnectionError."""
    try:
        reader, writer = await _connected(forward.netns, port)
    except (OSError, FlanneldError, TimeoutError) as error:
        why = os.strerror(error.errno).lower() if isinstance(error, OSError) and error.errno else str(error) or "timed out"
        await complain(f"failed to connect to localhost:{port} inside the pod's network namespace: {why}")
        pipe.inlet.drop()
        return
    towards = asyncio.create_task(_into(pipe.inlet, writer))
    try:
        await _out_of(reader, pipe)
        await pipe.end()
        await asyncio.wait([towards], timeout=REST_S)
    finally:
        towards.cancel()
        await asyncio.gather(towards, return_exceptions=True)
        pipe.inlet.drop()
        writer.close()


async def _connected(path: str, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """To the first of the pod's loopback addresses that takes it; raises OSError, FlanneldError, TimeoutError."""
    refused: OSError | None = None
    for family, address in LOOPBACK:
        connection = await asyncio.to_thread(_socket, path, family)
        try:
            async with asyncio.timeout(CONNECT_S):
                await asyncio.get_running_loop().sock_connect(connection, (address, port))
            return await asyncio.open_connection(sock=connection)
        except OSError as error:
            connection.close()
            refused = refused or error
        except BaseException:
            connection.close()
            raise
    assert refused is not None  # noqa: S101 - there are addresses to try
    raise refused


def _socket(path: str, family: int) -> socket.socket:
    """A socket is of the namespace that it is made in, wherever it is used."""

    def make() -> socket.socket:
        made = socket.socket(family, socket.SOCK_STREAM)
        made.setblocking(False)
        return made

    return netns.run_in(path, make) if path else make()


async def _into(inlet: Inlet, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await inlet.read():
            writer.write(data)
            await writer.drain()
        writer.write_eof()
    except OSError:
        inlet.drop()


async def _out_of(reader: asyncio.StreamReader, pipe: Pipe) -> None:
    try:
        while data := await reader.read(READ):
            await pipe.send(data)
    except ConnectionResetError:
        return
