"""Three network namespaces for the firewall suite, and packets between them.

pod --- host --- away      away is another host, its pod and the outside in one
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
import subprocess
import sys
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from flanneld.linux.netns import run_in

T = TypeVar("T")

POD, GATEWAY, REMOTE_POD = ("10.77.1.2", "fd77:0:0:1::2"), ("10.77.1.1", "fd77:0:0:1::1"), ("10.77.2.2", "fd77:0:0:2::2")
UPLINK, PEER = ("172.31.0.1", "fd31::1"), ("172.31.0.2", "fd31::2")
OUTSIDE = ("192.0.2.1", "2001:db8:2::1")
CLIENT = ("198.51.100.1", "2001:db8:51::1")
"""An address of the host that is neither the uplink's nor a pod's."""
GROUP = ("239.1.1.1", "ff15::7")

WIRING = """
link add p0 netns {pod} type veth peer h0 netns {host}
link add a0 netns {away} type veth peer h1 netns {host}
"""
ADDRESSES: dict[str, dict[str, tuple[str, ...]]] = {
    "pod": {"p0": POD},
    "host": {"h0": GATEWAY, "h1": UPLINK, "lo": CLIENT},
    "away": {"a0": PEER, "lo": (*REMOTE_POD, *OUTSIDE)},
}
ROUTES = {
    "pod": ("default via 10.77.1.1", "default via fd77:0:0:1::1"),
    "host": tuple(f"{to} via {PEER[':' in to]}" for to in ("10.77.2.0/24", "192.0.2.0/24", "fd77:0:0:2::/64", "2001:db8:2::/64")),
    "away": tuple(
        f"{to} via {UPLINK[':' in to]}" for to in ("10.77.1.0/24", "198.51.100.0/24", "fd77:0:0:1::/64", "2001:db8:51::/64")
    ),
}


@dataclass(frozen=True)
class World:
    """Paths of the three namespaces."""

    pod: str
    host: str
    away: str

    def run(self, *command: str, given: str = "") -> str:
        """Run a program on the host; its output."""
        inside = ("nsenter", f"--net={self.host}", *command)
        return subprocess.run(inside, input=given, capture_output=True, text=True, check=True).stdout

    def wait_for(self, action: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the host, where its threads and child processes will be too."""
        return run_in(self.host, asyncio.run, action)

    def rules(self) -> str:
        """Everything in the host's firewall, with handles, which tell a kept rule from a replaced one."""
        legacy = self.run("iptables-legacy-save") + self.run("ip6tables-legacy-save")
        rules = "".join(line for line in legacy.splitlines(keepends=True) if not line.startswith("#"))  # but for the date
        return self.run("nft", "-a", "list", "ruleset") + re.sub(r"\[\d+:\d+\]", "", rules)  # and for counters

    def wipe(self) -> None:
        """Leave the host without any rule."""
        self.run("nft", "flush", "ruleset")
        for program in ("iptables-legacy-restore", "ip6tables-legacy-restore"):
            self.run(program, given="*nat\nCOMMIT\n*filter\n:FORWARD ACCEPT [0:0]\nCOMMIT\n")

    def source_seen(self, sender: str, source: str, receiver: str, destination: str, mark: int = 0, wait_s: float = 5) -> str:
        """The source address that a packet arrives with, each time from another port and so in another connection."""
        with run_in(sender, udp_socket, source, mark) as out, run_in(receiver, listener, destination) as there:
            if destination in GROUP:
                send_multicast_by(out, run_in(sender, socket.if_nametoindex, "h1"))
            there.settimeout(wait_s)
            out.sendto(b"who am I", (destination, there.getsockname()[1]))
            return str(there.recvfrom(64)[1][0])


@contextmanager
def make_world() -> Iterator[World]:
    names = {role: f"fw-{role}-{os.getpid()}" for role in ADDRESSES}
    try:
        for name in names.values():
            subprocess.run(("ip", "netns", "add", name), check=True)
        ip_batch((), WIRING.format(**names))
        for role, name in names.items():
            ip_batch(("-n", name), configuration(role))
        world = World(**{role: f"/run/netns/{name}" for role, name in names.items()})
        world.run("sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward; echo 1 >/proc/sys/net/ipv6/conf/all/forwarding")
        yield world
    finally:
        for name in names.values():
            subprocess.run(("ip", "netns", "del", name), check=False)


def ip_batch(where: tuple[str, ...], lines: str) -> None:
    subprocess.run(("ip", *where, "-batch", "-"), input=lines, text=True, check=True)


def configuration(role: str) -> str:
    lines = []
    for device, addresses in ADDRESSES[role].items():
        lines.append(f"link set {device} up")
        lines += [f"addr add {interface(address, device)} dev {device}" for address in addresses]
    return "\n".join([*lines, *(f"route add {route}" for route in ROUTES[role])]) + "\n"


def interface(address: str, device: str) -> str:
    if ":" in address:
        return f"{address}/{128 if device == 'lo' else 64} nodad"
    return f"{address}/{32 if device == 'lo' else 24}"


def udp_socket(source: str, mark: int = 0) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in source else socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
    sock.bind((source, 0))
    return sock


def listener(destination: str) -> socket.socket:
    there = udp_socket(destination)
    if destination in GROUP:
        group = socket.inet_pton(there.family, destination)
        if there.family == socket.AF_INET6:
            index = socket.if_nametoindex("a0").to_bytes(4, sys.byteorder)
            there.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, group + index)
        else:
            there.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group + socket.inet_aton(PEER[0]))
    return there


def send_multicast_by(out: socket.socket, index: int) -> None:
    if out.family == socket.AF_INET6:
        out.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
    else:
        out.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(UPLINK[0]))
