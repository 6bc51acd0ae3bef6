"""Fifty daemons that start at one instant, and thousands of leases that are there already."""

from __future__ import annotations

import json
import time

from flanneld_world import NETWORK, Flanneld, eventually, flanneld_world, own_subnet, run
from many_leases import BURST, LEASES, fill, started, vast_world

HOSTS = 50
CRAMPED = {**NETWORK, "Network": "10.244.0.0/18", "SubnetMin": "10.244.1.0", "SubnetMax": "10.244.60.0"}
"""60 subnets."""
START_S = 120.0
"""Fifty interpreters start on two processors."""


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


def test_four_thousand_leases_are_programmed_at_the_start_and_a_burst_is_followed() -> None:
    """Times are printed, and measured by `./dev bench leases`: here it counts that all are there."""
    for kind in ("host-gw", "vxlan"):
        with vast_world(kind) as world:
            fill(world, kind, range(LEASES))
            one, start = started(world)
            assert routes(one) == LEASES
            fill(world, kind, range(LEASES, LEASES + BURST))
            put_at = time.monotonic()
            eventually(lambda one=one: routes(one) == LEASES + BURST, "the burst")  # type: ignore[misc]
            print(f"{kind}: {start.cpu_s:.2f} s CPU to ready; last route {time.monotonic() - put_at:.2f} s after the last put")
            print(json.dumps(one.said("peers programmed")))


def routes(one: Flanneld) -> int:
    return len(run(one.host, "ip -o route show proto 84").splitlines())
