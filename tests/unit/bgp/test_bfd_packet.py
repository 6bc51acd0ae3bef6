"""BFD's one packet: RFC 5880 §4.1, §6.8.6."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.contrib.bfd import BFD

from bgp.bfd.packet import BfdError, ControlPacket, Diagnostic, Drop, State, decode_control, describe

WORD = 0xFFFFFFFF
PACKET = ControlPacket(State.UP, 7, 9, 100_000, 200_000, 3)
ENCODED = bytes.fromhex("20c00318 00000007 00000009 000186a0 00030d40 00000000")

words, numbers = st.integers(0, WORD), st.integers(1, WORD)
packets = st.builds(
    ControlPacket,
    state=st.sampled_from(State),
    my_discriminator=numbers,
    your_discriminator=numbers,
    desired_min_tx_us=words,
    required_min_rx_us=words,
    multiplier=st.integers(1, 255),
    required_min_echo_rx_us=words,
    diagnostic=st.integers(0, 31),
    poll=st.booleans(),
    final=st.booleans(),
    control_plane_independent=st.booleans(),
    demand=st.booleans(),
)


def with_byte(offset: int, value: int) -> bytes:
    return ENCODED[:offset] + bytes((value,)) + ENCODED[offset + 1 :]


def test_the_bytes_are_those_of_the_rfcs_picture() -> None:
    assert PACKET.encode() == ENCODED
    assert decode_control(ENCODED) == PACKET


@given(packets)
def test_a_packet_survives_a_round_trip(packet: ControlPacket) -> None:
    assert decode_control(packet.encode()) == packet


@given(packets)
def test_a_packet_has_the_bytes_of_scapy(packet: ControlPacket) -> None:
    marks = {"P": packet.poll, "F": packet.final, "C": packet.control_plane_independent, "D": packet.demand}
    built = BFD(
        diag=packet.diagnostic,
        sta=int(packet.state),
        flags="".join(mark for mark, set_ in marks.items() if set_),
        detect_mult=packet.multiplier,
        my_discriminator=packet.my_discriminator,
        your_discriminator=packet.your_discriminator,
        min_tx_interval=packet.desired_min_tx_us,
        min_rx_interval=packet.required_min_rx_us,
        echo_rx_interval=packet.required_min_echo_rx_us,
    )
    assert packet.encode() == bytes(built)


@given(st.binary(max_size=60) | st.binary(max_size=60).map(lambda tail: b"\x20\x40\x03\x18\0\0\0" + tail))
def test_any_bytes_decode_or_raise_bfd_error(data: bytes) -> None:
    with suppress(BfdError):
        assert decode_control(data).encode()[4:] == data[4:24]


@pytest.mark.parametrize(
    ("data", "drop"),
    [
        (b"", Drop.LENGTH),
        (ENCODED[:-1], Drop.LENGTH),
        (with_byte(0, 0x00), Drop.VERSION),
        (with_byte(0, 0x40), Drop.VERSION),
        (with_byte(3, 23), Drop.LENGTH),
        (with_byte(3, 25), Drop.LENGTH),
        (with_byte(2, 0), Drop.MULTIPLIER),
        (with_byte(1, 0xC1), Drop.MULTIPOINT),
        (with_byte(1, 0xC4), Drop.AUTHENTICATION),
        (with_byte(7, 0), Drop.DISCRIMINATOR),
        (with_byte(11, 0), Drop.DISCRIMINATOR),
        (with_byte(1, 0x80)[:11] + bytes(13), Drop.DISCRIMINATOR),
    ],
)
def test_what_must_be_discarded_is_refused_with_the_reason(data: bytes, drop: Drop) -> None:
    with pytest.raises(BfdError) as refused:
        decode_control(data)
    assert refused.value.drop is drop


def test_authentication_is_refused_with_its_section_too() -> None:
    with pytest.raises(BfdError, match="authentication bit set"):
        decode_control(bytes(BFD(my_discriminator=1, your_discriminator=2, flags="A", optional_auth=b"\x01\x09\x01secret")))


@pytest.mark.parametrize("state", [State.DOWN, State.ADMIN_DOWN])
def test_who_has_heard_nothing_yet_names_no_discriminator(state: State) -> None:
    first = replace(PACKET, state=state, your_discriminator=0)
    assert decode_control(first.encode()) == first


def test_bytes_after_the_packet_are_ignored() -> None:
    assert decode_control(ENCODED + b"and more") == PACKET
    assert decode_control(with_byte(3, 28) + bytes(4)) == PACKET


@pytest.mark.parametrize(
    "packet",
    [
        replace(PACKET, my_discriminator=0),
        replace(PACKET, your_discriminator=0),
        replace(PACKET, my_discriminator=WORD + 1),
        replace(PACKET, desired_min_tx_us=-1),
        replace(PACKET, multiplier=0),
        replace(PACKET, multiplier=256),
        replace(PACKET, diagnostic=32),
    ],
)
def test_a_value_that_does_not_fit_its_field_is_a_bfd_error(packet: ControlPacket) -> None:
    with pytest.raises(BfdError):
        packet.encode()


def test_a_diagnostic_is_said_in_words() -> None:
    assert describe(Diagnostic.DETECTION_TIME_EXPIRED) == "detection time expired"
    assert describe(31) == "diagnostic 31"
