"""A container's DNS server: sockets inside its network namespace, served by the engine's loop; must not know who is called what.

Containers ask 127.0.0.11:53. The server has other ports, drawn by the kernel, and two rules in the container's own packet filter
lead there: so a container may have port 53 for itself. What is not answered here is asked of the host's servers, from the host.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import dns.exception

from flanneld.linux import netns
from flanneld.log import Log
from runtime.networks.dns import NO_SUCH_NAME, NOT_NOW, Answering, answer, is_reply_to, refusal
from runtime.networks.dns_redirect import PORT, redirect
from runtime.networks.etc_files import DNS_ADDRESS

log = Log(__name__)

UPSTREAM_S = 4.0
"""How long one server may take before the next is asked; Docker's."""
IDLE_S = 10.0
"""For the next question on a TCP connection (RFC 7766 §6.2.3)."""
AT_ONCE = 256
"""Questions of one container that others are asked at a time; what comes besides is dropped, and asked again by who asked."""
LENGTH = struct.Struct("!H")


@dataclass(slots=True)
class DnsServer:
    """Serves one container until it is closed."""

    knows: Answering
    upstream: Callable[[], Sequence[str]]
    """Servers for what is nobody's name; empty: then there is no such name."""
    _transport: asyncio.DatagramTransport | None = None
    _listener: asyncio.Server | None = None
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def start(self, path: str) -> None:
        """Open the sockets in the namespace of that path, and lead port 53 there; raises OSError, FlanneldError."""
        datagrams, listener = await asyncio.to_thread(netns.run_in, path, _open_sockets)
        loop = asyncio.get_running_loop()
        try:
            self._transport, _ = await loop.create_datagram_endpoint(lambda: _Datagrams(self), sock=datagrams)
            self._listener = await asyncio.start_server(self._converse, sock=listener)
        except BaseException:
            self.close()
            datagrams.close()
            listener.close()
            raise

    def close(self) -> None:
        """Stop serving. The rules stay, as the namespace is about to go, or another server to come."""
        if self._transport is not None:
            self._transport.close()
        if self._listener is not None:
            self._listener.close()
        for task in self._tasks:
            task.cancel()

    def asked(self, wire: bytes, whom: Any) -> None:
        """A datagram has come."""
        if self._transport is None or self._transport.is_closing():
            return
        try:
            reply = answer(wire, self.knows)
        except dns.exception.DNSException:
            return
        if reply is not None:
            self._transport.sendto(reply, whom)
        elif len(self._tasks) < AT_ONCE:
            task = asyncio.get_running_loop().create_task(self._forward_datagram(wire, whom))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _forward_datagram(self, wire: bytes, whom: Any) -> None:
        with suppress(dns.exception.DNSException):
            reply = await self._ask_others(wire, _ask_by_datagram)
            if self._transport is not None and not self._transport.is_closing():
                self._transport.sendto(reply, whom)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with suppress(OSError, TimeoutError, asyncio.IncompleteReadError, dns.exception.DNSException):
                while True:
                    async with asyncio.timeout(IDLE_S):
                        wire = await _read(reader)
                    reply = answer(wire, self.knows, limit=0xFFFF) or await self._ask_others(wire, _ask_by_stream)
                    writer.write(LENGTH.pack(len(reply)) + reply)
                    await writer.drain()
        finally:
            writer.close()

    async def _ask_others(self, wire: bytes, ask: Any) -> bytes:
        servers = self.upstream()
        for server in servers:
            with suppress(OSError, TimeoutError, asyncio.IncompleteReadError):
                async with asyncio.timeout(UPSTREAM_S):
                    reply: bytes = await ask(server, wire)
                    return reply
        return refusal(wire, NOT_NOW if servers else NO_SUCH_NAME)


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, server: DnsServer) -> None:
        self._server = server

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self._server.asked(data, addr)


async def _ask_by_datagram(server: str, wire: bytes) -> bytes:
    """From a port of its own for each question, which nobody can guess; raises OSError."""
    loop = asyncio.get_running_loop()
    family = socket.AF_INET6 if ":" in server else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as asking:
        asking.connect((server, PORT))
        await loop.sock_sendall(asking, wire)
        while True:
            reply = await loop.sock_recv(asking, 0xFFFF)
            if is_reply_to(reply, wire):
                return reply


async def _ask_by_stream(server: str, wire: bytes) -> bytes:
    reader, writer = await asyncio.open_connection(server, PORT)
    try:
        writer.write(LENGTH.pack(len(wire)) + wire)
        await writer.drain()
        return await _read(reader)
    finally:
        writer.close()


async def _read(reader: asyncio.StreamReader) -> bytes:
    (length,) = LENGTH.unpack(await reader.readexactly(LENGTH.size))
    return await reader.readexactly(length)


def _open_sockets() -> tuple[socket.socket, socket.socket]:
    """For a thread inside the container's namespace: a datagram socket and a listener, and the rules that lead to them."""
    opened = []
    try:
        for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
            opened.append(made := socket.socket(socket.AF_INET, kind | socket.SOCK_NONBLOCK))
            made.bind((DNS_ADDRESS, 0))
        opened[1].listen()
        redirect(*(each.getsockname()[1] for each in opened))
    except BaseException:
        for each in opened:
            each.close()
        raise
    return opened[0], opened[1]
