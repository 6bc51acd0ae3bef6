"""The words between the daemon and the BFD process: what was said is understood, and nothing else is."""

from __future__ import annotations

from contextlib import suppress
from ipaddress import IPv6Address

from hypothesis import given
from hypothesis import strategies as st

from bgp.bfd.packet import Drop, State
from bgp.bfd.service import BfdSettings
from bgp.bfd.words import End, Follow, Hello, Report, Said, Standing, WordsError, decode, encode

ADDRESSES = st.ip_addresses() | st.just(IPv6Address("fe80::2%eth0"))
SETTINGS = st.builds(BfdSettings, ADDRESSES, st.integers(10, 60_000), st.integers(1, 255), st.text())
STANDINGS = st.builds(Standing, st.sampled_from([None, *State]), st.integers(0), st.text(), st.text())
SAID = (
    st.builds(Follow, st.dictionaries(ADDRESSES, SETTINGS))
    | st.builds(End)
    | st.builds(Hello, st.text(), st.text())
    | st.builds(
        Report,
        st.dictionaries(ADDRESSES, STANDINGS),
        st.frozensets(ADDRESSES),
        st.dictionaries(st.sampled_from(Drop), st.integers(0)),
    )
)


@given(SAID)
def test_what_is_said_is_one_line_and_understood(said: Said) -> None:
    line = encode(said)
    assert line.index(b"\n") == len(line) - 1
    assert decode(line) == said


@given(st.binary())
def test_any_bytes_are_understood_or_refused(line: bytes) -> None:
    with suppress(WordsError):
        decode(line)


@given(SAID, st.data())
def test_a_line_that_is_damaged_is_understood_or_refused(said: Said, data: st.DataObject) -> None:
    line = bytearray(encode(said))
    line[data.draw(st.integers(0, len(line) - 1))] = data.draw(st.integers(0, 255))
    with suppress(WordsError):
        decode(bytes(line))
