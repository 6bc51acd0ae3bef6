"""Hijacked connections: framing, detach keys, bytes both ways."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.docker_api.streams import DetachKeys, content_type, frame, parse_detach_keys, shovel
from runtime.errors import InvalidParameter

KEYS = bytes((16, 17))


def test_a_frame_is_stream_length_payload() -> None:
    assert frame(2, b"abc") == b"\x02\0\0\0\0\0\0\x03abc"


def test_streams_of_two_outputs_have_a_name_of_their_own_since_api_1_42() -> None:
    assert content_type(tty=False, version=(1, 42)).endswith("multiplexed-stream")
    assert content_type(tty=False, version=(1, 41)).endswith("raw-stream")
    assert content_type(tty=True, version=(1, 50)).endswith("raw-stream")


@pytest.mark.parametrize(
    ("text", "keys"), [("", KEYS), ("ctrl-p,ctrl-q", KEYS), ("ctrl-a,b", b"\x01b"), ("ctrl-@", b"\0"), ("ctrl-_,x,y", b"\x1fxy")]
)
def test_detach_keys_are_control_characters_or_themselves(text: str, keys: bytes) -> None:
    assert parse_detach_keys(text) == keys


@pytest.mark.parametrize("text", ["ctrl-", "ctrl-é", "ab", ",", "ctrl-1"])
def test_detach_keys_that_no_terminal_sends_are_refused(text: str) -> None:
    with pytest.raises(InvalidParameter, match="invalid detach keys"):
        parse_detach_keys(text)


@given(st.lists(st.binary(max_size=6).map(lambda b: bytes(16 + c % 3 for c in b))))
def test_what_is_typed_up_to_the_keys_and_nothing_else_is_passed_on(pieces: list[bytes]) -> None:
    watch, passed, detached = DetachKeys(KEYS), b"", False
    for piece in pieces:
        more, detached = watch.feed(piece)
        passed += more
        if detached:
            break
    typed = b"".join(pieces)
    assert detached == (KEYS in typed)
    assert passed + watch.rest() == typed.partition(KEYS)[0]


class Pipe:
    """One direction: what is written can be read."""

    def __init__(self) -> None:
        self.reader = asyncio.StreamReader()

    async def read(self, n: int, /) -> bytes:
        return await self.reader.read(n)

    def write(self, data: bytes, /) -> None:
        self.reader.feed_data(data)

    async def drain(self) -> None:
        """There is room always."""

    def write_eof(self) -> None:
        self.reader.feed_eof()

    close = write_eof


async def test_the_end_of_input_is_passed_on_and_output_goes_on_to_its_own_end() -> None:
    typed, given_input, said, shown = Pipe(), Pipe(), Pipe(), Pipe()
    carrying = asyncio.create_task(shovel((typed, shown), (said, given_input), None))
    typed.write(b"hello")
    typed.close()
    assert await given_input.reader.read() == b"hello"
    said.write(b"world")
    said.close()
    assert await carrying is False
    shown.close()
    assert await shown.reader.read() == b"world"


async def test_the_keys_end_it_and_leave_the_container_its_input() -> None:
    typed, given_input, said, shown = Pipe(), Pipe(), Pipe(), Pipe()
    typed.write(b"ls\x10")
    typed.write(b"\x11rest")
    assert await shovel((typed, shown), (said, given_input), KEYS) is True
    assert not given_input.reader.at_eof()
    given_input.close()
    assert await given_input.reader.read() == b"ls"


async def test_output_that_has_ended_does_not_wait_for_input() -> None:
    typed, given_input, said, shown = Pipe(), Pipe(), Pipe(), Pipe()
    said.close()
    async with asyncio.timeout(5):
        assert await shovel((typed, shown), (said, given_input), KEYS) is False
