"""The connections that a client wants carried into a pod, by the two ways of telling one from another.

    SPDY        two streams each, `data` and `error`, with a number in `requestid` in common and the port in `port`
    WebSocket   two channels for each port that was asked for, data and error, which begin with the port in two bytes, little-endian

Must not know pods.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from runtime.cri.streaming.port_forward import Forward, carry
from runtime.cri.streaming.remote import Inlet
from runtime.cri.streaming.spdy_client import SpdyLink, SpdyStream
from runtime.cri.streaming.websocket_client import WebSocketLink


@dataclass(slots=True)
class _Pair:
    data: SpdyStream | None = None
    error: SpdyStream | None = None


async def forward_over_spdy(link: SpdyLink, forward: Forward) -> None:
    """Carry connections until the client leaves; raises ConnectionError."""
    pairs: dict[str, _Pair] = {}
    carrying: set[asyncio.Task[None]] = set()
    try:
        async for stream in link.streams():
            identity = stream.headers.get("requestid", "")
            pair = pairs.setdefault(identity, _Pair())
            if stream.headers.get("streamtype") == "error":
                pair.error = stream
            else:
                pair.data = stream
            if pair.data and pair.error:
                del pairs[identity]
                task = asyncio.create_task(_carry_pair(forward, pair.data, pair.error))
                carrying.add(task)
                task.add_done_callback(carrying.discard)
    finally:
        for task in carrying:
            task.cancel()
        await asyncio.gather(*carrying, return_exceptions=True)


async def _carry_pair(forward: Forward, data: SpdyStream, error: SpdyStream) -> None:
    async def complain(why: str) -> None:
        await error.send(why.encode())

    text = data.headers.get("port", "")
    port = int(text) if text.isascii() and text.isdigit() and len(text) <= 5 else 0
    carrying = asyncio.create_task(carry(forward, port, data, complain))
    unwanted = asyncio.create_task(data.is_reset.wait())
    try:
        await asyncio.wait([carrying, unwanted], return_when=asyncio.FIRST_COMPLETED)
    finally:
        carrying.cancel()
        unwanted.cancel()
        await asyncio.gather(carrying, unwanted, return_exceptions=True)
        await data.end()
        await error.end()


@dataclass(frozen=True, slots=True)
class _Channel:
    """One port over WebSocket; it can be ended by ending all."""

    link: WebSocketLink
    number: int
    inlet: Inlet = field(default_factory=Inlet)

    async def send(self, data: bytes) -> None:
        await self.link.send(self.number, data)

    async def end(self) -> None:
        """There is no such message."""


async def forward_over_websocket(link: WebSocketLink, forward: Forward) -> None:
    """Carry one connection to each of the ports, until all have ended or the client leaves; raises ConnectionError."""
    channels = [_Channel(link, 2 * place) for place in range(len(forward.ports))]
    link.inlets.update({channel.number: channel.inlet for channel in channels})
    async with asyncio.TaskGroup() as tasks:
        for port, channel in zip(forward.ports, channels, strict=True):
            tasks.create_task(_carry_channel(forward, port, channel))
    await link.leave()


async def _carry_channel(forward: Forward, port: int, channel: _Channel) -> None:
    async def complain(why: str) -> None:
        await channel.link.send(channel.number + 1, why.encode())

    greeting = port.to_bytes(2, "little")
    await channel.link.send(channel.number, greeting)
    await channel.link.send(channel.number + 1, greeting)
    await carry(forward, port, channel, complain)
