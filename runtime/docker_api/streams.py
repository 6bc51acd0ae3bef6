"""What goes over a hijacked connection, and Docker's framing of two outputs in one stream; must not know whose streams they are.

A frame: stream (1 byte: 0 stdin, 1 stdout, 2 stderr), three zero bytes, length (4 bytes, big-endian), payload. What a container's
monitor sends is framed already (with a terminal: not at all) and passes through here unread.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress

from runtime.docker_api.exchange import MULTIPLEXED_STREAM, RAW_STREAM, Sink, Source
from runtime.errors import InvalidParameter

CHUNK = 256 * 1024
STDOUT = 1
DETACH_KEYS = "ctrl-p,ctrl-q"
_CONTROLS = {f"ctrl-{chr(code).lower()}": code & 0x1F for code in range(ord("@"), ord("_") + 1)}


def frame(stream: int, data: bytes) -> bytes:
    """A payload with its header."""
    return bytes((stream, 0, 0, 0)) + len(data).to_bytes(4, "big") + data


def content_type(*, tty: bool, version: tuple[int, int]) -> str:
    """What a stream is called: older clients know one name for both."""
    return MULTIPLEXED_STREAM if not tty and version >= (1, 42) else RAW_STREAM


def parse_detach_keys(text: str) -> bytes:
    """ "ctrl-p,ctrl-q" as the bytes that a terminal sends; raises InvalidParameter."""
    keys = bytearray()
    for key in (text or DETACH_KEYS).split(","):
        if key in _CONTROLS:
            keys.append(_CONTROLS[key])
        elif len(key) == 1 and key.isascii():
            keys += key.encode()
        else:
            raise InvalidParameter(f"invalid detach keys ({text}) provided: unknown character: '{key}'")
    return bytes(keys)


class DetachKeys:
    """Watches what is typed for the keys, which may arrive in pieces and are never passed on."""

    def __init__(self, keys: bytes) -> None:
        self._keys = keys
        self._held = b""
        """Bytes that may be the beginning of the keys."""

    def feed(self, data: bytes) -> tuple[bytes, bool]:
        """(what is to be passed on, whether the keys were there); what follows the keys is dropped."""
        data = self._held + data
        before, found, _ = data.partition(self._keys)
        if found:
            self._held = b""
            return before, True
        held = next((n for n in range(min(len(self._keys) - 1, len(data)), 0, -1) if self._keys.startswith(data[-n:])), 0)
        self._held = data[len(data) - held :]
        return data[: len(data) - held], False

    def rest(self) -> bytes:
        """What was held back, now that nothing follows."""
        held, self._held = self._held, b""
        return held


async def shovel(client: tuple[Source, Sink], container: tuple[Source, Sink], keys: bytes | None) -> bool:
    """Carry bytes both ways until the container's output ends or the user detaches: whether that.

    The client's end of input is passed on and ends nothing. `keys`: what detaches; None: nothing does.
    """
    typed = asyncio.create_task(_carry_input(client[0], container[1], DetachKeys(keys) if keys else None))
    shown = asyncio.create_task(_carry_output(container[0], client[1]))
    try:
        await asyncio.wait((typed, shown), return_when=asyncio.FIRST_COMPLETED)
        if typed.done() and typed.result():
            return True
        await shown
        return False
    finally:
        for task in (typed, shown):
            task.cancel()
        await asyncio.gather(typed, shown, return_exceptions=True)


async def _carry_output(source: Source, sink: Sink) -> None:
    while data := await source.read(CHUNK):
        sink.write(data)
        await sink.drain()


async def _carry_input(source: Source, sink: Sink, keys: DetachKeys | None) -> bool:
    """Whether the user detached. A container that has closed its input, or ended, takes none, which is nobody's error."""
    with suppress(OSError):
        while data := await source.read(CHUNK):
            passed, detached = keys.feed(data) if keys else (data, False)
            if passed:
                sink.write(passed)
                await sink.drain()
            if detached:
                return True
        if keys and (held := keys.rest()):
            sink.write(held)
        sink.write_eof()
    return False
