"""flanneld beside BIRD, FRR and GoBGP, each in an AS of its own: what they tell each other, both families in one session.

The sessions have a password and TTL security, and are opened by flanneld.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, replace

import pytest
import pytest_asyncio

from flanneld.lease import IPNetwork
from flanneld_world import World
from router import Router, SessionState, established, eventually, missing
from router_configs import Neighbour, RouterPlan
from router_lab import OURS, PASSWORD, PASSWORD_FILE, RouterLab, router_hosts, router_lab
from router_views import View, ask_anew, updates_from, view_of
from router_world import knows
from routers import ROUTERS, Bird, Frr, GoBgp
from traffic import address_of, ping

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(bool(missing(*ROUTERS)), reason=missing(*ROUTERS)),
    pytest.mark.asyncio(loop_scope="module"),
]
HOMES: Mapping[type[Router], str] = {Bird: "r1", Frr: "r2", GoBgp: "r3"}
EXPORT = {"Match": {"Family": 4}, "Action": "accept", "Set": {"MED": 7, "Prepend": 2, "Communities": ["64512:7"]}}


@dataclass(frozen=True)
class Met:
    """One router with which h1 has a session."""

    lab: RouterLab
    router: Router
    home: str
    number: int
    plan: RouterPlan

    @property
    def originated(self) -> tuple[IPNetwork, ...]:
        """What we are to take of what it announces."""
        return self.plan.originate[:2]

    async def in_our_kernel(self, prefixes: tuple[IPNetwork, ...], *, there: bool = True) -> None:
        """Wait until routes to the prefixes lead to the router, or until there are none."""

        def is_so(routes: Mapping[IPNetwork, frozenset[object]]) -> bool:
            wanted = {prefix: frozenset({self.lab.address(self.home, ipv6=prefix.version == 6)}) for prefix in prefixes if there}
            return {prefix: routes[prefix] for prefix in prefixes if prefix in routes} == wanted

        await eventually(lambda: asyncio.to_thread(self.lab.routes, "h1"), is_so)


def originated(number: int) -> tuple[str, str, str]:
    """Of the pool: IPv4, IPv6, and what we refuse."""
    return f"10.244.{100 + number}.0/24", f"fd00:10:244:{100 + number}::/64", f"10.244.{200 + number}.0/24"


def peers(lab: RouterLab, export: object = EXPORT) -> list[dict[str, object]]:
    refused = {"Match": {"Prefix": "10.244.192.0/18"}, "Action": "refuse"}
    common = {"PasswordFile": str(PASSWORD_FILE), "TTLSecurity": 1, "Import": [refused], "Export": [export]}
    return [
        lab.peer(name, 65000 + number, Communities=[f"64512:{number}"], **common)
        for number, name in enumerate(HOMES.values(), 1)
    ]  # fmt: skip


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with router_hosts("h1", *HOMES.values()) as world:
        yield world


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def all_met(world: World) -> AsyncIterator[Mapping[type[Router], Met]]:
    async with router_lab(world) as lab:
        lab.configure(*peers(lab), Communities=["64512:100"])
        found = {}
        for number, (kind, home) in enumerate(HOMES.items(), 1):
            us = Neighbour(lab.address("h1"), OURS, PASSWORD, gtsm=True, passive=True, families=(4, 6), source=lab.address(home))
            plan = lab.plan(home, 65000 + number, us, originate=originated(number))
            found[kind] = Met(lab, await lab.router(home, kind, plan), home, number, plan)
        lab.flanneld("h1")
        for met in found.values():
            await established(met.router, lab.address("h1"))
        yield found


@pytest.fixture(params=ROUTERS)
def met(request: pytest.FixtureRequest, all_met: Mapping[type[Router], Met]) -> Met:
    return all_met[request.param]


async def test_our_subnets_come_to_its_rib_and_kernel_with_our_address_as_next_hop(met: Met) -> None:
    for prefix in met.lab.subnets("h1"):
        await knows(met.router, prefix, met.lab.address("h1", ipv6=prefix.version == 6))


async def test_its_subnets_come_to_our_kernel_by_way_of_it(met: Met) -> None:
    await met.in_our_kernel(met.originated)


async def test_it_sees_what_our_export_rule_sets(met: Met) -> None:
    four, six = met.lab.subnets("h1")
    common = {(64512, 100), (64512, met.number)}
    assert await view_of(met.router, four) == View((OURS, OURS, OURS), 7, frozenset({*common, (64512, 7)}))
    seen = await view_of(met.router, six)
    assert seen is not None
    assert (seen.as_path, seen.communities) == ((OURS,), frozenset(common))


async def test_what_our_import_rule_refuses_is_not_in_our_kernel(met: Met) -> None:
    await met.in_our_kernel(met.originated)
    await met.in_our_kernel((met.plan.originate[2],), there=False)


@pytest.mark.parametrize("met", [Bird, Frr], indirect=True)  # GoBGP puts no route into the kernel
async def test_a_pod_reaches_what_the_router_announces_and_the_router_the_pod(met: Met) -> None:
    await met.in_our_kernel(met.originated)
    pod = met.lab.pod("h1")
    for prefix in met.originated:
        assert await asyncio.to_thread(ping, pod, prefix[1])
        assert await asyncio.to_thread(ping, met.lab.host(met.home), address_of(pod, prefix.version))


@pytest.mark.parametrize("met", [Bird, Frr], indirect=True)  # GoBGP remembers all and never asks
async def test_its_route_refresh_is_answered(met: Met) -> None:
    us = met.lab.address("h1")
    await knows(met.router, met.lab.subnets("h1")[0], us)
    before = await updates_from(met.router, us)
    await ask_anew(met.router, us)
    await eventually(lambda: updates_from(met.router, us), lambda count: count > before)
    assert (await met.router.sessions())[us] is SessionState.ESTABLISHED


async def test_what_it_withdraws_leaves_our_kernel_and_comes_back(met: Met) -> None:
    four, six = met.originated
    await met.in_our_kernel((four, six))
    text = met.router.text
    await met.router.configure(met.router.render(replace(met.plan, originate=(six,))))
    await met.in_our_kernel((four,), there=False)
    await met.in_our_kernel((six,))
    await met.router.configure(text)
    await met.in_our_kernel((four, six))


async def test_what_we_withdraw_leaves_its_rib_while_the_session_stays(all_met: Mapping[type[Router], Met]) -> None:
    """By an export rule, while flanneld runs."""
    lab = next(iter(all_met.values())).lab
    four, six = lab.subnets("h1")
    lab.configure(*peers(lab, {"Match": {"Prefix": str(four)}, "Action": "refuse"}), Communities=["64512:100"])
    for met in all_met.values():
        await eventually(met.router.routes, lambda routes: four not in routes and six in routes)
    lab.configure(*peers(lab), Communities=["64512:100"])
    for met in all_met.values():
        await knows(met.router, four, lab.address("h1"))
    assert len(lab.started["h1"].said("bgp session up")) == len(all_met)
    assert not lab.started["h1"].said("bgp session down")
