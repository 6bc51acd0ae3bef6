"""What flanneld and routers can be to each other besides neighbours in two AS: one AS, reflector and clients, equal paths."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from ipaddress import ip_network

import pytest
import pytest_asyncio

from flanneld.lease import IPNetwork
from flanneld_world import World, show
from router import NextHops, Router, established, eventually, missing
from router_configs import Neighbour
from router_lab import OURS, RouterLab, router_hosts, router_lab
from router_world import knows
from routers import Bird
from traffic import address_of, ping, steady_ping

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(bool(missing(Bird)), reason=missing(Bird)),
    pytest.mark.asyncio(loop_scope="module"),
]
FOUR, SIX = ip_network("10.244.101.0/24"), ip_network("fd00:10:244:101::/64")


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with router_hosts("h1", "h2", "r1", "r2") as world:
        yield world


@pytest_asyncio.fixture(loop_scope="module")
async def lab(world: World) -> AsyncIterator[RouterLab]:
    async with router_lab(world) as lab:
        yield lab


async def in_kernel(lab: RouterLab, host: str, is_so: Callable[[Mapping[IPNetwork, NextHops]], bool]) -> None:
    """Wait until flanneld's routes are so."""
    await eventually(lambda: asyncio.to_thread(lab.routes, host), is_so)


async def test_in_one_as_next_hops_are_kept(lab: RouterLab) -> None:
    lab.configure(lab.peer("r1"))
    us = Neighbour(lab.address("h1"), OURS, passive=True, families=(4, 6))
    router = await lab.router("r1", Bird, lab.plan("r1", OURS, us, originate=(str(FOUR), str(SIX))))
    lab.flanneld("h1")
    for prefix in lab.subnets("h1"):
        await knows(router, prefix, lab.address("h1", ipv6=prefix.version == 6))
    wanted = {FOUR: frozenset({lab.address("r1")}), SIX: frozenset({lab.address6("r1")})}
    await in_kernel(lab, "h1", lambda routes: routes == wanted)


async def test_ipv4_over_a_session_of_ipv6_goes_by_ipv6_next_hops(lab: RouterLab) -> None:
    """RFC 8950. A host that has an IPv4 address gives that for its own."""
    lab.configure({"Address": str(lab.address6("r1")), "AS": 65001})
    us = Neighbour(lab.address6("h1"), OURS, passive=True, families=(4, 6))
    router = await lab.router("r1", Bird, lab.plan("r1", 65001, us, originate=(str(FOUR), str(SIX))))
    lab.flanneld("h1")
    for prefix in lab.subnets("h1"):
        await knows(router, prefix, lab.address("h1", ipv6=prefix.version == 6))
    via = frozenset({lab.address6("r1")})
    await in_kernel(lab, "h1", lambda routes: routes == {FOUR: via, SIX: via})
    assert await asyncio.to_thread(ping, lab.pod("h1"), FOUR[1])


async def test_clients_of_a_reflector_reach_each_others_pods(lab: RouterLab) -> None:
    """RFC 4456: without a session between them, and by the way that each announced."""
    lab.configure(lab.peer("r1"), Mesh=False)
    clients = [Neighbour(lab.address(host), OURS, passive=True, families=(4, 6), reflector_client=True) for host in ("h1", "h2")]
    await lab.router("r1", Bird, lab.plan("r1", OURS, *clients))
    for host in ("h1", "h2"):
        lab.flanneld(host)
    for one, other in (("h1", "h2"), ("h2", "h1")):
        ways = {prefix: frozenset({lab.address(other, ipv6=prefix.version == 6)}) for prefix in lab.subnets(other)}
        await in_kernel(lab, one, lambda routes, ways=ways: routes == ways)  # type: ignore[misc]
        assert await asyncio.to_thread(ping, lab.pod(one), address_of(lab.pod(other), 4))
        assert await asyncio.to_thread(ping, lab.pod(one), address_of(lab.pod(other), 6))
        assert [said["peer"] for said in lab.started[one].said("bgp session up")] == [str(lab.address("r1"))]


async def both(lab: RouterLab, *, graceful: bool) -> list[Router]:
    """Two routers of one AS that announce the same."""
    lab.configure(lab.peer("r1", 65001), lab.peer("r2", 65001))
    us = Neighbour(lab.address("h1"), OURS, passive=True, families=(4, 6), graceful_restart=graceful)
    plans = {name: lab.plan(name, 65001, us, originate=(str(FOUR), str(SIX))) for name in ("r1", "r2")}
    routers = [await lab.router(name, Bird, plan) for name, plan in plans.items()]
    lab.flanneld("h1")
    for router in routers:
        await established(router, lab.address("h1"))
    hops = {FOUR: frozenset(map(lab.address, ("r1", "r2"))), SIX: frozenset(map(lab.address6, ("r1", "r2")))}
    await in_kernel(lab, "h1", lambda routes: routes == hops)
    return routers


async def test_two_routers_with_one_prefix_share_its_traffic_and_the_death_of_one_loses_nothing(lab: RouterLab) -> None:
    first, second = await both(lab, graceful=False)
    (route,) = show(lab.host("h1"), f"ip route show {FOUR}")
    assert {hop["gateway"] for hop in route["nexthops"]} == {str(lab.address("r1")), str(lab.address("r2"))}
    pod = lab.pod("h1")
    with steady_ping(pod, FOUR[1]) as four, steady_ping(pod, SIX[1]) as six:
        for router, left in ((first, "r2"), (second, "r1")):
            await asyncio.sleep(0.3)
            await router.kill()
            alone = {FOUR: frozenset({lab.address(left)}), SIX: frozenset({lab.address6(left)})}
            await in_kernel(lab, "h1", lambda routes, alone=alone: routes == alone)  # type: ignore[misc]
            await router.start()
            await in_kernel(lab, "h1", lambda routes: len(routes[FOUR]) == len(routes[SIX]) == 2)
    assert (four.lost, six.lost) == (0, 0)
