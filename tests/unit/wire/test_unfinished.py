"""Packets whose checksums were left to hardware that is not there: what the kernel is to be told of them."""

from __future__ import annotations

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.packet import Packet, Raw

from flanneld.wire.checksum import checksum
from flanneld.wire.unfinished import unfinished
from flanneld.wire.vnet import NEEDS_CSUM, PLAIN, TCPV4, TCPV6, UDP_L4

MTU = 1450
V4, V6 = IP(src="10.5.1.2", dst="10.5.2.3", flags="DF"), IPv6(src="fd00::1", dst="fd00::2")


def left(packet: Packet, link: bytes = b"") -> memoryview:
    """As a kernel's tunnel hands it over: with the pseudo header's sum in the place of the checksum."""
    whole = bytearray(bytes(packet))
    ip = 20 if IP in packet else 40
    protocol, field = (6, 16) if TCP in packet else (17, 6)
    addresses = bytes(whole[12:20]) if IP in packet else bytes(whole[8:40])
    pseudo = addresses + bytes((0, protocol)) + (len(whole) - ip).to_bytes(2, "big")
    whole[ip + field : ip + field + 2] = (checksum(pseudo) ^ 0xFFFF).to_bytes(2, "big")
    return memoryview(bytearray(link + whole))


@pytest.mark.parametrize(("ip", "kind"), [(V4, TCPV4), (V6, TCPV6)])
@pytest.mark.parametrize("link", [b"", bytes(14)])
def test_tcp_is_finished_and_cut_to_the_mtu(ip: Packet, kind: int, link: bytes) -> None:
    start = len(link) + len(ip)
    small = unfinished(left(ip / TCP() / Raw(b"x" * 100), link), len(link), MTU)
    assert small is not None
    assert (small.flags, small.gso_type, small.csum_start, small.csum_offset) == (NEEDS_CSUM, PLAIN, start, 16)
    large = unfinished(left(ip / TCP() / Raw(b"x" * 9000), link), len(link), MTU)
    assert large is not None
    assert (large.gso_type, large.header_size, large.segment_size) == (kind, start + 20, MTU - len(ip) - 20)


def test_udp_too() -> None:
    found = unfinished(left(V4 / UDP() / Raw(b"x" * 9000)), 0, MTU)
    assert found is not None
    assert (found.gso_type, found.segment_size, found.csum_offset) == (UDP_L4, MTU - 28, 6)


@pytest.mark.parametrize(
    "packet",
    [
        bytes(V4 / TCP() / Raw(b"finished")),
        bytes(V4 / UDP(chksum=0) / Raw(b"without")),
        bytes(IP(src="10.5.1.2", dst="10.5.2.3", proto=1) / Raw(b"icmp")),
        bytes(left(IP(src="10.5.1.2", dst="10.5.2.3", frag=8) / UDP() / Raw(b"fragment"))),
        bytes(V4)[:19],
        b"",
    ],
)
def test_whatever_else_comes_is_handed_on_as_it_is(packet: bytes) -> None:
    assert unfinished(memoryview(bytearray(packet)), 0, MTU) is None
