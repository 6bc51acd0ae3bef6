"""What fails beside BIRD and FRR, flanneld, exabgp, they and cables: RFC 4724 (graceful restart), RFC 5882 (BFD)."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import ExitStack, suppress
from ipaddress import ip_network

import pytest
import pytest_asyncio

from bgp.bfd.packet import Diagnostic, describe
from flanneld.lease import IPAddress, IPNetwork
from flanneld_world import Flanneld, World, run
from netns_programs import ProgramError
from router import NextHops, Router, SessionState, established, eventually, missing
from router_configs import Neighbour
from router_lab import OURS, RouterLab, router_hosts, router_lab
from router_world import knows
from routers import Bird, Frr
from traffic import address_of, steady_ping

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(bool(missing(Bird, Frr)), reason=missing(Bird, Frr)),
    pytest.mark.asyncio(loop_scope="module"),
]
HOMES: Mapping[str, type[Router]] = {"r1": Bird, "r2": Frr}
KEPT = {"r1": "10.244.101.0/24", "r2": "10.244.102.0/24"}
DROPPED = {"r1": "10.244.201.0/24", "r2": "10.244.202.0/24"}
"""What the routers announce no more when they have restarted."""
AWAY_S = 3.0
BFD = {"Interval": 100, "Multiplier": 3}
"""The routers' interval of 300 ms is agreed upon."""
NOTICED_S = 1.5
EXPIRED = describe(Diagnostic.DETECTION_TIME_EXPIRED)
AT_ANY_MOMENT = random.Random(7)


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with router_hosts("h1", *HOMES) as world:
        yield world


@pytest_asyncio.fixture(loop_scope="module")
async def lab(world: World) -> AsyncIterator[RouterLab]:
    async with router_lab(world) as lab:
        yield lab


async def meet(lab: RouterLab, *, bfd: bool = False) -> dict[str, Router]:
    """Both routers with sessions with h1, and all that either end announces."""
    lab.configure(*(lab.peer(home, 65000 + n, BFD=BFD if bfd else False) for n, home in enumerate(HOMES, 1)))
    routers = {}
    for n, (home, kind) in enumerate(HOMES.items(), 1):
        us = Neighbour(lab.address("h1"), OURS, bfd=bfd, families=(4, 6), source=lab.address(home), passive=True)
        plan = lab.plan(home, 65000 + n, us, originate=(KEPT[home], DROPPED[home]))
        routers[home] = await lab.router(home, kind, plan)
    lab.flanneld("h1")
    for router in routers.values():
        await known(lab, router)
    await in_kernel(lab, announced(lab, KEPT) | announced(lab, DROPPED))
    return routers


async def known(lab: RouterLab, router: Router) -> None:
    """Wait until the session stands, and the router has routes to h1's pods."""
    prefix, us = lab.subnets("h1")[0], lab.address("h1")

    async def look() -> bool:
        with suppress(ProgramError):  # BIRD does not look at its tables before it has recovered
            return (await router.routes()).get(prefix) == (await router.kernel_routes()).get(prefix) == frozenset({us})
        return False

    await established(router, us)
    await eventually(look, bool)


def announced(lab: RouterLab, prefixes: Mapping[str, str]) -> dict[IPNetwork, NextHops]:
    return {ip_network(prefix): frozenset({lab.address(home)}) for home, prefix in prefixes.items()}


async def in_kernel(lab: RouterLab, wanted: Mapping[IPNetwork, NextHops], within_s: float = 30.0) -> None:
    """Wait until h1's routes to elsewhere are exactly these."""
    await eventually(lambda: asyncio.to_thread(lab.routes, "h1"), lambda routes: routes == wanted, within_s)


async def test_routers_keep_our_routes_while_flanneld_and_exabgp_are_dead_and_no_packet_is_lost(lab: RouterLab) -> None:
    routers = await meet(lab)
    pod = lab.pod("h1")
    with ExitStack() as stack:
        pings = [stack.enter_context(steady_ping(lab.host(home), address_of(pod))) for home in HOMES]
        pings += [stack.enter_context(steady_ping(pod, ip_network(prefix)[1])) for prefix in KEPT.values()]
        lab.kill("h1")
        await asyncio.sleep(AWAY_S)
        for router in routers.values():
            assert (await router.sessions())[lab.address("h1")] is not SessionState.ESTABLISHED
            await knows(router, lab.subnets("h1")[0], lab.address("h1"))
        lab.flanneld("h1")
        for router in routers.values():
            await known(lab, router)
        await asyncio.sleep(1)
    assert [each.lost for each in pings] == [0] * 4
    await in_kernel(lab, announced(lab, KEPT) | announced(lab, DROPPED))


@pytest.mark.parametrize("home", HOMES)
async def test_of_a_router_that_restarts_we_keep_what_it_announces_again(lab: RouterLab, home: str) -> None:
    router = (await meet(lab))[home]
    everything = announced(lab, KEPT) | announced(lab, DROPPED)
    with steady_ping(lab.pod("h1"), ip_network(KEPT[home])[1]) as echoes:
        await router.kill()
        await asyncio.sleep(AWAY_S)
        assert lab.routes("h1") == everything
        router.text = router.text.replace(f"route {DROPPED[home]} blackhole;", "").replace(f"network {DROPPED[home]}\n", "\n")
        await router.start()
        await known(lab, router)
        del everything[ip_network(DROPPED[home])]
        await in_kernel(lab, everything)
    assert echoes.lost == 0


def settled(flanneld: Flanneld, peer: IPAddress) -> Callable[[], Awaitable[bool]]:
    """Whether the last that was said of either session with the neighbour, a second ago or more, is that it is up."""

    async def look() -> bool:
        said = [line for line in flanneld.lines() if line.get("peer") == str(peer) and "session" in line["event"]]
        await asyncio.sleep(1)
        now = [line for line in flanneld.lines() if line.get("peer") == str(peer) and "session" in line["event"]]
        return said == now and {line["event"] for line in said[-2:]} == {"bgp session up", "bfd session up"}

    return look


async def why_down(flanneld: Flanneld, protocol: str, peer: IPAddress) -> str:
    """Why the session with the neighbour was lost last, as the log says."""
    said = [line["why"] for line in flanneld.said(f"{protocol} session down") if line["peer"] == str(peer)]
    return str(said[-1]) if said else ""


@pytest.mark.parametrize("home", HOMES)
async def test_bfd_notices_a_cut_cable_long_before_the_hold_time(lab: RouterLab, home: str) -> None:
    router = (await meet(lab, bfd=True))[home]
    await eventually(router.bfd_sessions, lambda up: up == {lab.address("h1"): True})
    remaining = announced(lab, KEPT) | announced(lab, DROPPED)
    for prefix in (KEPT[home], DROPPED[home]):
        del remaining[ip_network(prefix)]
    flanneld = lab.started["h1"]
    await eventually(settled(flanneld, lab.address(home)), bool)  # FRR begins BFD anew once the session stands
    cut_at = time.monotonic()
    lab.cut(home)
    try:
        await in_kernel(lab, remaining)
        noticed_s = time.monotonic() - cut_at
    finally:
        lab.mend(home)
    print(f"{home}: routes gone {noticed_s * 1000:.0f} ms after the cut")
    assert noticed_s < NOTICED_S
    await eventually(lambda: why_down(flanneld, "bfd", lab.address(home)), lambda why: why == EXPIRED)
    await eventually(lambda: why_down(flanneld, "bgp", lab.address(home)), lambda why: why == f"bfd: {EXPIRED}")
    await known(lab, router)
    await in_kernel(lab, announced(lab, KEPT) | announced(lab, DROPPED))


async def test_after_twenty_flaps_of_the_link_all_is_as_before(lab: RouterLab) -> None:
    routers = await meet(lab, bfd=True)
    for _ in range(20):
        for state in ("down", "up"):
            run(lab.world.lab.fabric, f"ip link set h1 {state}")
            await asyncio.sleep(AT_ANY_MOMENT.uniform(0.1, 0.9))
    for router in routers.values():
        await known(lab, router)
    await in_kernel(lab, announced(lab, KEPT) | announced(lab, DROPPED))
    flanneld = lab.started["h1"]
    lines = len(flanneld.lines())
    print(f"{lines} lines, {len(flanneld.said('bgp session up'))} times up")
    lab.world.daemons.remove(flanneld)  # it has had more to say than others
    await asyncio.sleep(2)
    assert len(flanneld.lines()) == lines
    assert len(flanneld.said("bgp session up")) == len(flanneld.said("bgp session down")) + len(routers)
