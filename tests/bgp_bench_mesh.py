"""What a mesh of hosts with the bgp backend costs and how fast it is: measured for `./dev bench bgp`."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from ipaddress import IPv4Network
from pathlib import Path
from statistics import median
from typing import Any

from bgp_bench_news import RouteNews, route_news
from bgp_world import asked, bgp_world, established, exabgp
from flanneld_world import Flanneld, World, eventually
from lab.pods import LabHost

MOVED = IPv4Network("10.244.0.0/24")
"""Nobody's lease: addresses of it are announced one by one, as those of pods that have moved."""
SETTLE_S = 0.2
PATIENCE_S = 90.0
"""For dozens of interpreters that start on two cores."""


@dataclass(frozen=True)
class Usage:
    """Seconds of processor time so far of one host's processes."""

    flanneld: float
    exabgp: float
    relay: float

    def __sub__(self, before: Usage) -> Usage:
        return Usage(self.flanneld - before.flanneld, self.exabgp - before.exabgp, self.relay - before.relay)

    @property
    def total(self) -> float:
        return self.flanneld + self.exabgp + self.relay


def usage(one: Flanneld) -> Usage:
    """Of that daemon, its exabgp, and the relay between them."""
    (speaker,) = exabgp(one.host)
    (relay,) = Path(f"/proc/{speaker}/task/{speaker}/children").read_text().split()
    return Usage(cpu_s(one.process.pid), cpu_s(speaker), cpu_s(int(relay)))


def cpu_s(pid: int) -> float:
    """Processor time of a process so far, all its threads', as exactly as the kernel knows it."""
    return time.clock_gettime(~pid << 3 | 2)  # clock_getcpuclockid(3)'s number, which CPython does not offer


@dataclass(frozen=True)
class Mesh:
    """Hosts of which each has a session with each other, and has its route."""

    world: World
    news: RouteNews
    began: float
    """When the first daemon was started, as `time.time` has it."""
    running: float
    """When the last exabgp said that it runs."""
    done: float
    """When the last route was there."""

    @property
    def hosts(self) -> Sequence[LabHost]:
        return self.world.lab.hosts


@contextmanager
def mesh(hosts: int, **keys: Any) -> Iterator[Mesh]:
    """All started at once, on hosts on which nothing ran before; `keys` are the `Backend` object's."""
    with bgp_world(hosts, AllowHostRoutes=True, **keys) as world, route_news(world.lab.hosts) as news:
        began = time.time()
        for host in world.lab.hosts:
            world.start(host.name, "--cni-socket=")
        subnets = eventually(lambda: leases(world, hosts), f"{hosts} leases", PATIENCE_S)
        wanted = [(one, subnet) for one in subnets for other, subnet in subnets.items() if other != one]
        done = max(news.came(wanted, PATIENCE_S), default=began)
        running = max(said_at(one, "bgp speaker started") for one in world.daemons)
        yield Mesh(world, news, began, running, done)


def leases(world: World, hosts: int) -> dict[str, IPv4Network]:
    """Each host's subnet by its name; nothing until all have one."""
    by_ip = {str(spec.addresses[0].ip): spec.name for spec in world.lab.topology.hosts}
    found = {}
    for name, key in world.etcd.keys().items():
        ip = key.value.partition('"PublicIP":"')[2].partition('"')[0]
        found[by_ip[ip]] = IPv4Network(name.replace("-", "/"))
    return found if len(found) == hosts else {}


def said_at(one: Flanneld, event: str) -> float:
    """When it first said so, as `time.time` has it."""
    return datetime.fromisoformat(str(one.await_said(event)["time"])).timestamp()


def announced(made: Mesh, times: int) -> dict[str, list[float]]:
    """Milliseconds until another prefix of the first host is in all others' kernels, and until it is there no more.

    From before it is asked for, by the first and the last kernel that says so.
    """
    first, *others = made.hosts
    found: dict[str, list[float]] = {"came_any": [], "came_all": [], "went_all": []}
    for number in range(times + 1):
        prefix = MOVED[number + 1]
        keys = [(other.name, IPv4Network(prefix)) for other in others]
        made.news.clear()
        for word in ("announce", "withdraw"):
            # exabgp looks ten times a second whether there is something to do of which nobody tells it.
            time.sleep(SETTLE_S + random.uniform(0, 0.1))
            began = time.time()
            asked(first, do=word, prefix=f"{prefix}/32")
            if word == "announce":
                times_s = [at - began for at in made.news.came(keys)]
                found["came_any"].append(median(times_s) * 1000)
                found["came_all"].append(max(times_s) * 1000)
            else:
                found["went_all"].append((max(made.news.went(keys)) - began) * 1000)
    return {name: values[1:] for name, values in found.items()}  # the first one finds nothing warm


def idle(made: Mesh, seconds: float) -> list[Usage]:
    """Of each host, while nothing happens."""
    for one in made.hosts:
        eventually(lambda one=one: len(established(one)) == len(made.hosts) - 1, "all sessions")  # type: ignore[misc]
    time.sleep(seconds / 4)
    before = [usage(one) for one in made.world.daemons]
    time.sleep(seconds)
    return [usage(one) - was for one, was in zip(made.world.daemons, before, strict=True)]
