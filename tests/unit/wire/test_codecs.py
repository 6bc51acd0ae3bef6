"""The small codecs, all by the same rules."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.layers.vxlan import VXLAN

from flanneld.wire import WireError
from flanneld.wire.ethernet import EthernetFrame, decode_ethernet
from flanneld.wire.ipv6 import Ipv6Packet, decode_ipv6
from flanneld.wire.udp import UdpDatagram, decode_udp
from flanneld.wire.vxlan import VxlanPacket, decode_vxlan

octets, ports, payloads = st.integers(0, 255), st.integers(0, 0xFFFF), st.binary(max_size=100)
macs = st.binary(min_size=6, max_size=6).map(lambda packed: packed.hex(":"))
v4_pairs = st.tuples(st.ip_addresses(v=4), st.ip_addresses(v=4))
v6_pairs = st.tuples(st.ip_addresses(v=6), st.ip_addresses(v=6))
v6_packets = st.builds(
    Ipv6Packet, st.ip_addresses(v=6), st.ip_addresses(v=6), octets, payloads, octets, octets, st.integers(0, 0xFFFFF)
)
datagrams = st.builds(UdpDatagram, ports, ports, payloads)
frames = st.builds(EthernetFrame, macs, macs, ports, payloads)
vxlan_packets = st.builds(VxlanPacket, st.integers(0, 0xFFFFFF), payloads)


@given(v6_packets)
def test_ipv6_survives_a_round_trip_and_has_the_bytes_of_scapy(packet: Ipv6Packet) -> None:
    built = IPv6(src=str(packet.source), dst=str(packet.destination), nh=packet.next_header, hlim=packet.hop_limit)
    built.tc, built.fl = packet.traffic_class, packet.flow_label
    assert decode_ipv6(packet.encode()) == packet
    assert packet.encode() == bytes(built / packet.payload)


@given(datagrams, st.one_of(v4_pairs, v6_pairs))
def test_udp_survives_a_round_trip_and_verifies(
    datagram: UdpDatagram, addresses: tuple[IPv4Address, IPv4Address] | tuple[IPv6Address, IPv6Address]
) -> None:
    assert decode_udp(datagram.encode(addresses), addresses) == datagram
    assert decode_udp(datagram.encode()) == datagram


@given(datagrams, v4_pairs, v6_pairs)
def test_udp_has_the_bytes_of_scapy_over_both_families(
    datagram: UdpDatagram, v4: tuple[IPv4Address, IPv4Address], v6: tuple[IPv6Address, IPv6Address]
) -> None:
    built = UDP(sport=datagram.source_port, dport=datagram.destination_port) / datagram.payload
    assert datagram.encode(v4) == bytes(IP(src=str(v4[0]), dst=str(v4[1])) / built)[20:]
    assert datagram.encode(v6) == bytes(IPv6(src=str(v6[0]), dst=str(v6[1])) / built)[40:]


def test_a_udp_sum_of_zero_travels_as_ones() -> None:
    nowhere = IPv4Address(0)
    # 17 + 10 for the pseudo header, 10 for the length field: what is left to minus zero
    datagram = UdpDatagram(0, 0, (0xFFFF - 37).to_bytes(2, "big"))
    assert datagram.encode((nowhere, nowhere))[6:8] == b"\xff\xff"


def test_a_damaged_udp_payload_is_noticed_if_the_addresses_are_known() -> None:
    addresses = (IPv4Address("10.0.0.1"), IPv4Address("10.0.0.2"))
    damaged = UdpDatagram(1, 2, b"abcd").encode(addresses)[:-1] + b"!"
    assert decode_udp(damaged).payload == b"abc!"
    with pytest.raises(WireError, match="checksum"):
        decode_udp(damaged, addresses)


@given(frames)
def test_ethernet_survives_a_round_trip_and_has_the_bytes_of_scapy(frame: EthernetFrame) -> None:
    assert decode_ethernet(frame.encode()) == frame
    assert frame.encode() == bytes(Ether(dst=frame.destination, src=frame.source, type=frame.ethertype) / frame.payload)


@given(vxlan_packets)
def test_vxlan_survives_a_round_trip_and_has_the_bytes_of_scapy(packet: VxlanPacket) -> None:
    assert decode_vxlan(packet.encode()) == packet
    assert packet.encode() == bytes(VXLAN(flags=0x08, vni=packet.vni) / packet.frame)


def test_vxlan_ignores_reserved_bits_on_receipt_but_wants_the_vni_bit() -> None:
    assert decode_vxlan(bytes.fromhex("ffffffff000001ff")).vni == 1
    with pytest.raises(WireError, match="0x08"):
        decode_vxlan(bytes.fromhex("f700000000000100"))


@pytest.mark.parametrize("decode", [decode_ipv6, decode_udp, decode_ethernet, decode_vxlan])
@given(data=st.binary(max_size=80))
def test_any_bytes_decode_or_raise_wire_error(decode: Callable[[bytes], object], data: bytes) -> None:
    for prefix in (b"", b"\x60", b"\0\0\0\0\0\x20"):
        with suppress(WireError):
            decode(prefix + data)


@pytest.mark.parametrize("mac", ["", "aa:bb:cc:dd:ee", "AA:BB:CC:DD:EE:FF", "aabbccddeeff", "zz:bb:cc:dd:ee:ff"])
def test_a_mac_in_another_spelling_is_a_wire_error(mac: str) -> None:
    with pytest.raises(WireError, match="mac address"):
        EthernetFrame(mac, "02:00:00:00:00:01", 0x0800).encode()


@pytest.mark.parametrize(
    "value",
    [VxlanPacket(1 << 24), UdpDatagram(65536, 1), UdpDatagram(1, 1, bytes(65528)), Ipv6Packet(IPv6Address(0), IPv6Address(0), 300)],
)
def test_a_value_that_does_not_fit_its_field_is_a_wire_error(value: VxlanPacket | UdpDatagram | Ipv6Packet) -> None:
    with pytest.raises(WireError):
        value.encode()
