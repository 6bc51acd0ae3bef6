"""How fast thousands of a router's routes get into the kernel, and what that costs: measured for `./dev bench bgp`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from itertools import islice

from bgp.path import Asn
from bgp_bench_mesh import PATIENCE_S, Usage, usage
from bgp_bench_news import RouteNews, route_news
from bgp_world import bgp
from flanneld_world import NETWORK, Flanneld, World, flanneld_world
from router import established
from router_configs import Neighbour, RouterPlan
from routers import Bird

OURS, ROUTERS = Asn(64512), Asn(65101)
VAST: Mapping[str, object] = {
    **NETWORK,
    "Network": "10.128.0.0/9",
    "SubnetLen": 24,
    "SubnetMin": "10.128.1.0",
    "SubnetMax": "10.128.255.0",
}
"""Leases leave room for what the router announces."""
TOLD = IPv4Network("10.192.0.0/10")
SETTLE_S = 1.0


@dataclass(frozen=True)
class Received:
    """What it took to take in so many routes, from before the router reads a configuration with them."""

    came_s: float
    """Until the kernel has the last one."""
    went_s: float
    """Until it has none of them, once the router has a configuration without."""
    usage: Usage
    """Of taking them in."""


def received(count: int, rounds: int) -> list[Received]:
    """A host with one neighbour, BIRD, which announces that many /24 of the pool, and withdraws them."""
    with _world() as world, route_news([world.lab.host("h1")]) as news:
        one = world.start("h1", "--cni-socket=").ready()
        return asyncio.run(_all(world, one, news, count, rounds))


@contextmanager
def _world() -> Iterator[World]:
    peers = [{"Address": "10.0.0.12", "AS": ROUTERS, "MaxPrefix": 50_000}]
    with flanneld_world(2, bgp(VAST, AS=OURS, Peers=peers)) as world:
        yield world


async def _all(world: World, one: Flanneld, news: RouteNews, count: int, rounds: int) -> list[Received]:
    neighbour = Neighbour(IPv4Address("10.0.0.11"), OURS)
    plan = RouterPlan("10.0.0.12", ROUTERS, (neighbour,))
    prefixes = tuple(islice(TOLD.subnets(new_prefix=24), count))
    assert len(prefixes) == count
    full = Bird.render(RouterPlan(plan.router_id, plan.asn, plan.neighbours, prefixes))
    keys = [("h1", prefix) for prefix in prefixes]
    async with Bird.planned(world.lab.host("h2").namespaces[0], plan) as bird:
        await established(bird, neighbour.address)
        found = []
        for _ in range(rounds):
            await asyncio.sleep(SETTLE_S)
            before, began = usage(one), time.time()
            news.clear()
            await bird.configure(full)
            came = max(await asyncio.to_thread(news.came, keys, PATIENCE_S))
            await asyncio.sleep(SETTLE_S)
            cost, withdrawn = usage(one) - before, time.time()
            await bird.configure(Bird.render(plan))
            went = max(await asyncio.to_thread(news.went, keys, PATIENCE_S))
            found.append(Received(came - began, went - withdrawn, cost))
        return found
