"""Cutting and merging super-packets, against scapy, and each against the other."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from flanneld.wire import WireError
from flanneld.wire.checksum import checksum
from flanneld.wire.merge import ROOM as PACKETS_ROOM
from flanneld.wire.merge import Merger, Run
from flanneld.wire.split import MAX_SIZE, Splitter, finish_checksum
from flanneld.wire.vnet import ECN, NEEDS_CSUM, SIZE, TCPV4, TCPV6, UDP_L4, VnetHeader, decode_vnet

OPTIONS: Sequence[list[tuple[str, object]]] = ([], [("NOP", None), ("NOP", None), ("Timestamp", (7, 9))], [("NOP", None)] * 40)
FIN, PSH, ACK, ECE, CWR = 0x01, 0x08, 0x10, 0x40, 0x80


@st.composite
def flows(draw: st.DrawFn, protocols: Sequence[str] = ("tcp", "udp")) -> Packet:
    """The headers of one packet, without payload."""
    byte, word = st.integers(1, 255), st.integers(0, 0xFFFF)
    ports = {"sport": draw(word), "dport": draw(word)}
    if draw(st.booleans()):
        ip: Packet = IP(
            src="10.5.1.2", dst="10.5.2.3", ttl=draw(byte), tos=draw(byte), id=draw(word), flags=draw(st.sampled_from(["", "DF"]))
        )
        if draw(st.booleans()):
            ip.options = [(b"\x01")] * 4
    else:
        ip = IPv6(src="fd00::1:2", dst="fd00::2:3", hlim=draw(byte), tc=draw(byte), fl=draw(st.integers(0, 0xFFFFF)))
    if draw(st.sampled_from(protocols)) == "udp":
        return ip / UDP(**ports)
    return ip / TCP(
        **ports,
        seq=draw(st.one_of(st.integers(0, 0xFFFFFFFF), st.just(0xFFFFFFF0))),
        ack=draw(st.integers(0, 0xFFFFFFFF)),
        window=draw(word),
        flags=ACK | draw(st.sampled_from([0, PSH, ECE, CWR, FIN | PSH, CWR | PSH])),
        options=draw(st.sampled_from(OPTIONS)),
    )


def encoded(packet: Packet) -> bytes:
    """As scapy builds it, all lengths and checksums computed."""
    return bytes(packet)


def super_packet(flow: Packet, content: bytes, mss: int, front: bytes = b"") -> tuple[bytearray, int, VnetHeader]:
    """What a TUN gives: the packet in a buffer, its size, and the vnet header; its checksum is the pseudo header's alone."""
    transport = flow[TCP] if TCP in flow else flow[UDP]
    whole = bytearray(front + encoded(flow / Raw(content)))
    start = len(whole) - len(content) - len(bytes(transport))
    offset = 16 if TCP in flow else 6
    kind = UDP_L4 if UDP in flow else TCPV4 if IP in flow else TCPV6
    if TCP in flow and int(flow[TCP].flags) & CWR:
        kind |= ECN
    room = bytearray(MAX_SIZE)
    room[: len(whole)] = whole
    return room, len(whole), VnetHeader(NEEDS_CSUM, kind, start + len(bytes(transport)), mss, start, offset)


def expected(flow: Packet, content: bytes, mss: int) -> list[bytes]:
    """The segments, each built by scapy."""
    found = []
    for number, start in enumerate(range(0, len(content), mss)):
        one, last = flow.copy(), start + mss >= len(content)
        if IP in one and "DF" not in one[IP].flags:
            one[IP].id = (one[IP].id + number) & 0xFFFF
        if TCP in one:
            one[TCP].seq = (one[TCP].seq + start) & 0xFFFFFFFF
            flags = int(one[TCP].flags)
            one[TCP].flags = flags & ~(CWR if number else 0) & ~(0 if last else FIN | PSH)
        found.append(encoded(one / Raw(content[start : start + mss])))
    return found


def cut(splitter: Splitter, size: int, vnet: VnetHeader, link: int = 0) -> list[bytes]:
    done = splitter.split(size, vnet, link)
    segments = [bytes(splitter.segments[at : min(at + done.size, done.total)]) for at in range(0, done.total, done.size)]
    assert len(segments) == done.packets
    return segments


VNETS = st.builds(VnetHeader, st.just(1), st.sampled_from([1, 4, 5, 0x81]), *[st.integers(0, 300)] * 4)
CONTENT = random.Random(5).randbytes(60_000)


@settings(deadline=None)
@given(flow=flows(), count=st.integers(1, 60), mss=st.integers(48, 1000), rest=st.integers(0, 999), vxlan=st.booleans())
def test_a_super_packet_becomes_the_packets_that_its_sender_would_have_sent(
    flow: Packet, count: int, mss: int, rest: int, vxlan: bool
) -> None:
    front, size = bytes(22) if vxlan else b"", count * mss + rest % mss
    room, whole, vnet = super_packet(flow, CONTENT[:size], mss, front)
    splitter = Splitter(room, len(front))
    for _ in range(2):  # with what is kept of the first time, too
        before = bytes(room)
        assert cut(splitter, whole, vnet) == [front + one for one in expected(flow, CONTENT[:size], mss)]
        room[:] = before


def packed(packets: list[bytes]) -> tuple[bytearray, int]:
    room = bytearray(PACKETS_ROOM)
    content = b"".join(packets)
    room[: len(content)] = content
    return room, len(content)


def taken_apart(runs: list[Run], room: bytearray, link: int, ip: int) -> list[bytes]:
    """Every packet that the runs stand for, super-packets cut again."""
    found = []
    for run in runs:
        if not run.buffers:
            assert run.packets == 1
            found.append(bytes(room[run.start + link : run.start + run.size]))
            continue
        written = b"".join(run.buffers)
        vnet, content = decode_vnet(written), written[SIZE:]
        buffer = bytearray(MAX_SIZE)
        buffer[: len(content)] = content
        segments = cut(Splitter(buffer, ip - link), len(content), vnet)
        assert len(segments) == run.packets
        found += segments
    return found


@settings(deadline=None)
@given(flow=flows(), count=st.integers(2, 40), mss=st.integers(48, 1460), rest=st.integers(0, 1459), link=st.sampled_from([0, 14]))
def test_segments_of_one_flow_become_one_super_packet_again(flow: Packet, count: int, mss: int, rest: int, link: int) -> None:
    if TCP in flow:
        flow[TCP].flags = int(flow[TCP].flags) & (ACK | PSH | ECE)
    content = CONTENT[: count * mss + min(rest, mss - 1)]
    prefix = bytes(8) if link else b""
    ethernet = (
        encoded(Ether(type=0x0800 if IP in flow else 0x86DD, src="0e:00:00:00:00:01", dst="0e:00:00:00:00:02")) if link else b""
    )
    packets = [prefix + ethernet + one for one in expected(flow, content, mss)]
    room, total = packed(packets)
    ip = len(prefix) + len(ethernet)
    runs = list(Merger(room, ip, len(prefix)).runs(total, len(packets[0])))
    assert [run.packets for run in runs] == [len(packets)]
    assert taken_apart(runs, room, len(prefix), ip) == [one[len(prefix) :] for one in packets]


@settings(deadline=None)
@given(
    several=st.lists(st.tuples(flows(), st.integers(1, 12), st.integers(0, 400)), min_size=1, max_size=5),
    size=st.integers(150, 1460),
    seed=st.integers(0, 1 << 30),
    damage=st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(1, 255)), max_size=3),
)
def test_whatever_comes_in_whatever_order_leaves_as_it_came(
    several: list[tuple[Packet, int, int]], size: int, seed: int, damage: list[tuple[int, int]]
) -> None:
    packets, rng = [], random.Random(seed)
    for flow, count, start in several:
        mss = size - len(encoded(flow))
        packets += expected(flow, CONTENT[start : start + count * mss], mss)
    for _ in range(rng.choice([0, 1, 5])):
        a, b = rng.randrange(len(packets)), rng.randrange(len(packets))
        packets[a], packets[b] = packets[b], packets[a]
    packets = [one for one in packets if len(one) == size][:80]
    if rng.random() < 0.5 and packets:
        packets[-1] = packets[-1][: rng.randrange(1, size)] if rng.random() < 0.5 else expected(several[0][0], CONTENT[:50], 60)[0]
    if not packets:
        return
    spoilt = bytearray(b"".join(packets))
    for at, value in damage:
        spoilt[at % len(spoilt)] ^= value
    total, room = len(spoilt), bytearray(PACKETS_ROOM)
    room[:total] = spoilt
    came = [bytes(spoilt[at : at + size]) for at in range(0, total, size)]
    went = taken_apart(list(Merger(room).runs(total, size)), room, 0, 0)
    assert [without_number(one) for one in went] == [without_number(one) for one in came]


def without_number(packet: bytes) -> bytes:
    """An IPv4 packet that is not to be fragmented may have any identification (RFC 6864 §4.1)."""
    if len(packet) < 20 or packet[0] >> 4 != 4 or not packet[6] & 0x40 or checksum(packet[: (packet[0] & 15) * 4]):
        return packet
    return packet[:4] + packet[6:10] + packet[12:]


def test_a_plain_packets_checksum_is_finished() -> None:
    whole = encoded(IP(src="10.5.1.2", dst="10.5.2.3") / UDP(sport=1, dport=2) / Raw(b"odd"))
    pseudo = checksum(whole[12:20] + b"\0\x11" + whole[24:26]) ^ 0xFFFF
    partial = memoryview(bytearray(whole[:26] + pseudo.to_bytes(2, "big") + whole[28:]))
    finish_checksum(partial, 20, 6)
    assert bytes(partial) == whole
    with pytest.raises(WireError, match="checksum at 41"):
        finish_checksum(partial, 35, 6)


@given(
    content=st.binary(max_size=200),
    vnet=st.builds(VnetHeader, st.just(1), st.sampled_from([1, 4, 5, 0x81]), *[st.integers(0, 300)] * 4),
)
def test_a_malformed_super_packet_is_refused(content: bytes, vnet: VnetHeader) -> None:
    room = bytearray(MAX_SIZE)
    room[: len(content)] = content
    try:
        done = Splitter(room).split(len(content), vnet)
    except WireError:
        return
    assert 0 < done.total <= 1 << 18


@pytest.mark.parametrize("data", [b"", bytes(9), b"\0\x03" + bytes(8)])
def test_a_vnet_header_that_is_none_is_refused(data: bytes) -> None:
    with pytest.raises(WireError):
        decode_vnet(data)


@given(st.builds(VnetHeader, st.integers(0, 255), st.sampled_from([0, 1, 4, 5, 0x81]), *[st.integers(0, 0xFFFF)] * 4))
def test_a_vnet_header_is_read_as_it_was_written(header: VnetHeader) -> None:
    assert decode_vnet(header.encode()) == header
