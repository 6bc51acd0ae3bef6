"""The udp backend on the real kernel: flannel's wire format, and a router's manners."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from ipaddress import IPv4Address, ip_address, ip_network

import pytest
from scapy.layers.inet import IP, TCP

from flanneld.backend import BackendError
from flanneld.backends.udp.backend import QUEUE_S, UdpBackend
from flanneld.kernel import KernelError
from flanneld.lease import Lease, LeaseAttrs
from flanneld.linux.kernel import LinuxKernel
from flanneld.linux.netlink import Netlink
from flanneld.linux.tun import TunDevice, open_tun
from flanneld.tunnel.switch import Drop
from flanneld.wire.ethernet import IPV4, decode_ethernet
from flanneld.wire.icmp import IcmpMessage, decode_icmp
from flanneld.wire.ipv4 import Ipv4Packet, decode_ipv4
from flanneld.wire.udp import PROTOCOL as UDP
from flanneld.wire.udp import decode_udp
from udp_world import LEASES, NETWORK, UPLINKS, Host, World, drained, network, uplink

POD1, POD2 = IPv4Address("10.5.1.2"), IPv4Address("10.5.2.2")
TUN1, TUN2 = IPv4Address("10.5.1.0"), IPv4Address("10.5.2.0")
ECHO = Ipv4Packet(POD1, POD2, 1, IcmpMessage(8, 0, word=0x1234_0001, payload=b"hello").encode(), identification=77)

TCP_PROTOCOL = 6


@pytest.fixture(params=["tun", "native", "ebpf"])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    made = World(network(DataPath=request.param))
    with made.up():
        yield made


def ping(world: World, source: str, destination: str, *options: str) -> None:
    world.execute(source, "ping", "-c", "2", "-i", "0.05", "-W", "5", *options, destination)


def icmp_after(packet: Ipv4Packet) -> Ipv4Packet:
    """Send the packet as it is and return the first ICMP packet that comes back."""
    with (
        socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as answers,
        socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw,
    ):
        answers.settimeout(10)
        raw.sendto(packet.encode(), (str(packet.destination), 0))
        return decode_ipv4(answers.recv(2048))


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def serve_once(listener: socket.socket, content: bytes) -> None:
    with listener, listener.accept()[0] as connection:
        connection.sendall(content)


def listen(address: IPv4Address) -> socket.socket:
    return socket.create_server((str(address), 8080))


def fetched(address: IPv4Address) -> bytes:
    content = b""
    with socket.create_connection((str(address), 8080), timeout=20) as connection:
        while chunk := connection.recv(1 << 16):
            content += chunk
    return content


def transferred(world: World, content: bytes) -> bytes:
    """What pod1 gets when it asks pod2 for the content."""
    listener = world.run("pod2", listen, POD2)
    with ThreadPoolExecutor(1) as server:
        served = server.submit(serve_once, listener, content)
        received = world.run("pod1", fetched, POD2)
        served.result(20)
    return received


def test_pods_and_hosts_reach_each_other_both_ways(world: World) -> None:
    ping(world, "pod1", str(POD2))
    ping(world, "pod2", str(POD1))
    ping(world, "host1", str(POD2))
    ping(world, "pod2", str(TUN1))
    ping(world, "pod1", str(POD2), "-s", "1444", "-M", "do")  # 1472 bytes: what the TUN's MTU promises


def test_device_address_and_route_are_flannels(world: World) -> None:
    (device,) = json.loads(world.execute("host1", "ip", "-j", "address", "show", "flannel0"))
    assert (device["mtu"], device["addr_info"][0]["local"], device["addr_info"][0]["prefixlen"]) == (1472, "10.5.1.0", 32)
    assert len(device["addr_info"]) == 1
    assert world.ip("host1", "route show 10.5.0.0/16").split() == ["10.5.0.0/16", "dev", "flannel0", "proto", "84", "scope", "link"]
    assert world.hosts[1].network.mtu == 1472
    assert world.hosts[1].network.attrs == LEASES[1].attrs


def test_nothing_stays_when_the_context_ends() -> None:
    world = World()
    with world.made("host1", "router"):
        world.cable("host1", "eth0", "router", "host1")
        world.ip("host1", "addr add 192.0.2.1/24 dev eth0")
        with world.hosts[1].running():
            assert "flannel0" in world.ip("host1", "link show")
        assert "flannel" not in world.ip("host1", "link show")
        assert "8285" not in world.execute("host1", "cat", "/proc/net/udp")


def test_megabytes_arrive_as_they_were_sent(world: World) -> None:
    content = os.urandom(4 << 20)
    assert hashlib.sha256(transferred(world, content)).digest() == hashlib.sha256(content).digest()


def test_a_datagram_is_the_bare_packet_one_hop_older_and_every_checksum_is_right(world: World) -> None:
    # In the kernel packets leave before a tap on the TUN sees them: there they are taken where they come in, a hop of the host
    # before. Packets of two processors may pass each other behind that.
    in_kernel = world.data_path == "ebpf"
    with world.tap("host1", "pod" if in_kernel else "flannel0") as before, world.tap("router", "host1") as wire:
        look = received_frames if in_kernel else sent_frames
        ping(world, "pod1", str(POD2))
        transferred(world, os.urandom(100_000))
        packets, carried = list(look(before)), list(map(inner_of, received_frames(wire)))
        while len(carried) != len(packets):  # the last of the connection may be on its way still, in either look
            packets += look(before)
            carried += map(inner_of, received_frames(wire))
    hops = 2 if in_kernel else 1
    aged = [replace(packet, ttl=packet.ttl - hops).encode() for packet in map(decode_ipv4, packets)]
    assert (sorted(carried) == sorted(aged)) if in_kernel else (carried == aged)
    assert len(carried) > 10
    for inner in carried:
        assert is_right(inner)


def sent_frames(tap: socket.socket) -> Iterator[bytes]:
    return (frame for frame, outgoing in drained(tap) if outgoing)


def received_frames(tap: socket.socket) -> Iterator[bytes]:
    frames = (decode_ethernet(frame) for frame, outgoing in drained(tap) if not outgoing)
    return (frame.payload for frame in frames if frame.ethertype == IPV4)


def inner_of(outer: bytes) -> bytes:
    """The payload of a packet from host1 to host2, all of whose fields are as they should be."""
    packet = decode_ipv4(outer)
    datagram = decode_udp(packet.payload, (packet.source, packet.destination))
    assert (packet.protocol, packet.dont_fragment) == (UDP, True)
    assert (str(packet.source), str(packet.destination)) == (UPLINKS[1], UPLINKS[2])
    assert (datagram.source_port, datagram.destination_port) == (8285, 8285)
    return datagram.payload


def is_right(packet: bytes) -> bool:
    """True if every checksum is; a TCP sum of zero has two forms, of which scapy writes the one, and a sender may the other."""
    header = (packet[0] & 0xF) * 4
    again, at = recomputed(packet), header + 16
    either = packet[9] == TCP_PROTOCOL and {packet[at : at + 2], again[at : at + 2]} == {b"\0\0", b"\xff\xff"}
    return again == (packet[:at] + again[at : at + 2] + packet[at + 2 :] if either else packet)


def recomputed(packet: bytes) -> bytes:
    """The packet with scapy's checksums in it."""
    parsed = IP(packet)
    del parsed.chksum
    for layer in parsed.iterpayloads():
        if isinstance(layer, TCP) or layer.name == "ICMP":
            del layer.chksum
    return bytes(parsed)


def test_a_trace_of_the_path_names_every_router_on_it(world: World) -> None:
    hops = [world.run("pod1", icmp_after, replace(ECHO, ttl=ttl)) for ttl in (1, 2, 3, 4)]
    assert [str(hop.source) for hop in hops] == ["10.5.1.1", str(TUN1), str(TUN2), str(POD2)]
    assert [decode_icmp(hop.payload).type for hop in hops] == [11, 11, 11, 0]
    assert decode_icmp(hops[1].payload).payload == replace(ECHO, ttl=1).encode()


def test_a_packet_for_a_subnet_without_a_host_gets_net_unreachable(world: World) -> None:
    answer = world.run("pod1", icmp_after, replace(ECHO, destination=IPv4Address("10.5.9.1")))
    message = decode_icmp(answer.payload)
    assert (answer.source, answer.destination, message.type, message.code) == (TUN1, POD1, 3, 0)


def test_the_host_itself_is_told_too(world: World) -> None:
    with pytest.raises(OSError, match="Network is unreachable"):
        world.run("host1", socket.create_connection, ("10.5.9.1", 80), timeout=10)


@pytest.fixture
def narrow(world: World) -> World:
    """The router takes 1400 bytes either way, and both hosts have learnt it from packets that were lost there."""
    routes = (
        f"route change {ip_network(f'{uplink}/24', strict=False)} dev host{number} mtu 1400" for number, uplink in UPLINKS.items()
    )
    world.ip("router", *routes)
    with suppress(AssertionError):
        world.execute("pod1", "ping", "-c", "3", "-i", "0.1", "-W", "1", "-s", "1444", "-M", "dont", str(POD2))
    return world


def test_a_packet_too_big_for_the_path_that_must_not_be_cut_gets_the_next_hop_mtu(narrow: World) -> None:
    big = replace(ECHO, dont_fragment=True, payload=IcmpMessage(8, 0, payload=b"x" * 1400).encode())
    answer = narrow.run("pod1", icmp_after, big)
    message = decode_icmp(answer.payload)
    assert (answer.source, message.type, message.code, message.word) == (TUN1, 3, 4, 1372)
    fitting = replace(big, payload=IcmpMessage(8, 0, payload=b"x" * (1372 - 28)).encode())
    assert decode_icmp(narrow.run("pod1", icmp_after, fitting).payload).type == 0


def test_a_packet_too_big_for_the_path_that_may_be_cut_arrives_in_pieces(narrow: World) -> None:
    with narrow.tap("router", "host1") as wire:
        ping(narrow, "pod1", str(POD2), "-s", "1444", "-M", "dont")
        pieces = [decode_ipv4(inner_of(outer)) for outer in received_frames(wire)]
    assert {(piece.offset, piece.more_fragments) for piece in pieces} == {(0, True), (1352, False)}
    assert narrow.hosts[1].network.plane.counters.fragmented >= 2


def test_a_tcp_connection_finds_the_path_mtu(narrow: World) -> None:
    content = os.urandom(200_000)
    assert transferred(narrow, content) == content


def test_garbage_on_the_port_is_dropped_and_counted(world: World) -> None:
    garbage = [
        b"",
        b"\0",
        b"\x45",
        bytes(20),
        b"\x45" + bytes(19),
        b"\xff" * 1000,
        ECHO.encode()[:-1],
        replace(ECHO, ttl=0).encode(),
    ]

    def throw() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as thrower:
            for datagram in garbage:
                thrower.sendto(datagram, (UPLINKS[1], 8285))

    world.run("router", throw)
    plane = world.hosts[1].network.plane
    eventually(lambda: plane.counters.dropped[Drop.MALFORMED] == len(garbage))
    ping(world, "pod1", str(POD2))


def sent_by(host: Host) -> int:
    """Datagrams to peers, whoever has sent them."""
    done, _ = host.network.carried()
    return done["sent"] + done.get("kernel_sent", 0)


def test_a_peer_whose_daemon_is_down_disturbs_no_other(world: World) -> None:
    host = world.hosts[1]
    down = Lease((ip_network("10.5.3.0/24"),), LeaseAttrs((ip_address("192.0.2.254"),)))
    assert host.call(host.apply([down, LEASES[2]])) == ()
    sent = sent_by(host)
    with pytest.raises(AssertionError, match="100% packet loss"):
        world.execute("pod1", "ping", "-c", "5", "-i", "0.02", "-W", "1", "10.5.3.1")
    ping(world, "pod1", str(POD2))
    assert sent_by(host) == sent + 7
    assert not host.network.plane.counters.dropped


def test_a_deleted_tun_comes_back_at_once(world: World) -> None:
    world.ip("host1", "link delete flannel0")
    eventually(lambda: "10.5.0.0/16" in world.ip("host1", "route show"))
    ping(world, "pod1", str(POD2))


def test_a_tun_that_cannot_be_made_at_once_is_tried_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    refusals = [KernelError(code, "tun device flannel%d", "not now") for code in (errno.EBUSY, errno.EPERM)]

    def open_later(name: str, *, tap: bool) -> TunDevice:
        if refusals:
            raise refusals.pop()
        return open_tun(name, tap=tap)

    monkeypatch.setattr("flanneld.tunnel.kept.open_tun", open_later)
    test_a_deleted_tun_comes_back_at_once(world)
    assert not refusals


@pytest.mark.parametrize(
    "damage", ["link set flannel0 down", "addr flush dev flannel0", "route delete 10.5.0.0/16", "link set flannel0 mtu 1280"]
)
def test_apply_repairs_what_was_changed(world: World, damage: str) -> None:
    host = world.hosts[1]
    world.ip("host1", damage)
    host.call(host.apply([LEASES[2]]))
    ping(world, "pod1", str(POD2), "-s", "1444", "-M", "do")
    ping(world, "pod2", str(TUN1))


def test_apply_and_adopt_again_change_nothing(world: World) -> None:
    host, before = world.hosts[1], world.execute("host1", "ip", "-d", "address", "show")
    host.call(host.network.adopt(LEASES[1]))
    host.call(host.apply([LEASES[2]]))
    assert world.execute("host1", "ip", "-d", "address", "show") == before


def test_a_peer_that_left_is_unreachable_and_another_subnet_of_ours_takes_over(world: World) -> None:
    host = world.hosts[1]
    host.call(host.apply([]))
    time.sleep(QUEUE_S * 1.5)  # until then what waits in the TUN's queue still goes there
    assert decode_icmp(world.run("pod1", icmp_after, ECHO).payload).type == 3
    host.call(host.network.adopt(Lease((ip_network("10.5.4.0/24"),), LEASES[1].attrs)))
    assert "inet 10.5.4.0/32" in world.ip("host1", "addr show flannel0")
    assert "10.5.1.0/32" not in world.ip("host1", "addr show flannel0")


async def attach_again() -> None:
    with Netlink() as netlink:
        async with UdpBackend().attach(uplink(netlink, 1), NETWORK, LinuxKernel(netlink)):
            pass


def test_a_taken_port_is_an_error_that_names_it(world: World) -> None:
    with pytest.raises(BackendError, match=r"cannot use udp port 8285 of 192\.0\.2\.1: address already in use"):
        world.run("host1", lambda: asyncio.run(attach_again()))
