"""Two hosts whose udp data path is in the kernel, with a pod each behind a bridge, in network namespaces of their own.

pod1 10.5.1.2 -- cni0 host1 192.0.2.1 ---- 192.0.2.2 host2 cni0 -- 10.5.2.2 pod2

Nobody reads the TUNs and the sockets of port 8285 but the tests: what gets there has fallen through.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network
from itertools import chain
from typing import TypeVar

from scapy.layers.inet import IP

from flanneld.backends.udp.ebpf.kernel_path import KernelPath
from flanneld.linux.links import link
from flanneld.linux.netlink import Netlink
from flanneld.linux.tun import TunDevice, open_tun
from flanneld.wire import vnet
from flanneld.wire.ipv4 import Ipv4Packet
from udp_world import ETH_P_ALL, Namespaces, drained

T = TypeVar("T")

PORT = 8285
HOSTS = {1: IPv4Address("192.0.2.1"), 2: IPv4Address("192.0.2.2")}
PODS = {1: IPv4Address("10.5.1.2"), 2: IPv4Address("10.5.2.2")}
SUBNETS = {number: IPv4Network(f"10.5.{number}.0/24") for number in HOSTS}
MTU = 1472
CUTS = ("tso", "gso", "tx-udp-segmentation", "tx-udp_tnl-segmentation", "tx-udp_tnl-csum-segmentation")
"""What ethtool calls the offloads that let a packet larger than the MTU through."""
SO_NO_CHECK, SO_RCVBUFFORCE, UDP_SEGMENT = 11, 33, 103
"""asm-generic/socket.h, linux/udp.h."""
PATIENCE_S = 10.0


class Underlay(StrEnum):
    """How packets cross from host to host."""

    SOFT = "soft"
    """As veths have it: up to 64 KB, checksums left unfinished."""
    WIRE = "wire"
    """Cut by the sending uplink and merged by the receiving one, as plain NICs have it."""
    FINISHED = "finished"
    """The same, and nobody leaves checksums to hardware."""


@dataclass(frozen=True)
class Ends:
    """What a daemon has open."""

    netlink: Netlink
    tun: TunDevice
    underlay: socket.socket
    uplink: int
    """The index."""

    def fallen_to_tun(self) -> list[bytes]:
        """The packets that user space would have to send, since the last call."""
        found = []
        with suppress(BlockingIOError):
            while True:
                found.append(os.read(self.tun.fd, 1 << 17)[vnet.SIZE :])
        return found

    def fallen_to_socket(self) -> list[bytes]:
        """The same of datagrams received."""
        found = []
        with suppress(BlockingIOError):
            while True:
                found.append(self.underlay.recv(1 << 16))
        return found


class EbpfWorld(Namespaces):
    """The picture above."""

    def __init__(self) -> None:
        super().__init__()
        self.ends: dict[int, Ends] = {}
        self.paths: dict[int, KernelPath] = {}

    @contextmanager
    def up(self, *paths: int) -> Iterator[None]:
        """With the paths of these hosts attached, and each other's subnet reached."""
        with ExitStack() as stack:
            stack.enter_context(self.made(*(f"{kind}{number}" for number in HOSTS for kind in ("host", "pod"))))
            self.ip("host1", f"link add eth0 type veth peer name eth0 netns {self.name_of('host2')}")
            for number in HOSTS:
                self._plumb(number)
                self.run(f"host{number}", self._open, number, stack)
            for number in paths:
                stack.callback(self.attach(number).close)
                self.reach(number)
            yield

    def name_of(self, name: str) -> str:
        """What `ip netns` calls it."""
        return os.path.basename(self.path(name))

    def attach(self, number: int, *, strict: bool = True) -> KernelPath:
        ends = self.ends[number]
        arguments = (ends.netlink, ends.uplink, ends.tun.index, HOSTS[number], PORT, strict)
        self.paths[number] = self.run(f"host{number}", KernelPath, *arguments)
        return self.paths[number]

    def reach(self, number: int) -> None:
        other = 3 - number
        self.paths[number].reach({SUBNETS[other]: HOSTS[other]}, {SUBNETS[other]: HOSTS[other]})

    def set_underlay(self, underlay: Underlay) -> None:
        whole, merge = ("on", "off") if underlay is Underlay.SOFT else ("off", "on")
        checksums = "off" if underlay is Underlay.FINISHED else "on"
        for number in HOSTS:
            switches = chain.from_iterable((cut, whole) for cut in CUTS)
            self.execute(f"host{number}", "ethtool", "-K", "eth0", "tx", checksums, *switches, "gro", merge)

    def shown(self, number: int) -> str:
        """All that a path could leave behind on a host, interfaces and filters, as iproute2 shows it."""
        host = f"host{number}"
        found = [line for line in self.execute(host, "ip", "link").splitlines() if "flgro" in line]
        for device in ("eth0", "flannel0"):
            queues = self.execute(host, "tc", "qdisc", "show", "dev", device)
            found += [queues] if "clsact" in queues else []
            for side in ("ingress", "egress") if "clsact" in queues else ():
                found.append(self.execute(host, "tc", "filter", "show", "dev", device, side))
        return "\n".join(found)

    @contextmanager
    def tap(self, name: str, device: str) -> Iterator[socket.socket]:
        """Every frame of a device as it passes, from now on: see `received_by`."""
        with self.run(name, socket.socket, socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0) as tap:
            tap.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 32 << 20)
            tap.bind((device, ETH_P_ALL))
            yield tap

    def ping(self, source: str, destination: object, *options: str) -> None:
        """Each of three echoes comes back."""
        said = self.execute(source, "ping", "-c", "3", "-i", "0.02", "-W", "5", *options, str(destination))
        assert " 0% packet loss" in said, said

    def emit(self, where: str, *packets: Ipv4Packet) -> None:
        """Send packets as they are."""

        def send() -> None:
            with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
                for packet in packets:
                    raw.sendto(packet.encode(), (str(packet.destination), 0))

        self.run(where, send)

    def throw(self, *datagrams: bytes, segment: int = 0, checksum: bool = True) -> None:
        """Send datagrams from host 2 to host 1, as a peer does; with `segment` each is many of that size."""

        def send() -> None:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as thrower:
                thrower.setsockopt(socket.SOL_SOCKET, SO_NO_CHECK, not checksum)
                thrower.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, segment)
                for datagram in datagrams:
                    thrower.sendto(datagram, (str(HOSTS[1]), PORT))

        self.run("host2", send)

    def transferred(self, content: bytes, address: IPv4Address = PODS[2], server: str = "pod2", port: int = 8080) -> bytes:
        """What pod 1 gets when it asks the server for the content, which listens on 8080."""
        listener = self.run(server, socket.create_server, ("", 8080))

        def serve() -> None:
            with listener, listener.accept()[0] as connection:
                connection.sendall(content)

        def fetch() -> bytes:
            received = bytearray()
            with socket.create_connection((str(address), port), PATIENCE_S) as connection:
                while chunk := connection.recv(1 << 16):
                    received += chunk
            return bytes(received)

        with ThreadPoolExecutor(1) as thread:
            served = thread.submit(serve)
            received = self.run("pod1", fetch)
            served.result(PATIENCE_S)
        return received

    def _plumb(self, number: int) -> None:
        host, pod = f"host{number}", f"pod{number}"
        self.ip(host, f"addr add {HOSTS[number]}/24 dev eth0", "link set eth0 up")
        self.ip(host, "link add cni0 type bridge", f"link set cni0 mtu {MTU} up", f"addr add 10.5.{number}.1/24 dev cni0")
        self.ip(host, f"link add pod mtu {MTU} type veth peer name eth0 mtu {MTU} netns {self.name_of(pod)}")
        self.ip(host, "link set pod master cni0 up")
        self.ip(pod, f"addr add {PODS[number]}/24 dev eth0", "link set eth0 up", f"route add default via 10.5.{number}.1")
        self.forward(host)

    def _open(self, number: int, stack: ExitStack) -> None:
        netlink = stack.enter_context(Netlink())
        tun = open_tun("flannel0")
        stack.callback(tun.close)
        self.ip(f"host{number}", "link set flannel0 addrgenmode none", f"link set flannel0 mtu {MTU} up")
        self.ip(f"host{number}", f"addr add 10.5.{number}.0/32 dev flannel0", "route add 10.5.0.0/16 dev flannel0")
        underlay = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK))
        underlay.bind((str(HOSTS[number]), PORT))
        found = link(netlink, "eth0")
        assert found is not None
        self.ends[number] = Ends(netlink, tun, underlay, found.index)


def eventually(look: Callable[[], T]) -> T:
    """Look until there is something to see."""
    until = time.monotonic() + PATIENCE_S
    while not (seen := look()):
        assert time.monotonic() < until
        time.sleep(0.01)
    return seen


def received_by(tap: socket.socket) -> list[bytes]:
    """The frames that came in."""
    return [frame for frame, outgoing in drained(tap) if not outgoing]


def recomputed(packet: bytes) -> bytes:
    """The packet with scapy's checksums in it."""
    parsed = IP(packet)
    for layer in parsed.iterpayloads():
        layer.fields.pop("chksum", None)
    parsed.clear_cache()
    return bytes(parsed)
