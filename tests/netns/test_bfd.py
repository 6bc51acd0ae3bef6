"""The BFD service in real namespaces, against itself: what is said, what is believed, and what is survived."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from ipaddress import ip_address

import pytest

from bfd_world import DEVICE, LINK_LOCAL, NETWORKS, V4, V6, BfdWorld, address, eventually, settings
from bgp.bfd.packet import ControlPacket, Drop, State, decode_control
from bgp.bfd.service import ADMINISTRATIVELY_DOWN, BfdSettings
from bgp.bfd.sockets import PORT

A4, B4 = address(V4, "a"), address(V4, "b")
ENDED = ControlPacket(State.ADMIN_DOWN, 99, 0, 1_000_000, 1_000_000, 3)
"""Whoever believes it is not up any more."""
IP_RECVTTL, IP_RECVTOS = 12, 13  # linux/in.h


@pytest.fixture
def world() -> Iterator[BfdWorld]:
    made = BfdWorld()
    with made.up():
        yield made


@pytest.fixture
def lone() -> Iterator[BfdWorld]:
    """The service runs on host a alone."""
    made = BfdWorld()
    with made.up("a"):
        yield made


@pytest.mark.parametrize("network", NETWORKS)
def test_both_are_up_and_a_cut_link_takes_both_down_until_it_is_mended(world: BfdWorld, network: str) -> None:
    world.follow(network)
    world.cut("b")
    eventually(lambda: len(world.a.told) == len(world.b.told) == 2)
    world.mend("b")
    world.wait_until_up(network)
    for host, peer in ((world.a, "b"), (world.b, "a")):
        assert [up for _, up, _ in host.told] == [True, False, True]
        assert host.told[1] == (address(network, peer), False, "detection time expired")


def test_a_neighbour_that_ends_its_session_is_not_taken_for_dead(world: BfdWorld) -> None:
    world.follow(V4)
    world.b.follow({})
    eventually(lambda: len(world.a.told) == 2)
    assert world.a.told[-1] == (B4, False, ADMINISTRATIVELY_DOWN)
    assert world.b.told == [(A4, True, "none")]
    world.b.follow({A4: settings(V4, "b")})
    world.wait_until_up(V4)


def test_the_end_of_the_service_is_said_to_all(world: BfdWorld) -> None:
    world.follow(V6)
    world.b.call(world.b.service.close)
    eventually(lambda: len(world.a.told) == 2)
    assert world.a.told[-1][2] == ADMINISTRATIVELY_DOWN


def test_other_intervals_are_agreed_upon_while_the_session_runs(world: BfdWorld) -> None:
    world.follow(V4)
    for interval_ms, multiplier in ((500, 4), (50, 20), (50, 20), (200, 5)):
        world.a.follow({B4: settings(V4, "a", interval_ms, multiplier)})
        time.sleep(1)
    assert world.a.told == [(B4, True, "none")]
    assert world.b.told == [(A4, True, "none")]


def test_another_local_address_is_another_session(world: BfdWorld) -> None:
    world.ip("a", f"addr add 192.0.2.11/24 dev {DEVICE}")
    world.follow(V4)
    other = BfdSettings(address("192.0.2.1", "a"), 100, 3)
    world.a.follow({B4: other})
    world.b.follow({other.local: settings(V4, "b")})
    eventually(lambda: len(world.a.told) == 3)
    assert world.a.told == [(B4, True, "none"), (B4, False, ADMINISTRATIVELY_DOWN), (B4, True, "none")]
    assert world.b.told[-1] == (other.local, True, "none")


@pytest.mark.parametrize("network", NETWORKS)
def test_a_packet_that_was_forwarded_is_dropped(world: BfdWorld, network: str) -> None:
    world.follow(network)
    target = (str(address(network, "a")), PORT)
    device = world.run("b", socket.if_nametoindex, DEVICE) if network == LINK_LOCAL else 0
    with world.socket("b", network, ttl=254) as far, world.socket("b", network) as near:
        for one in (far, near):
            one.bind((str(address(network, "b")), 0, *((0, device) if network != V4 else ())))
        for _ in range(5):
            far.sendto(ENDED.encode(), (*target, 0, device) if network != V4 else target)
        eventually(lambda: world.a.service.dropped[Drop.TTL] == 5)
        assert [up for _, up, _ in world.a.told] == [True]
        near.sendto(ENDED.encode(), (*target, 0, device) if network != V4 else target)
        eventually(lambda: [up for _, up, _ in world.a.told[:2]] == [True, False])


def test_a_stranger_is_not_listened_to(world: BfdWorld) -> None:
    world.ip("b", f"addr add 192.0.2.77/24 dev {DEVICE}")
    world.follow(V4)
    with world.socket("b", V4) as stranger:
        stranger.bind(("192.0.2.77", 0))
        stranger.sendto(ENDED.encode(), (str(A4), PORT))
        eventually(lambda: world.a.service.dropped[Drop.STRANGER] == 1)
    assert len(world.a.told) == 1


def test_a_flood_of_garbage_is_counted_and_takes_nothing_down(world: BfdWorld) -> None:
    world.follow(V4)
    garbage = [os.urandom(size) for size in (1, 23, 24, 60, 255, 1400)]
    garbage += [b"\x20\xc0\x03\x18" + os.urandom(20), b"\x40" + os.urandom(40), b""]
    with world.socket("b", V4) as flooder:
        flooder.bind((str(B4), 0))
        for number in range(20_000):
            flooder.sendto(garbage[number % len(garbage)], (str(A4), PORT))
        eventually(lambda: world.a.service.dropped.total() > 1000)
        time.sleep(0.5)
    dropped = world.a.service.dropped
    assert dropped.keys() >= {Drop.LENGTH, Drop.VERSION, Drop.DISCRIMINATOR}
    assert world.a.state(B4) is State.UP
    assert len(world.a.told) == len(world.b.told) == 1


def test_a_loop_that_was_busy_reads_what_has_come_before_it_calls_the_neighbour_dead(world: BfdWorld) -> None:
    world.a.follow({B4: settings(V4, "a", multiplier=100)})  # so that the neighbour bears with our own silence
    world.b.follow({A4: settings(V4, "b", multiplier=3)})
    world.wait_until_up(V4)

    def be_busy() -> None:
        world.a.loop.call_at(0, time.sleep, 1)  # in one turn of the loop with the session's timer, and before it
        time.sleep(0.2)

    for _ in range(3):
        world.a.call(be_busy)
        time.sleep(1.5)
    assert [up for _, up, _ in world.a.told] == [True]
    assert [up for _, up, _ in world.b.told] == [True]


def test_an_address_that_comes_later_is_waited_for(world: BfdWorld) -> None:
    late = BfdSettings(address("192.0.2.1", "a"), 100, 3)
    world.a.follow({B4: late})
    world.b.follow({late.local: settings(V4, "b")})
    assert world.a.state(B4) is None
    world.ip("a", f"addr add 192.0.2.11/24 dev {DEVICE}")
    eventually(lambda: world.a.state(B4) is State.UP)


def test_a_device_that_was_made_anew_is_listened_to_again(world: BfdWorld) -> None:
    world.follow(LINK_LOCAL)
    world.ip("a", f"link delete {DEVICE}")
    eventually(lambda: len(world.a.told) == len(world.b.told) == 2)
    world.plug("a")
    world.wait_until_up(LINK_LOCAL)


def test_a_link_local_address_may_name_its_device_itself(world: BfdWorld) -> None:
    peer = ip_address(f"{address(LINK_LOCAL, 'b')}%{DEVICE}")
    world.a.follow({peer: BfdSettings(address(LINK_LOCAL, "a"), 100, 10)})
    world.b.follow({address(LINK_LOCAL, "a"): settings(LINK_LOCAL, "b")})
    eventually(lambda: world.a.told == [(peer, True, "none")])


def test_a_port_that_somebody_else_has_is_waited_for(lone: BfdWorld) -> None:
    with lone.socket("a", V4) as somebody:
        somebody.bind(("0.0.0.0", PORT))  # noqa: S104  # as another BFD daemon would
        lone.a.follow({B4: settings(V4, "a")})
        assert lone.a.state(B4) is None
    eventually(lambda: lone.a.state(B4) is State.DOWN)


@pytest.mark.parametrize("network", NETWORKS)
def test_packets_are_sent_as_single_hop_asks(lone: BfdWorld, network: str) -> None:
    device = lone.run("b", socket.if_nametoindex, DEVICE) if network == LINK_LOCAL else 0
    with lone.socket("b", network) as neighbour:
        neighbour.bind((str(address(network, "b")), PORT, *((0, device) if network != V4 else ())))
        options = ((socket.IPPROTO_IP, IP_RECVTTL), (socket.IPPROTO_IP, IP_RECVTOS))
        if network != V4:
            options = ((socket.IPPROTO_IPV6, socket.IPV6_RECVHOPLIMIT), (socket.IPPROTO_IPV6, socket.IPV6_RECVTCLASS))
        for level, option in options:
            neighbour.setsockopt(level, option, 1)
        lone.a.follow({address(network, "b"): settings(network, "a")})
        payload, ancillary, _, source = neighbour.recvmsg(100, 200)
        _, _, _, again = neighbour.recvmsg(100, 200)
    assert decode_control(payload).state is State.DOWN
    assert sorted(data[0] for _, _, data in ancillary) == [0xC0, 255]
    assert 49152 <= source[1] <= 65535
    assert source[1] == again[1]
