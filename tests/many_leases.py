"""Thousands of leases of hosts that are not there, and a daemon that starts among them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime

from flanneld_world import NETWORK, PREFIX, Flanneld, World, flanneld_world, hostgw_lease, run, vxlan_lease

LEASES, BURST = 4000, 500
VAST: Mapping[str, object] = {
    **NETWORK,
    "Network": "10.96.0.0/11",
    "SubnetLen": 24,
    "SubnetMin": "10.96.1.0",
    "SubnetMax": "10.96.255.0",
}
"""Our own subnet is out of the others' way."""


@dataclass(frozen=True)
class Start:
    """What it took from the call until the daemon was ready."""

    wall_s: float
    cpu_s: float


@contextmanager
def vast_world(kind: str, hosts: int = 1) -> Iterator[World]:
    """A lab whose first host has all that `fill` names on its own segment."""
    with flanneld_world(hosts, {**VAST, "Backend": {"Type": kind}}) as world:
        run(world.lab.host("h1"), "ip addr add 10.0.0.11/19 dev eth0")
        yield world


def started(world: World) -> tuple[Flanneld, Start]:
    """Start the first host's daemon and wait until it is ready."""
    began = time.time()
    one = world.start("h1", "--cni-socket=").ready()
    used = cpu_s(one)
    ready_at = datetime.fromisoformat(str(one.said("ready")[0]["time"])).timestamp()
    return one, Start(ready_at - began, used)


def cpu_s(one: Flanneld) -> float:
    """Processor time of the daemon so far, all its threads', as exactly as the kernel knows it."""
    return time.clock_gettime(~one.process.pid << 3 | 2)  # clock_getcpuclockid(3)'s number, which CPython does not offer


def fill(world: World, kind: str, places: range) -> None:
    """Leases of so many hosts that are not there, in transactions of a hundred."""
    leases = {key_of(n): lease_of(kind, n) for n in places}
    names = list(leases)
    for begin in range(0, len(names), 100):
        world.etcd.put_all({name: leases[name] for name in names[begin : begin + 100]})


def subnet_of(n: int) -> str:
    """The subnet that the host with this number has, without its /24."""
    return f"10.{100 + n // 256}.{n % 256}.0"


def key_of(n: int) -> str:
    """Where its lease is in etcd."""
    return f"{PREFIX}/subnets/{subnet_of(n)}-24"


def lease_of(kind: str, n: int, ip: str = "") -> str:
    """Its lease, as a host with this backend publishes it; at `ip` if it has moved."""
    ip = ip or f"10.0.{n // 250 + 1}.{n % 250 + 3}"
    match kind:
        case "host-gw":
            return hostgw_lease(ip)
        case "vxlan":
            return vxlan_lease(ip, f"0e:00:00:00:{n // 256:02x}:{n % 256:02x}")
        case _:
            return f'{{"PublicIP":"{ip}","PublicIPv6":null}}'
