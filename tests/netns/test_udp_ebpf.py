"""The udp backend's data path in the kernel: what passes there, as what, and what falls through to user space."""

from __future__ import annotations

import json
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from ipaddress import IPv4Address

import pytest
from scapy.layers.inet import IP

from ebpf_world import HOSTS, MTU, PODS, PORT, SUBNETS, UDP_SEGMENT, EbpfWorld, Underlay, eventually, received_by, recomputed
from flanneld.wire.icmp import IcmpMessage
from flanneld.wire.ipv4 import Ipv4Packet, decode_ipv4
from flanneld.wire.udp import UdpDatagram

ECHO = Ipv4Packet(PODS[1], PODS[2], 1, IcmpMessage(8, 0, word=0x1234_0001, payload=b"hello").encode(), identification=77)
BACK = replace(ECHO, source=PODS[2], destination=PODS[1], payload=IcmpMessage(0, 0, payload=b"an answer").encode())
TUN1 = IPv4Address("10.5.1.0")


@pytest.fixture
def world() -> Iterator[EbpfWorld]:
    made = EbpfWorld()
    with made.up(1, 2):
        yield made


@pytest.fixture
def half() -> Iterator[EbpfWorld]:
    """Host 2 has its socket only."""
    made = EbpfWorld()
    with made.up(1):
        yield made


def open_udp(address: IPv4Address) -> socket.socket:
    opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    opened.bind((str(address), 5000))
    opened.settimeout(10)
    return opened


def send_together(content: bytes, size: int) -> None:
    """One super-packet of datagrams to pod 2."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, size)
        sender.sendto(content, (str(PODS[2]), 5000))


def syn(world: EbpfWorld) -> bytes:
    """What host 2's socket gets of pod 1's wish to connect."""

    def connect() -> None:
        with suppress(TimeoutError):
            socket.create_connection((str(PODS[2]), 80), 0.2)

    world.run("pod1", connect)
    return world.ends[2].fallen_to_socket()[0]


def test_pods_and_hosts_reach_each_other_and_nobody_in_user_space_hears_of_it(world: EbpfWorld) -> None:
    world.ping("pod1", PODS[2])
    world.ping("pod2", TUN1)
    world.ping("host1", PODS[2], "-s", str(MTU - 28), "-M", "do")
    world.ping("pod1", PODS[2], "-s", "8000")  # six fragments
    for number, ends in world.ends.items():
        assert ends.fallen_to_tun() == ends.fallen_to_socket() == []
        assert {name: count for name, count in world.paths[number].counters().items() if count} == {"sent": 27, "received": 27}


@pytest.mark.parametrize("underlay", Underlay)
def test_megabytes_arrive_as_they_were_sent(world: EbpfWorld, underlay: Underlay) -> None:
    world.set_underlay(underlay)
    content = os.urandom(8 << 20)
    assert world.transferred(content) == content  # at first neither knows what the other's kernel takes
    assert world.transferred(content) == content
    assert world.transferred(content, IPv4Address("10.5.2.0"), "host2") == content
    assert world.paths[2].counters()["sent"] > 3 * len(content) // MTU
    assert all(ends.fallen_to_tun() == ends.fallen_to_socket() == [] for ends in world.ends.values())


@pytest.mark.parametrize("underlay", Underlay)
def test_a_pod_gets_super_packets(world: EbpfWorld, underlay: Underlay) -> None:
    """They were merged, and nothing between has cut them again."""
    world.set_underlay(underlay)
    world.transferred(b"now the kernels know each other")
    with world.tap("pod1", "eth0") as tap:
        world.transferred(bytes(4 << 20))
        assert max(map(len, received_by(tap))) > 10_000


@pytest.mark.parametrize("underlay", Underlay)
def test_datagrams_sent_together_arrive_one_by_one(world: EbpfWorld, underlay: Underlay) -> None:
    world.set_underlay(underlay)
    world.ping("pod1", PODS[2])
    content = os.urandom(20_500)
    with world.run("pod2", open_udp, PODS[2]) as receiver:
        world.run("pod1", send_together, content, 1000)
        assert [receiver.recv(1 << 16) for _ in range(21)] == [content[start : start + 1000] for start in range(0, 20_500, 1000)]
    assert world.paths[1].counters()["sent"] == world.paths[2].counters()["received"] == 3 + 21


def test_a_tunnel_inside_the_tunnel_works(world: EbpfWorld) -> None:
    for number in HOSTS:
        ends = f"local {PODS[number]} remote {PODS[3 - number]}"
        world.ip(
            f"pod{number}",
            f"link add vx type vxlan id 7 dstport 4789 {ends}",
            f"addr add 10.9.0.{number}/24 dev vx",
            "link set vx up",
        )
    content = os.urandom(4 << 20)
    assert world.transferred(content, IPv4Address("10.9.0.2")) == content
    assert world.ends[1].fallen_to_tun() == []


def test_the_stack_sees_packets_come_in_from_the_tun(world: EbpfWorld) -> None:
    rules = 'chain in { type nat hook prerouting priority dstnat; iifname "flannel0" tcp dport 80 counter dnat to 10.5.2.2:8080; };'
    world.execute("host2", "nft", f"table ip test {{ {rules} }}")
    world.execute("host2", "sysctl", "-qw", "net.ipv4.conf.all.rp_filter=1", "net.ipv4.conf.flannel0.rp_filter=1")
    content = os.urandom(4 << 20)
    assert world.transferred(content, IPv4Address("10.5.2.0"), port=80) == content
    assert "packets 1 " in world.execute("host2", "nft", "list", "table", "ip", "test")


def test_a_datagram_is_the_bare_packet_one_hop_older(half: EbpfWorld) -> None:
    with half.tap("host2", "eth0") as tap:
        half.emit("pod1", ECHO)
        (outer,) = eventually(lambda: [IP(frame[14:]) for frame in received_by(tap) if frame[12:14] == b"\x08\0"])
    assert (outer.src, outer.dst, outer.ttl, outer.tos, str(outer.flags)) == ("192.0.2.1", "192.0.2.2", 64, 0, "DF")
    assert (outer.payload.sport, outer.payload.dport) == (PORT, PORT)
    assert bytes(outer.payload.payload) == replace(ECHO, ttl=ECHO.ttl - 2).encode()  # host 1 and the TUN are a hop each


def test_a_user_space_peer_gets_single_packets_with_finished_checksums(half: EbpfWorld) -> None:
    half.run("pod1", send_together, os.urandom(20_500), 1000)
    packets = half.ends[2].fallen_to_socket()
    assert [decode_ipv4(packet).protocol for packet in packets] == [17] * 21
    assert all(recomputed(packet) == packet and decode_ipv4(packet).ttl == 62 for packet in (*packets, syn(half)))


def test_a_peer_whose_datagrams_have_no_checksum_is_a_kernel_until_they_have(half: EbpfWorld) -> None:
    half.throw(BACK.encode(), checksum=False)
    unfinished = syn(half)
    assert recomputed(unfinished) != unfinished
    half.throw(BACK.encode())
    finished = syn(half)
    assert recomputed(finished) == finished


@pytest.mark.parametrize("packet", [replace(ECHO, ttl=2), replace(ECHO, destination=IPv4Address("10.5.9.1"))], ids=["old", "lost"])
def test_what_needs_an_answer_falls_through_to_the_tun(world: EbpfWorld, packet: Ipv4Packet) -> None:
    world.emit("pod1", packet)
    (fallen,) = eventually(world.ends[1].fallen_to_tun)
    assert fallen == replace(packet, ttl=packet.ttl - 1).encode()
    assert world.paths[1].counters()["left_to_tun"] == 1


def narrow_by_route(world: EbpfWorld) -> None:
    world.ip("host1", "route add 192.0.2.2 dev eth0 mtu lock 1300")


def narrow_by_icmp(world: EbpfWorld) -> None:
    """As a router would say that it cannot pass what the kernel has sent."""
    sent = Ipv4Packet(HOSTS[1], HOSTS[2], 17, UdpDatagram(PORT, PORT, bytes(1400)).encode(), dont_fragment=True).encode()
    world.emit("host2", Ipv4Packet(HOSTS[2], HOSTS[1], 1, IcmpMessage(3, 4, 1300, sent[:100]).encode()))
    eventually(lambda: "mtu 1300" in world.ip("host1", "route get 192.0.2.2"))


@pytest.mark.parametrize("narrow", [narrow_by_route, narrow_by_icmp])
def test_what_is_too_big_for_the_path_falls_through_to_the_tun(world: EbpfWorld, narrow: object) -> None:
    assert callable(narrow)
    narrow(world)
    fitting, big = (replace(ECHO, payload=bytes(1300 - 28 - 20 + more), dont_fragment=True) for more in (0, 1))
    world.emit("pod1", fitting, big)
    assert eventually(world.ends[1].fallen_to_tun) == [replace(big, ttl=63).encode()]
    assert world.paths[1].counters()["sent"] == 1
    world.run("pod1", send_together, bytes(20_500), 1300)  # together they are as big as what they will be cut into
    assert world.ends[1].fallen_to_tun()


def test_a_packet_with_options_is_sent_here_and_received_in_user_space(world: EbpfWorld) -> None:
    packet = replace(ECHO, options=b"\1\1\1\1")
    world.emit("pod1", packet)
    assert eventually(world.ends[2].fallen_to_socket) == [replace(packet, ttl=62).encode()]


def test_a_peer_sends_from_its_own_subnet_only(world: EbpfWorld) -> None:
    forged = [replace(BACK, source=IPv4Address(source)) for source in ("10.5.1.9", "10.5.9.9", "192.0.2.2", "8.8.8.8")]
    with world.tap("host1", "flannel0") as tap:
        world.throw(*(packet.encode() for packet in (*forged, BACK)))
        assert eventually(lambda: [frame for frame in received_by(tap) if frame[9] == 1]) == [BACK.encode()]
    assert world.paths[1].counters() == world.paths[1].counters() | {"forged": 4, "received": 1, "left_to_socket": 0}


def test_without_strictness_nobody_asks_where_a_packet_is_from(half: EbpfWorld) -> None:
    half.paths[1].close()
    half.attach(1, strict=False)
    half.reach(1)
    half.throw(replace(BACK, source=IPv4Address("10.5.9.9")).encode())
    assert half.paths[1].counters() == half.paths[1].counters() | {"forged": 0, "received": 1}
    half.paths[1].close()


def test_what_is_no_sound_packet_falls_through_to_the_socket(world: EbpfWorld) -> None:
    spoilt = bytearray(BACK.encode())
    spoilt[10] ^= 1  # its checksum
    datagrams = [
        b"",
        b"\x45",
        bytes(20),
        b"\xff" * 1000,
        BACK.encode()[:-1],
        BACK.encode() + b"\0",
        bytes(spoilt),
        replace(BACK, ttl=0).encode(),
    ]
    large = replace(BACK, payload=bytes(3000)).encode()  # in fragments of the underlay
    world.throw(*datagrams, large)
    assert eventually(world.ends[1].fallen_to_socket) == [*datagrams, large]
    assert world.paths[1].counters() == world.paths[1].counters() | {"left_to_socket": len(datagrams), "received": 0}


def test_datagrams_that_come_together_fall_through_to_the_socket(world: EbpfWorld) -> None:
    world.throw(BACK.encode() * 5, segment=len(BACK.encode()))
    assert eventually(world.ends[1].fallen_to_socket) == [BACK.encode()] * 5


def test_the_cleaner_takes_nothing_from_strangers(world: EbpfWorld) -> None:
    (device,) = json.loads(world.execute("host1", "ip", "-j", "-d", "link", "show", f"flgro{world.ends[1].uplink:x}v"))
    stranger = struct.pack("!II", 0x0C00_0001, 7 << 8) + BACK.encode()

    def send() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(stranger, ("10.5.1.1", device["linkinfo"]["info_data"]["port"]))

    world.run("pod1", send)
    assert eventually(lambda: world.paths[1].counters()["forged"]) == 1


def test_who_is_reached_no_more_gets_nothing_and_sends_nothing(world: EbpfWorld) -> None:
    other = {SUBNETS[2]: IPv4Address("192.0.2.77")}
    world.paths[1].reach({}, other)
    world.emit("pod1", ECHO)
    assert len(eventually(world.ends[1].fallen_to_tun)) == 1
    world.throw(BACK.encode())
    assert eventually(lambda: world.paths[1].counters()["forged"]) == 1
    world.reach(1)
    world.ping("pod1", PODS[2])


def test_a_longer_prefix_wins(half: EbpfWorld) -> None:
    half.paths[1].reach({SUBNETS[2]: IPv4Address("192.0.2.77"), **dict.fromkeys(SUBNETS[2].subnets(8), HOSTS[2])}, {})
    half.emit("pod1", ECHO)
    assert len(eventually(half.ends[2].fallen_to_socket)) == 1


def test_nothing_passes_before_peers_are_known() -> None:
    world = EbpfWorld()
    with world.up():
        world.attach(1)
        world.emit("pod1", ECHO)
        world.throw(BACK.encode())
        assert len(eventually(world.ends[1].fallen_to_tun)) == len(eventually(world.ends[1].fallen_to_socket)) == 1
        world.paths[1].close()
