"""`./dev bench leases`: how long until the kernel is right: at a start among thousands of leases, after a burst, a change, a fault.

Times of single changes are from the put's answer, or from the end of the damaging command, until the kernel is seen to be right.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from ipaddress import ip_network
from statistics import median

import click
from rich import box
from rich.console import Console
from rich.table import Table

from bench.datapath import WIDTH, machine
from flanneld.kernel import Entry, Owner
from flanneld.linux.kernel import LinuxKernel
from flanneld.linux.netlink import Netlink
from flanneld_world import NETWORK, PREFIX, REPAIR_S, World, flanneld_world, run, vxlan_lease
from lab.signals import leave_by_exception
from many_leases import BURST, LEASES, VAST, fill, started, vast_world

KEY = f"{PREFIX}/subnets/10.244.9.0-24"
DAMAGE = {
    "route deleted": "ip route del 10.244.9.0/24",
    "route replaced": "ip route replace 10.244.9.0/24 via 10.0.0.1",
    "neighbour deleted": "ip neigh del 10.244.9.0 dev flannel.1",
    "FDB entry deleted": "bridge fdb del 0e:00:00:00:00:02 dev flannel.1 dst 10.0.0.99",
    "device down": "ip link set flannel.1 down",
    "device deleted": "ip link del flannel.1",
    "device's MTU": "ip link set flannel.1 mtu 1300",
}
TARGETS = f"targets: {LEASES} leases in 2 s CPU, burst 500 ms after the last put, change 200 ms, repair 500 ms"


@click.command(help=__doc__)
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True)
def main(rounds: int) -> None:
    """Measure and print."""
    leave_by_exception()
    table = Table("what", "median", "worst", title=str(machine()), title_justify="left", caption=TARGETS, box=box.SIMPLE)
    for kind in ("host-gw", "vxlan"):
        starts, bursts = zip(*(vast(kind) for _ in range(rounds)), strict=True)
        table.add_row(f"{kind}: {LEASES} leases at a start, s CPU until ready", f"{median(starts):.2f}", f"{max(starts):.2f}")
        table.add_row(f"{kind}: last of {BURST} more, ms after its put", f"{median(bursts):.0f}", f"{max(bursts):.0f}")
    for what, times in singles(rounds).items():
        table.add_row(f"vxlan: {what}, ms", f"{median(times):.1f}", f"{max(times):.1f}")
    Console(width=WIDTH).print(table)


def vast(kind: str) -> tuple[float, float]:
    """Seconds of processor time of a start, and milliseconds from the last put of a burst until it was programmed."""
    with vast_world(kind) as world:
        fill(world, kind, range(LEASES))
        _, start = started(world)
        fill(world, kind, range(LEASES, LEASES + BURST))
        put_at = time.time()
        kernel = LinuxKernel(world.lab.host("h1").call(Netlink))
        owner = Owner((ip_network(str(VAST["Network"])),))
        while len(kernel.entries(owner)) < LEASES + BURST:
            time.sleep(0.01)
        return start.cpu_s, (time.time() - put_at) * 1000


def singles(rounds: int) -> dict[str, list[float]]:
    """Milliseconds until one peer's three entries are as they should be, by what was done."""
    found: dict[str, list[float]] = {}
    with flanneld_world(1, NETWORK) as world:
        world.etcd.put(KEY, vxlan_lease("10.0.0.99", "0e:00:00:00:00:02"))
        one = world.start("h1", "--cni-socket=").ready()
        look = looking(world)
        for number in range(rounds):
            for what, line in DAMAGE.items():
                before = look()
                found.setdefault(f"repair, {what}", []).append(timed(lambda line=line: run(one.host, line), look, before))  # type: ignore[misc]
            for ip in (f"10.0.0.{100 + number}", "10.0.0.99"):
                value = vxlan_lease(ip, "0e:00:00:00:00:02")
                found.setdefault("peer's public IP changed", []).append(
                    timed(lambda value=value: world.etcd.put(KEY, value), look, lambda now, ip=ip: ip in now)  # type: ignore[misc]
                )
    return found


def looking(world: World) -> Callable[[], str]:
    """A look at what is the peer's, without the devices' numbers, which change with the device."""
    netlink = world.lab.host("h1").call(Netlink)
    kernel = LinuxKernel(netlink)

    def look() -> str:
        link = kernel.link("flannel.1")
        owner = Owner((ip_network("10.244.0.0/16"),), frozenset((link.index,)) if link else frozenset())
        return json.dumps([link.mtu if link else 0, link.up if link else 0, sorted(map(_shown, kernel.entries(owner)))])

    return look


def _shown(entry: Entry) -> str:
    return str(entry).partition(" on device")[0]


def timed(act: Callable[[], object], look: Callable[[], str], wanted: str | Callable[[str], bool]) -> float:
    """Milliseconds from the end of the act until what is seen is as wanted."""
    act()
    began = time.monotonic()
    right = wanted if callable(wanted) else wanted.__eq__
    while not right(look()):
        if time.monotonic() - began > REPAIR_S:
            raise TimeoutError(f"not within {REPAIR_S:g} s: {wanted}, but {look()}")
        time.sleep(0.0005)
    return (time.monotonic() - began) * 1000


if __name__ == "__main__":
    main()
