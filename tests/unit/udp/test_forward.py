"""The router's decisions as tables: a packet in, where it goes or what its sender is told out."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flanneld.backends.udp.forward import error_for, forward, is_sound
from flanneld.backends.udp.routes import PrefixTable
from flanneld.tunnel.switch import Drop, Endpoint
from flanneld.wire.icmp import IcmpError, IcmpMessage
from flanneld.wire.ipv4 import Ipv4Packet, decode_ipv4

PEER: Endpoint = ("192.0.2.2", 8285)
PEERS = PrefixTable({IPv4Network("10.5.2.0/24"): PEER})
PACKET = Ipv4Packet(IPv4Address("10.5.1.2"), IPv4Address("10.5.2.3"), 17, b"payload", ttl=64, identification=9)
UNASSIGNED = IPv4Address("10.5.9.1")


def writable(data: bytes) -> memoryview:
    return memoryview(bytearray(data))


@pytest.mark.parametrize(
    ("packet", "outcome"),
    [
        (PACKET.encode(), PEER),
        (replace(PACKET, ttl=2).encode(), PEER),
        (replace(PACKET, ttl=1).encode(), Drop.EXPIRED),
        (replace(PACKET, ttl=0).encode(), Drop.EXPIRED),
        (replace(PACKET, destination=UNASSIGNED).encode(), Drop.NO_PEER),
        (replace(PACKET, destination=UNASSIGNED, ttl=1).encode(), Drop.NO_PEER),
        (b"\x60" + bytes(47), Drop.NOT_IPV4),
        (PACKET.encode()[:19], Drop.NOT_IPV4),
        (b"", Drop.NOT_IPV4),
    ],
)
def test_forward_sends_to_the_peer_or_says_why_not(packet: bytes, outcome: Endpoint | Drop) -> None:
    assert forward(writable(packet), PEERS) == outcome


@given(st.integers(2, 255), st.integers(0, 255), st.integers(0, 0xFFFF))
def test_forward_takes_one_hop_and_changes_nothing_else(ttl: int, protocol: int, identification: int) -> None:
    packet = replace(PACKET, ttl=ttl, protocol=protocol, identification=identification)
    buffer = writable(packet.encode())
    assert forward(buffer, PEERS) == PEER
    assert bytes(buffer) == replace(packet, ttl=ttl - 1).encode()


def test_forward_leaves_a_packet_it_does_not_send_as_it_was() -> None:
    packet = writable(replace(PACKET, ttl=1).encode())
    forward(packet, PEERS)
    assert bytes(packet) == replace(PACKET, ttl=1).encode()


@given(st.binary(max_size=60))
def test_forward_has_an_answer_to_any_bytes(data: bytes) -> None:
    outcome = forward(writable(data), PEERS)
    assert outcome == PEER or isinstance(outcome, Drop)
    if isinstance(outcome, Drop):
        assert error_for(outcome, writable(data)) in (None, *IcmpError)


@pytest.mark.parametrize(
    ("why", "error"),
    [
        (Drop.NO_PEER, IcmpError.NET_UNREACHABLE),
        (Drop.EXPIRED, IcmpError.TIME_EXCEEDED),
        (Drop.TOO_BIG, IcmpError.FRAGMENTATION_NEEDED),
        (Drop.SEND_FAILED, None),
        (Drop.MALFORMED, None),
    ],
)
def test_the_sender_is_told_by_the_error_of_the_drop(why: Drop, error: IcmpError | None) -> None:
    assert error_for(why, writable(PACKET.encode())) == error


def test_nothing_is_said_about_an_icmp_error() -> None:
    about = replace(PACKET, protocol=1, payload=IcmpMessage(11, 0).encode())
    assert error_for(Drop.NO_PEER, writable(about.encode())) is None


DATAGRAM = PACKET.encode()


@pytest.mark.parametrize(
    ("datagram", "sound"),
    [
        (DATAGRAM, True),
        (replace(PACKET, ttl=1).encode(), True),
        (replace(PACKET, options=b"\x01" * 40).encode(), True),
        (replace(PACKET, ttl=0).encode(), False),
        (b"", False),
        (DATAGRAM[:19], False),
        (DATAGRAM[:-1], False),
        (DATAGRAM + b"!", False),
        (b"\x65" + DATAGRAM[1:], False),
        (b"\x44" + DATAGRAM[1:], False),
        (b"\x4f" + DATAGRAM[1:], False),
        (DATAGRAM[:10] + b"\0\0" + DATAGRAM[12:], False),
        (bytes(20), False),
    ],
)
def test_a_datagram_is_exactly_one_valid_packet(datagram: bytes, sound: bool) -> None:
    assert is_sound(memoryview(datagram)) is sound


@given(st.binary(max_size=60) | st.binary(max_size=60).map(lambda tail: DATAGRAM[:20] + tail))
def test_a_datagram_is_sound_only_if_it_decodes(data: bytes) -> None:
    if is_sound(memoryview(data)):
        assert decode_ipv4(data).ttl > 0
