"""How long a dead host stays a route, and what a daemon's death costs: measured for `./dev bench bgp`."""

from __future__ import annotations

import random
import signal
import time
from ipaddress import IPv4Network
from typing import Any

from bgp_bench_mesh import Mesh, leases, mesh
from bgp_world import HOLD_S, again, asked, bgp_world, established, kill_exabgp
from flanneld_world import eventually, run
from traffic import address_of, meshed, steady_ping

BFD = {"Interval": 100, "Multiplier": 3}
AWAY_S = 3.0
PING_EVERY_S = 0.01


def dead(times: int, *, bfd: bool) -> list[float]:
    """Seconds from before a host's link is cut, as no cable would show it, until the kernel of another has no route to it."""
    keys: dict[str, Any] = {"BFD": BFD} if bfd else {}
    with mesh(2, HoldTime=int(HOLD_S), **keys) as made:
        subnet = leases(made.world, 2)["h2"]
        return [_cut(made, subnet, bfd=bfd) for _ in range(times)]


def _cut(made: Mesh, subnet: IPv4Network, *, bfd: bool) -> float:
    fabric, (one, _) = made.world.lab.fabric, made.hosts
    eventually(lambda: asked(one, do="peers")[0]["bfd"] == ("up" if bfd else None) and established(one), "a session", 60)
    time.sleep(1 + random.uniform(0, HOLD_S / 3))  # anywhere between two keepalives
    made.news.clear()
    began = time.time()
    run(fabric, "ip link set h2 nomaster")
    (went,) = made.news.went([("h1", subnet)], 3 * HOLD_S)
    run(fabric, "ip link set h2 master lan1")
    made.news.came([("h1", subnet)], 60)
    return went - began


def lost(times: int) -> list[float]:
    """Echoes of two pods, 10 ms apart, both ways, that are lost while one host's flanneld and exabgp are killed and away."""
    with bgp_world(2) as world:
        pods, found = meshed(world), []
        one = world.lab.host("h1")
        for _ in range(times):
            eventually(lambda: len(established(one)) == 1, "a session")
            with (
                steady_ping(pods[0], address_of(pods[1]), PING_EVERY_S) as out,
                steady_ping(pods[1], address_of(pods[0]), PING_EVERY_S) as back,
            ):
                time.sleep(AWAY_S / 3)
                world.daemons[0].end(signal.SIGKILL)
                kill_exabgp(one)
                time.sleep(AWAY_S)
                again(world, "h1", 1)
                eventually(lambda: len(established(one)) == 1, "the session again")
                time.sleep(AWAY_S)
            found.append(float(out.lost + back.lost))
        return found
