"""Fifty daemons that start at one instant, and thousands of leases that are there already."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from flanneld_world import NETWORK, PREFIX, Flanneld, World, eventually, flanneld_world, hostgw_lease, own_subnet, run, vxlan_lease

HOSTS = 50
CRAMPED = {**NETWORK, "Network": "10.244.0.0/18", "SubnetMin": "10.244.1.0", "SubnetMax": "10.244.60.0"}
"""60 subnets."""
START_S = 120.0
"""Fifty interpreters start on two processors."""
LEASES, BURST = 4000, 500
VAST = {**NETWORK, "Network": "10.96.0.0/11", "SubnetLen": 24, "SubnetMin": "10.96.1.0", "SubnetMax": "10.96.255.0"}
"""Our own subnet is out of the others' way."""
TICKS = os.sysconf("SC_CLK_TCK")


def test_fifty_daemons_on_sixty_subnets_all_get_one_of_their_own_and_none_ends() -> None:
    with flanneld_world(HOSTS, CRAMPED) as world:
        daemons = [world.start(host.name, "--cni-socket=") for host in world.lab.hosts]
        for one in daemons:
            one.await_said("ready", START_S)
        subnets = {own_subnet(one.host) for one in daemons}
        assert len(subnets) == HOSTS
        assert {name.partition("-")[0] for name in list(world.etcd.keys())} == subnets
        for one in daemons:
            eventually(lambda one=one: len(run(one.host, "ip -o route show proto 84").splitlines()) == HOSTS - 1, "all peers")  # type: ignore[misc]
            assert one.process.poll() is None


def cpu_s(one: Flanneld) -> float:
    """Processor time of the daemon so far."""
    fields = Path(f"/proc/{one.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def fill(world: World, kind: str, places: range) -> None:
    """Leases of so many hosts that are not there, in transactions of a hundred."""
    leases = {f"{PREFIX}/subnets/10.{100 + n // 256}.{n % 256}.0-24": _lease(kind, n) for n in places}
    names = list(leases)
    for begin in range(0, len(names), 100):
        world.etcd.put_all({name: leases[name] for name in names[begin : begin + 100]})


def _lease(kind: str, n: int) -> str:
    ip = f"10.0.{n // 250 + 1}.{n % 250 + 3}"
    return hostgw_lease(ip) if kind == "host-gw" else vxlan_lease(ip, f"0e:00:00:00:{n // 256:02x}:{n % 256:02x}")


def test_four_thousand_leases_are_programmed_at_the_start_and_a_burst_is_followed() -> None:
    """Times are printed, and measured by `./dev bench leases`: here it counts that all are there."""
    for kind in ("host-gw", "vxlan"):
        network = {**VAST, "Backend": {"Type": kind}}
        with flanneld_world(1, network) as world:
            run(world.lab.host("h1"), "ip addr add 10.0.0.11/19 dev eth0")
            fill(world, kind, range(LEASES))
            one = world.start("h1", "--cni-socket=").ready()
            assert routes(one) == LEASES
            used = cpu_s(one)
            fill(world, kind, range(LEASES, LEASES + BURST))
            put_at = time.monotonic()
            eventually(lambda one=one: routes(one) == LEASES + BURST, "the burst")  # type: ignore[misc]
            print(f"{kind}: {used:.2f} s CPU to ready; last route {time.monotonic() - put_at:.2f} s after the last put")
            print(json.dumps(one.said("peers programmed")))


def routes(one: Flanneld) -> int:
    return len(run(one.host, "ip -o route show proto 84").splitlines())
