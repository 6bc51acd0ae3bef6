"""Whole transfers through the user-space data paths: what arrives is what was sent, whatever the underlay does to datagrams."""

from __future__ import annotations

import hashlib
import os
import random
import select
import socket
import struct
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from ipaddress import IPv4Address

import pytest

from flanneld.linux.tun import TunDevice, open_tun
from flanneld.tunnel.switch import Drop
from udp_world import UPLINKS, World, network

POD2 = IPv4Address("10.5.2.2")
PORT = 8285
UDP_GRO, SOL_UDP = 104, 17


@pytest.fixture(params=["tun", "native", "ebpf"])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    made = World(network(DataPath=request.param))
    with made.up():
        yield made


class Unsteady:
    """A router that has both hosts' datagrams in its hands: it loses some, sends some twice, and some late."""

    def __init__(self, world: World, seed: int) -> None:
        self._rng = random.Random(seed)
        self._world = world
        self._end = threading.Event()
        self.lost = self.twice = self.late = 0
        self._tun: TunDevice

    @contextmanager
    def running(self) -> Iterator[None]:
        """The routers' way from one host to the other leads through a TUN of its own, by policy."""
        self._tun = self._world.run("router", open_tun, "unsteady")
        self._world.ip("router", "link set unsteady up", "route add default dev unsteady table 7")
        for number in UPLINKS:
            self._world.ip("router", f"rule add iif host{number} lookup 7")
        for device in ("all", "unsteady"):
            self._world.run("router", _write, f"/proc/sys/net/ipv4/conf/{device}/rp_filter", "0")
        thread = threading.Thread(target=self._run)
        thread.start()
        try:
            yield
        finally:
            self._end.set()
            thread.join()
            self._tun.close()

    def _run(self) -> None:
        held: list[tuple[float, bytes]] = []
        while not self._end.is_set():
            if select.select([self._tun.fd], [], [], 0.002)[0]:
                held += self._fate(os.read(self._tun.fd, 1 << 17))
            due = [packet for at, packet in held if at <= time.monotonic()]
            held = [(at, packet) for at, packet in held if at > time.monotonic()]
            for packet in due:
                os.write(self._tun.fd, packet)

    def _fate(self, packet: bytes) -> list[tuple[float, bytes]]:
        chance, now = self._rng.random(), time.monotonic()
        if chance < 0.01:
            self.lost += 1
            return []
        if chance < 0.02:
            self.twice += 1
            return [(now, packet), (now, packet)]
        if chance < 0.04:
            self.late += 1
            return [(now + self._rng.uniform(0.001, 0.01), packet)]
        return [(now, packet)]


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="ascii") as file:
        file.write(text)


def received(listener: socket.socket) -> str:
    """The hash of what one connection brings."""
    digest = hashlib.sha256()
    with listener, listener.accept()[0] as connection:
        while chunk := connection.recv(1 << 16):
            digest.update(chunk)
    return digest.hexdigest()


def transfer(world: World, content: bytes, streams: int = 1) -> None:
    """Send it from pod 1 to pod 2 over several connections at once, and compare hashes."""

    def listen() -> socket.socket:
        return socket.create_server((str(POD2), 0))

    def send(port: int) -> None:
        with socket.create_connection((str(POD2), port), timeout=60) as connection:
            connection.sendall(content)

    listeners = [world.run("pod2", listen) for _ in range(streams)]
    with ThreadPoolExecutor(2 * streams) as threads:
        hashes = [threads.submit(received, listener) for listener in listeners]
        sent = [threads.submit(world.run, "pod1", send, listener.getsockname()[1]) for listener in listeners]
        for one in sent:
            one.result(120)
        assert {one.result(120) for one in hashes} == {hashlib.sha256(content).hexdigest()}


@pytest.mark.parametrize("streams", [1, 4])
def test_a_transfer_arrives_as_it_was_sent(world: World, streams: int) -> None:
    transfer(world, os.urandom(16 << 20), streams)
    assert not world.hosts[2].network.plane.counters.dropped


def test_a_transfer_arrives_over_an_underlay_that_loses_repeats_and_reorders(world: World) -> None:
    unsteady = Unsteady(world, seed=5)
    with unsteady.running():
        transfer(world, os.urandom(4 << 20))
    assert min(unsteady.lost, unsteady.twice, unsteady.late) > 0, "it was put to the test"


def test_a_transfer_outlives_a_path_that_becomes_narrower(world: World) -> None:
    def narrow() -> None:
        time.sleep(0.2)
        world.ip("router", "link set host2 mtu 1300")

    with ThreadPoolExecutor(1) as thread:
        narrowing = thread.submit(narrow)
        transfer(world, os.urandom(32 << 20), 2)
        narrowing.result()


@pytest.mark.parametrize("size", [1, 63, 500, 1444])
def test_super_packets_of_udp_arrive_datagram_by_datagram(world: World, size: int) -> None:
    """Sent in one call, and handed over in one: the datagrams are those of the sender."""
    count = 40

    def sink() -> socket.socket:
        opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        opened.bind((str(POD2), 7000))
        opened.settimeout(10)
        return opened

    def send(contents: list[bytes]) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as source:
            source.connect((str(POD2), 7000))
            source.sendmsg([b"".join(contents)], [(SOL_UDP, 103, struct.pack("=H", size))])

    contents = [os.urandom(size) for _ in range(count)]
    with world.run("pod2", sink) as opened:
        world.run("pod1", send, contents)
        assert [opened.recv(2048) for _ in range(count)] == contents


def test_a_million_datagrams_of_anything_do_no_harm(world: World) -> None:
    """From the peer's own address: nothing of it is in the pods' network, and the data path goes on."""
    rng = random.Random(1)
    good = bytearray(bytes.fromhex("4500001c000000004001000001020304050607080800f7ff00000000"))

    def batches() -> Iterator[tuple[bytes, int]]:
        """What goes out in one call, and the size of its datagrams."""
        for number in range(1_000_000 // 64):
            size = rng.choice([1, 8, 19, 20, 28, 40, 60, 100, 500, 1000])
            content = bytearray(rng.randbytes(64 * size))
            if number % 2 and size >= len(good):
                for at in range(0, len(content), size):
                    content[at : at + 20] = good[:20]
                    content[at + rng.randrange(20)] ^= rng.randrange(256)
            yield bytes(content), size

    def throw() -> int:
        thrown = 0
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as thrower:
            for content, size in batches():
                thrower.sendmsg([content], [(SOL_UDP, 103, struct.pack("=H", size))], 0, (UPLINKS[1], PORT))
                thrown += 64
        return thrown

    assert world.run("host2", throw) >= 999_000
    plane = world.hosts[1].network.plane
    done, dropped = world.hosts[1].network.carried()
    assert done["received"] + done.get("kernel_received", 0) == 0
    assert set(plane.counters.dropped) <= {Drop.MALFORMED, Drop.SPOOFED}
    assert sum(dropped.values()) + done.get("kernel_forged", 0) > 10_000, "most did not get that far"
    world.execute("pod1", "ping", "-c", "2", "-i", "0.05", "-W", "5", str(POD2))
