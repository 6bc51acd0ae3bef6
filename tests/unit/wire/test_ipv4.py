from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from ipaddress import IPv4Address
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP
from scapy.utils import checksum as scapy_checksum

from flanneld.wire import WireError
from flanneld.wire.ipv4 import BLOCK_SIZE, Ipv4Packet, copied_options, decode_ipv4, fragment

octets = st.integers(0, 255)
packets = st.builds(
    Ipv4Packet,
    source=st.ip_addresses(v=4),
    destination=st.ip_addresses(v=4),
    protocol=octets,
    payload=st.binary(max_size=300),
    ttl=octets,
    tos=octets,
    identification=st.integers(0, 0xFFFF),
    dont_fragment=st.booleans(),
    more_fragments=st.booleans(),
    offset=st.integers(0, 0x1FFF).map(lambda blocks: blocks * BLOCK_SIZE),
    options=st.integers(0, 10).flatmap(lambda words: st.binary(min_size=words * 4, max_size=words * 4)),
)
PACKET = Ipv4Packet(IPv4Address("10.5.1.2"), IPv4Address("10.5.2.3"), 17, b"x" * 100, identification=7)


@given(packets)
def test_what_was_encoded_decodes_to_itself(packet: Ipv4Packet) -> None:
    assert decode_ipv4(packet.encode()) == packet


@given(st.binary(max_size=80))
def test_any_bytes_decode_or_raise_wire_error(data: bytes) -> None:
    for prefix in (b"", b"\x45\x00\x00"):
        with suppress(WireError):
            decode_ipv4(prefix + data)


@given(packets.map(lambda packet: replace(packet, options=b"")))
def test_the_bytes_are_the_ones_of_scapy(packet: Ipv4Packet) -> None:
    built = IP(src=str(packet.source), dst=str(packet.destination), ttl=packet.ttl, tos=packet.tos, proto=packet.protocol)
    built.id, built.frag = packet.identification, packet.offset // 8
    built.flags = 2 * packet.dont_fragment + packet.more_fragments
    assert packet.encode() == bytes(built / packet.payload)


@given(packets)
def test_the_header_checksum_covers_the_options(packet: Ipv4Packet) -> None:
    header = packet.encode()[: packet.header_size]
    assert scapy_checksum(header) == 0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (slice(0, 1), "ip version 6"),
        (slice(2, 4), "total length"),
        (slice(10, 12), "checksum"),
    ],
)
def test_a_header_that_lies_is_refused_by_what_is_wrong(change: slice, words: str) -> None:
    damaged = bytearray(PACKET.encode())
    damaged[change] = b"\x65" if change.start == 0 else b"\xff\xff"
    with pytest.raises(WireError, match=words):
        decode_ipv4(bytes(damaged))


@pytest.mark.parametrize(
    "packet",
    [
        replace(PACKET, ttl=256),
        replace(PACKET, options=b"abc"),
        replace(PACKET, offset=4),
        replace(PACKET, offset=65536),
        replace(PACKET, payload=bytes(65516)),
    ],
)
def test_a_value_that_does_not_fit_its_field_is_a_wire_error(packet: Ipv4Packet) -> None:
    with pytest.raises(WireError):
        packet.encode()


def reassembled(pieces: list[Ipv4Packet]) -> bytes:
    data = bytearray(pieces[-1].offset - pieces[0].offset + len(pieces[-1].payload))
    for piece in pieces:
        start = piece.offset - pieces[0].offset
        data[start : start + len(piece.payload)] = piece.payload
    return bytes(data)


@given(packets.map(lambda packet: replace(packet, dont_fragment=False)), st.integers(68, 300))
def test_fragments_fit_and_reassemble_to_the_original(packet: Ipv4Packet, mtu: int) -> None:
    pieces = fragment(packet, mtu)
    assert all(piece.header_size + len(piece.payload) <= mtu for piece in pieces)
    assert all(piece.more_fragments for piece in pieces[:-1])
    assert all(len(piece.payload) % BLOCK_SIZE == 0 for piece in pieces[:-1])
    assert [after.offset - before.offset for before, after in pairwise(pieces)] == [len(piece.payload) for piece in pieces[:-1]]
    whole = replace(pieces[0], payload=reassembled(pieces), more_fragments=pieces[-1].more_fragments)
    assert whole == packet


def test_fragments_of_a_fragment_keep_its_place_and_its_more_flag() -> None:
    middle = replace(PACKET, offset=800, more_fragments=True)
    pieces = fragment(middle, 68)
    assert [(piece.offset, piece.more_fragments) for piece in pieces] == [(800, True), (848, True), (896, True)]


def test_later_fragments_carry_only_options_with_the_copied_flag() -> None:
    security, record_route = b"\x82\x04\x01\x02", b"\x07\x03\x04"
    options = record_route + b"\x01" + security
    assert [piece.options for piece in fragment(replace(PACKET, options=options), 68)][:2] == [options, security]


@given(st.integers(0, 10).flatmap(lambda words: st.binary(min_size=words * 4, max_size=words * 4)))
def test_copied_options_are_never_longer_than_the_options(options: bytes) -> None:
    copied = copied_options(options)
    assert len(copied) <= len(options)
    assert len(copied) % 4 == 0


@pytest.mark.parametrize(("packet", "mtu"), [(replace(PACKET, dont_fragment=True), 68), (PACKET, 27)])
def test_what_must_not_or_cannot_be_cut_is_a_wire_error(packet: Ipv4Packet, mtu: int) -> None:
    with pytest.raises(WireError, match=f"mtu of {mtu}"):
        fragment(packet, mtu)
