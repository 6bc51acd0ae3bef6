from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP

from flanneld.wire import WireError
from flanneld.wire.icmp import IcmpError, IcmpMessage, decode_icmp, error_packet, may_answer
from flanneld.wire.ipv4 import Ipv4Packet, decode_ipv4

octets = st.integers(0, 255)
messages = st.builds(IcmpMessage, octets, octets, st.integers(0, 0xFFFFFFFF), st.binary(max_size=100))
ROUTER = IPv4Address("10.5.1.0")
PING = Ipv4Packet(IPv4Address("10.5.1.2"), IPv4Address("10.5.2.3"), 1, IcmpMessage(8, 0).encode())


@given(messages)
def test_what_was_encoded_decodes_to_itself(message: IcmpMessage) -> None:
    assert decode_icmp(message.encode()) == message


@given(st.binary(max_size=40))
def test_any_bytes_decode_or_raise_wire_error(data: bytes) -> None:
    with suppress(WireError):
        decode_icmp(data)


@given(messages.filter(lambda message: message.type in (0, 8)))
def test_an_echo_has_the_bytes_of_scapy(message: IcmpMessage) -> None:
    built = ICMP(type=message.type, code=message.code, id=message.word >> 16, seq=message.word & 0xFFFF) / message.payload
    assert message.encode() == bytes(built)


def test_fragmentation_needed_says_the_next_hop_mtu_where_rfc_1191_puts_it() -> None:
    seen = IP(error_packet(IcmpError.FRAGMENTATION_NEEDED, PING.encode(), ROUTER, 1372))
    assert (seen.src, seen.dst, seen.ttl, seen[ICMP].type, seen[ICMP].code) == ("10.5.1.0", "10.5.1.2", 64, 3, 4)
    assert seen[ICMP].nexthopmtu == 1372


@pytest.mark.parametrize(("size", "quoted"), [(0, 20), (100, 120), (1400, 548)])
def test_an_error_quotes_as_much_as_fits_576_bytes(size: int, quoted: int) -> None:
    about = replace(PING, protocol=17, payload=bytes(size)).encode()
    packet = error_packet(IcmpError.TIME_EXCEEDED, about, ROUTER)
    assert len(packet) == min(576, 28 + len(about))
    assert decode_icmp(decode_ipv4(packet).payload).payload == about[:quoted]


ALLOWED = {
    "an echo request": PING,
    "udp": replace(PING, protocol=17),
    "the first fragment": replace(PING, more_fragments=True),
    "a host in class E": replace(PING, destination=IPv4Address("240.0.0.1")),
}
FORBIDDEN = {
    **{f"icmp error {kind}": replace(PING, payload=IcmpMessage(kind, 0).encode()) for kind in (3, 4, 5, 11, 12)},
    "icmp without a type": replace(PING, payload=b""),
    "a later fragment": replace(PING, offset=8),
    "to a multicast group": replace(PING, destination=IPv4Address("224.0.0.251")),
    "to all hosts": replace(PING, destination=IPv4Address("255.255.255.255")),
    "from nowhere": replace(PING, source=IPv4Address(0)),
    "from loopback": replace(PING, source=IPv4Address("127.0.0.1")),
    "from a multicast group": replace(PING, source=IPv4Address("239.1.1.1")),
    "from class E": replace(PING, source=IPv4Address("240.0.0.1")),
}


@pytest.mark.parametrize("packet", ALLOWED.values(), ids=ALLOWED.keys())
def test_an_error_may_be_sent_about(packet: Ipv4Packet) -> None:
    assert may_answer(packet.encode())


@pytest.mark.parametrize("packet", FORBIDDEN.values(), ids=FORBIDDEN.keys())
def test_no_error_may_be_sent_about(packet: Ipv4Packet) -> None:
    assert not may_answer(memoryview(packet.encode()))


@given(st.binary(min_size=20, max_size=60))
def test_any_header_gets_an_answer_to_the_question(data: bytes) -> None:
    assert may_answer(data) in (True, False)
