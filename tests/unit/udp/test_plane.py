"""The engine around `forward`, with a socket pair in the TUN's place and peers on loopback."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from typing import cast

import pytest
from scapy.layers.inet import IP, TCP
from scapy.packet import Raw

from flanneld.backends.udp.forward import Router
from flanneld.backends.udp.routes import PrefixTable
from flanneld.linux.tun import TunDevice
from flanneld.tunnel.native import NativePlane
from flanneld.tunnel.plane import Plane
from flanneld.tunnel.sockets import Offloads, offload
from flanneld.tunnel.switch import Drop, Endpoint
from flanneld.wire.icmp import decode_icmp
from flanneld.wire.ipv4 import Ipv4Packet, decode_ipv4
from flanneld.wire.vnet import NEEDS_CSUM, NO_OFFLOAD, TCPV4, VnetHeader

PACKET = Ipv4Packet(IPv4Address("10.5.1.2"), IPv4Address("10.5.2.3"), 17, b"payload", identification=9)

ANSWER = replace(PACKET, source=PACKET.destination, destination=PACKET.source)


class SentErrors(list[bytes]):
    """In the raw socket's place."""

    def sendto(self, packet: bytes, destination: tuple[str, int]) -> None:
        self.append(packet)


class Full(socket.socket):
    """Its send buffer is: on loopback a real one never gets so far."""

    def sendto(self, *_: object) -> int:
        raise BlockingIOError(errno.EAGAIN, "full")


class Unsegmenting(socket.socket):
    """An interface that has no checksums for the segments."""

    def sendmsg(self, *_: object) -> int:
        raise OSError(errno.EIO, "no such offload")


class Rig:
    """One data plane between the kernel's end of a TUN and a peer."""

    def __init__(
        self,
        kind: type[Plane],
        offloads: Offloads | None = None,
        *,
        strict: bool = True,
        sockets: type[socket.socket] = socket.socket,
    ) -> None:
        tun, self.kernel = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.underlay, self.peer = (opened(socket.AF_INET, socket.SOCK_DGRAM) for opened in (sockets, socket.socket))
        for opened in (tun, self.kernel, self.underlay, self.peer):
            opened.setblocking(False)
        self.underlay.bind(("127.0.0.1", 0))
        self.peer.bind(("127.0.0.1", 0))
        self.errors = SentErrors()
        self.router = Router(cast("socket.socket", self.errors), strict=strict)
        self.plane = kind(self.underlay, TunDevice(tun.detach(), "tun", 1), self.router, offloads or offload(self.underlay), 1472)
        self.router.peers = PrefixTable({IPv4Network("10.5.2.0/24"): self.peer.getsockname()})
        self.router.sources = self.router.peers
        self.router.address = IPv4Address("10.5.1.0")

    def from_peer(self, datagram: bytes) -> None:
        self.peer.sendto(datagram, self.underlay.getsockname())

    async def handled(self, packets: int) -> None:
        """Wait until this many packets have been sent, delivered or dropped."""
        async with asyncio.timeout(10):
            while True:
                counters = self.plane.counters
                if counters.sent + counters.received + counters.dropped.total() >= packets:
                    return
                await asyncio.sleep(0.001)

    def from_pod(self, packet: bytes) -> None:
        self.kernel.send(NO_OFFLOAD + packet)

    def close(self) -> None:
        with self.plane, self.kernel, self.underlay, self.peer:
            pass


@pytest.fixture(params=[Plane, NativePlane])
def rig(request: pytest.FixtureRequest) -> Iterator[Rig]:
    made = Rig(request.param)
    yield made
    made.close()


async def test_a_packet_from_the_tun_reaches_the_peer_bare_and_one_hop_older(rig: Rig) -> None:
    rig.from_pod(PACKET.encode())
    with rig.plane.running():
        await rig.handled(1)
    assert rig.peer.recv(2048) == replace(PACKET, ttl=63).encode()


async def test_a_packet_from_the_peer_reaches_the_tun_as_it_came_and_garbage_or_anothers_source_does_not(rig: Rig) -> None:
    for datagram in (b"", b"garbage", ANSWER.encode()[:-1], PACKET.encode(), ANSWER.encode()):
        rig.from_peer(datagram)
    with rig.plane.running():
        await rig.handled(5)
    assert rig.kernel.recv(2048) == NO_OFFLOAD + ANSWER.encode()
    assert rig.plane.counters.dropped == {Drop.MALFORMED: 3, Drop.SPOOFED: 1}


@pytest.mark.parametrize("kind", [Plane, NativePlane])
async def test_anybody_may_send_from_anywhere_when_sources_are_not_checked(kind: type[Plane]) -> None:
    made = Rig(kind, strict=False)
    made.from_peer(PACKET.encode())
    with made.plane.running():
        await made.handled(1)
    assert made.kernel.recv(2048) == NO_OFFLOAD + PACKET.encode()
    made.close()


async def test_the_sender_is_told_at_a_limited_rate_from_our_address(rig: Rig) -> None:
    with rig.plane.running():
        for count in range(1, 101):
            rig.from_pod(replace(PACKET, ttl=1).encode())
            await rig.handled(count)
    counters, told = rig.plane.counters, decode_ipv4(rig.errors[0])
    assert counters.errors_sent == len(rig.errors)
    assert counters.errors_sent + counters.errors_suppressed == 100
    assert (told.source, told.destination, decode_icmp(told.payload).type) == (rig.router.address, PACKET.source, 11)


async def test_without_an_address_nobody_is_told(rig: Rig) -> None:
    rig.router.address = None
    rig.from_pod(replace(PACKET, ttl=1).encode())
    with rig.plane.running():
        await rig.handled(1)
    assert rig.errors == []


async def test_a_peer_that_cannot_be_sent_to_does_not_disturb_another(rig: Rig) -> None:
    rig.router.peers = PrefixTable(
        {IPv4Network("10.5.2.0/24"): rig.peer.getsockname(), IPv4Network("10.5.3.0/24"): ("127.0.0.1", 0)}
    )
    rig.from_pod(replace(PACKET, destination=IPv4Address("10.5.3.1")).encode())
    rig.from_pod(PACKET.encode())
    with rig.plane.running():
        await rig.handled(2)
    assert rig.plane.counters.dropped == {Drop.SEND_FAILED: 1}


async def test_a_full_tun_costs_the_packet_and_nothing_else(rig: Rig) -> None:
    with rig.plane.running():
        for count in range(1, 1000):
            rig.from_peer(ANSWER.encode())
            await rig.handled(count)
            if rig.plane.counters.dropped:
                break
    assert rig.plane.counters.dropped == {Drop.TUN_REFUSED: 1}


async def test_a_flood_from_the_tun_does_not_starve_the_underlay(rig: Rig) -> None:
    class Flood(PrefixTable[Endpoint]):
        """Each packet that is looked up brings the next."""

        def lookup(self, address: int) -> Endpoint | None:
            rig.from_pod(PACKET.encode())
            return super().lookup(address)

    rig.router.peers = Flood({IPv4Network("10.5.2.0/24"): rig.peer.getsockname()})
    rig.from_pod(PACKET.encode())
    rig.from_peer(ANSWER.encode())
    with rig.plane.running():
        async with asyncio.timeout(10):
            while not rig.plane.counters.received:  # noqa: ASYNC110  # a counter tells nobody
                await asyncio.sleep(0.001)


async def sent_in_segments(rig: Rig) -> None:
    whole = bytes(IP(src="10.5.1.2", dst="10.5.2.3", flags="DF") / TCP(flags="PA") / Raw(bytes(range(250)) * 10))
    rig.kernel.send(VnetHeader(NEEDS_CSUM, TCPV4, 40, 1000, 20, 16).encode() + whole)
    sent = rig.plane.counters.sent
    with rig.plane.running():
        await rig.handled(sent + 3)
    received = [IP(rig.peer.recv(2048)) for _ in range(3)]
    assert b"".join(bytes(one[TCP].payload) for one in received) == bytes(range(250)) * 10
    assert [one[TCP].seq for one in received] == [0, 1000, 2000]


async def test_a_super_packet_is_sent_in_segments(rig: Rig) -> None:
    await sent_in_segments(rig)


async def test_a_super_packet_is_sent_in_segments_without_the_kernels_help_too() -> None:
    made = Rig(Plane, Offloads(segmentation=False, merging=False))
    await sent_in_segments(made)
    made.close()


async def test_what_the_send_buffer_has_no_room_for_is_counted() -> None:
    made = Rig(Plane, sockets=Full)
    made.from_pod(PACKET.encode())
    with made.plane.running():
        await made.handled(1)
    assert made.plane.counters.dropped == {Drop.BUFFER_FULL: 1}
    made.close()


async def test_what_the_uplink_cannot_send_in_segments_is_sent_one_by_one_and_told_once(caplog: pytest.LogCaptureFixture) -> None:
    made = Rig(Plane, sockets=Unsegmenting)
    for _ in range(2):
        await sent_in_segments(made)
    assert caplog.messages == ["packets are sent one by one"]
    made.close()
