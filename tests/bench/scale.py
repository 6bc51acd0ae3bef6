"""`./dev bench scale`: what thousands of peers cost one host: at its start, when one of them changes, and while nothing happens.

A change is timed from before the put until the kernel tells that it has the peer's new address; with udp, whose peers the kernel
may not know, until the first of the packets that are sent all the time, half a millisecond apart, arrives where the peer is now.
What it costs in processor time is taken from other changes, without those packets.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from ipaddress import ip_address
from itertools import cycle
from statistics import median
from threading import Event

import click
from rich import box
from rich.console import Console
from rich.table import Table

from bench.datapath import WIDTH, machine
from flanneld_world import WAIT_S, Flanneld, World, eventually, run
from lab.place import Place
from lab.signals import leave_by_exception
from many_leases import LEASES, cpu_s, fill, key_of, lease_of, started, subnet_of, vast_world

PEERS = 5000
BACKENDS = ("host-gw", "vxlan", "udp")
CHANGING = 17
"""Any of the peers: its number."""
PLACES = ("10.0.30.1", "10.0.30.2")
"""Where the changing peer is in turns; no other peer is there. The lab's second host has both addresses."""
UDP_PORT = 8285
PROBE_EVERY_S = 0.0005
SETTLE_S = 0.3
"""A change and all that follows from it is long over then."""
NOTIFIED = 0x40 | 0x4
"""RTMGRP_IPV4_ROUTE, RTMGRP_NEIGH (linux/rtnetlink.h): FDB entries are told as neighbours."""


@dataclass(frozen=True, slots=True)
class Target:
    """A row of the table."""

    what: str
    bound: float


ROWS: Mapping[str, Target] = {
    "start_cpu": Target(f"{LEASES} peers at the start, s CPU until ready", 2.0),
    "start_wall": Target(f"{LEASES} peers at the start, s until ready", 3.0),
    "change": Target(f"one of {PEERS} changes, ms until it counts", 20.0),
    "change_cpu": Target(f"one of {PEERS} changes, ms CPU", 10.0),
    "idle": Target(f"{PEERS} peers, nothing happens, % of a core", 0.3),
}


@dataclass
class Bench:
    """One backend's daemon among its peers, and what was found."""

    kind: str
    world: World
    found: dict[str, list[float]] = field(default_factory=lambda: {row: [] for row in ROWS})
    places: Iterator[str] = field(default_factory=lambda: cycle(PLACES))

    def run(self, rounds: int, idle_s: float) -> None:
        """All of it; `idle_s` 0 leaves the idle time out."""
        fill(self.world, self.kind, range(LEASES))
        one, start = started(self.world)
        self.found["start_cpu"].append(start.cpu_s)
        self.found["start_wall"].append(start.wall_s)
        fill(self.world, self.kind, range(LEASES, PEERS))
        eventually(lambda: one.said("peers programmed")[-1]["peers"] == PEERS, f"{PEERS} peers")
        for _ in range(rounds + 1):  # the first one finds nothing warm
            self._change(one)
        del self.found["change"][0], self.found["change_cpu"][0]
        if idle_s:
            before = cpu_s(one)
            time.sleep(idle_s)
            self.found["idle"].append((cpu_s(one) - before) / idle_s * 100)

    def _change(self, one: Flanneld) -> None:
        """Move the peer twice: once to see when it counts, once to see what it costs."""
        arrival = probed if self.kind == "udp" else told
        time.sleep(SETTLE_S)
        self.found["change"].append(arrival(self.world, ip := next(self.places), lambda: self._move(ip)) * 1000)
        time.sleep(SETTLE_S)
        before = cpu_s(one)
        self._move(next(self.places))
        time.sleep(SETTLE_S)
        self.found["change_cpu"].append((cpu_s(one) - before) * 1000)

    def _move(self, ip: str) -> None:
        self.world.etcd.put(key_of(CHANGING), lease_of(self.kind, CHANGING, ip))


def told(world: World, ip: str, act: Callable[[], None]) -> float:
    """Seconds until the kernel tells of an entry that names this address."""
    with world.lab.host("h1").call(socket.socket, socket.AF_NETLINK, socket.SOCK_RAW, 0) as news:
        news.bind((0, NOTIFIED))
        news.settimeout(WAIT_S)
        packed = ip_address(ip).packed

        def look() -> float:
            while packed not in news.recv(1 << 16):
                pass
            return time.monotonic()

        return timed(look, act)


def probed(world: World, ip: str, act: Callable[[], None]) -> float:
    """Seconds until a packet to the changing peer's subnet arrives at this address of the second host."""
    with world.lab.host("h2").call(socket.socket, socket.AF_INET, socket.SOCK_DGRAM) as peer:
        peer.bind((ip, UDP_PORT))
        peer.settimeout(WAIT_S)

        def look() -> float:
            peer.recv(1 << 16)
            return time.monotonic()

        with probing(world.lab.host("h1")):
            time.sleep(SETTLE_S)
            return timed(look, act)


def timed(look: Callable[[], float], act: Callable[[], None]) -> float:
    """Seconds from before the act until the time that `look`, which began before, has seen."""
    with ThreadPoolExecutor(1) as thread:
        seen = thread.submit(look)
        began = time.monotonic()
        act()
        return seen.result() - began


@contextmanager
def probing(source: Place) -> Iterator[None]:
    """Send packets to the changing peer's subnet meanwhile."""
    end = Event()

    def send() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.connect((str(ip_address(subnet_of(CHANGING)) + 5), 9))
            while not end.wait(PROBE_EVERY_S):
                sock.send(b"probe")

    with ThreadPoolExecutor(1) as thread:
        sending = thread.submit(source.call, send)
        try:
            yield
        finally:
            end.set()
            sending.result()


def benched(kind: str, rounds: int, idle_s: float) -> dict[str, list[float]]:
    """Everything about one backend; each round is a lab of its own, the idle time is the last one's."""
    found: dict[str, list[float]] = {row: [] for row in ROWS}
    for number in range(rounds):
        with vast_world(kind, hosts=2) as world:
            for place in PLACES:
                run(world.lab.host("h2"), f"ip addr add {place}/19 dev eth0")
            bench = Bench(kind, world)
            bench.run(rounds, idle_s if number == rounds - 1 else 0)
            for row, values in bench.found.items():
                found[row] += values
    return found


def table(found: Mapping[str, Mapping[str, list[float]]]) -> Table:
    """Medians and the worst, and whether the median meets the target."""
    about = ", ".join(f"{name} {value}" for name, value in machine().items())
    made = Table(title=about, title_justify="left", caption="median (worst)", caption_justify="left", box=box.SIMPLE)
    for heading in ("", "target", *found):
        made.add_column(heading)
    for row, target in ROWS.items():
        cells = []
        for values in (rows[row] for rows in found.values()):
            verdict = "" if not values else "met" if median(values) <= target.bound else "NOT MET"
            cells.append(f"{median(values):.2f} ({max(values):.2f}) {verdict}" if values else "-")
        made.add_row(target.what, f"<= {target.bound:g}", *cells)
    return made


@click.command(help=__doc__)
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True, help="Of starts, and of changes in each.")
@click.option("--idle", "idle_s", type=click.FloatRange(0), default=30, show_default=True, help="Seconds; 0: leave it out.")
@click.option("--backend", "kinds", multiple=True, type=click.Choice(BACKENDS), help="[default: all]")
def main(rounds: int, idle_s: float, kinds: tuple[str, ...]) -> None:
    """Measure and print."""
    leave_by_exception()
    found = {kind: benched(kind, rounds, idle_s) for kind in kinds or BACKENDS}
    Console(width=WIDTH, highlight=False, markup=False).print(table(found))


if __name__ == "__main__":
    main(prog_name="./dev bench scale")
