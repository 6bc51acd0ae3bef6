"""SPDY frames: as the draft has them, cut anywhere, and never anything but an event or a refusal."""

from __future__ import annotations

import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.cri.streaming import spdy
from runtime.cri.streaming.spdy import Data, Frames, Left, Opened, Pinged, Replied, Reset, SpdyError

NAMES = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1).map(str.lower)
HEADERS = st.dictionaries(NAMES, st.text(max_size=200), max_size=8)


def test_the_dictionary_is_the_drafts() -> None:
    assert len(spdy.DICTIONARY) == 1423
    assert zlib.adler32(spdy.DICTIONARY) == 0xE3C6A7C2


def test_a_frame_is_laid_out_as_in_the_draft() -> None:
    assert spdy.data(5, b"hi", is_last=True) == bytes.fromhex("00000005 01000002 6869")
    assert spdy.ping(7) == bytes.fromhex("80030006 00000004 00000007")
    assert spdy.reset(3) == bytes.fromhex("80030003 00000008 00000003 00000005")
    assert spdy.go_away(9) == bytes.fromhex("80030007 00000008 00000009 00000000")
    opened = Frames().open(1, {"streamType": "error"})
    assert opened[:8] == bytes.fromhex("80030001 000000") + bytes((len(opened) - 8,))
    assert opened[8:24] == bytes.fromhex("00000001 00000000 0000 78bb e3c6a7c2")


@given(st.lists(HEADERS, min_size=1, max_size=4), st.binary(max_size=300), st.integers(1, 50))
def test_what_one_side_says_the_other_hears(headers: list[dict[str, str]], payload: bytes, cut: int) -> None:
    ours, theirs = Frames(), Frames()
    said = b"".join(ours.open(2 * place + 1, each) for place, each in enumerate(headers))
    said += ours.reply(2, headers[0]) + spdy.data(1, payload, is_last=True) + spdy.ping(1) + spdy.reset(1) + spdy.go_away(1)
    heard = [event for start in range(0, len(said), cut) for event in theirs.feed(said[start : start + cut])]
    opened = [Opened(2 * place + 1, each) for place, each in enumerate(headers)]
    assert heard == [*opened, Replied(2, headers[0]), Data(1, payload, True), Pinged(1), Reset(1), Left()]


@given(st.lists(st.binary(max_size=60), max_size=6))
def test_any_bytes_are_events_or_refused(pieces: list[bytes]) -> None:
    frames = Frames()
    try:
        for piece in pieces:
            list(frames.feed(piece))
    except SpdyError:
        return


@given(st.sampled_from([1, 2, 3, 6, 7, 8, 9]), st.integers(0, 255), st.binary(max_size=80))
def test_any_control_frame_is_an_event_or_refused(kind: int, flags: int, body: bytes) -> None:
    frame = bytes((0x80, 3, 0, kind, flags)) + len(body).to_bytes(3, "big") + body
    try:
        list(Frames().feed(frame))
    except SpdyError:
        return


def test_headers_that_swell_are_refused() -> None:
    bomb = Frames().open(1, {"a": "x" * 10_000_000})
    assert len(bomb) < spdy.MOST_CONTROL_BYTES
    with pytest.raises(SpdyError, match="more than 65536 bytes"):
        list(Frames().feed(bomb))
