"""BIRD, FRR and GoBGP among themselves, as tests start and configure them: what fails here is our tests' fault, or theirs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from ipaddress import IPv6Address, ip_network

import pytest

from bgp.path import Asn
from router import Router, SessionState, eventually, missing
from router_configs import Neighbour, RouterPlan, render_frr, render_frr_evpn, render_gobgp
from router_world import ANY, OURS, THEIRS, World, knows, router_world
from routers import ROUTERS, Bird, Frr, GoBgp

pytestmark = [pytest.mark.root, pytest.mark.skipif(bool(missing(*ROUTERS)), reason=missing(*ROUTERS))]

PAIRS = ((Bird, Frr), (Bird, GoBgp), (Frr, GoBgp))
each_kind = pytest.mark.parametrize("kind", ROUTERS)
each_pair = pytest.mark.parametrize("kinds", PAIRS, ids=["-".join(kind.__name__ for kind in kinds) for kinds in PAIRS])
PASSWORD = "k3y-k3y"  # noqa: S105  # not a secret
VXLAN = "link add vxlan7 type vxlan id 7 dstport 4789 nolearning local"


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with router_world("one", "other", "third") as world:
        yield world


@each_pair
async def test_two_in_one_as_tell_each_other_a_route_each(world: World, kinds: tuple[type[Router], type[Router]]) -> None:
    one, other = await world.pair(kinds)
    await knows(one, world.prefix("other"), world.address("other"))
    await knows(other, world.prefix("one"), world.address("one"))


@each_pair
async def test_two_in_two_as_do_so_with_md5_and_ttl_security(world: World, kinds: tuple[type[Router], type[Router]]) -> None:
    one, other = await world.pair(kinds, THEIRS, replace(ANY, password=PASSWORD, gtsm=True))
    await knows(one, world.prefix("other"), world.address("other"))
    await knows(other, world.prefix("one"), world.address("one"))


@each_kind
async def test_another_password_keeps_a_session_down(world: World, kind: type[Router]) -> None:
    here, there = world.address("one"), world.address("other")
    one = await world.run("one", Bird, world.plan("one", OURS, Neighbour(there, OURS, "right")))
    await world.run("other", kind, world.plan("other", OURS, Neighbour(here, OURS, "wrong")))
    await asyncio.sleep(2)
    assert (await one.sessions())[there] is not SessionState.ESTABLISHED


@each_pair
async def test_ipv4_over_ipv6_has_ipv6_next_hops(world: World, kinds: tuple[type[Router], type[Router]]) -> None:
    one, other = await world.pair(kinds, THEIRS, replace(ANY, families=(4, 6)), ipv6=True)
    for router, host in ((one, "other"), (other, "one")):
        await eventually(router.routes, lambda routes: bool(routes))
        assert {hop.version for hop in (await router.routes())[world.prefix(host)]} == {6}


@each_kind
async def test_ipv6_over_ipv4_has_the_planned_next_hop(world: World, kind: type[Router]) -> None:
    prefix, own = ip_network("fd07:2::/64"), world.address("other", ipv6=True)
    assert isinstance(own, IPv6Address)
    plan = world.plan("other", THEIRS, Neighbour(world.address("one"), OURS, families=(6,), passive=True))
    await world.run("other", kind, replace(plan, originate=(prefix,), next_hop6=own))
    one = await world.run("one", Bird, world.plan("one", OURS, Neighbour(world.address("other"), THEIRS, families=(6,))))
    await knows(one, prefix, own)


@each_pair
async def test_a_session_of_loopback_addresses_has_several_hops(world: World, kinds: tuple[type[Router], type[Router]]) -> None:
    here, there = (world.address(host) + 256 for host in ("one", "other"))
    for host, own, other, via in (("one", here, there, "other"), ("other", there, here, "one")):
        world.segment.hosts[host].ip(f"addr add {own} dev lo")
        world.segment.hosts[host].ip(f"route add {other} via {world.address(via)}")
    ends = (Neighbour(there, THEIRS, source=here, multihop=3), Neighbour(here, OURS, source=there, multihop=3, passive=True))
    second = await world.run("other", kinds[1], world.plan("other", THEIRS, ends[1]))
    await world.run("one", kinds[0], world.plan("one", OURS, ends[0]))
    await eventually(second.routes, lambda routes: world.prefix("one") in routes)


async def test_bfd_ends_a_session_long_before_its_hold_time(world: World) -> None:
    one, other = await world.pair((Bird, Frr), THEIRS, replace(ANY, bfd=True, hold_time_s=90))
    await eventually(one.bfd_sessions, lambda up: up == {world.address("other"): True})
    await eventually(other.bfd_sessions, lambda up: up == {world.address("one"): True})
    cut_at = time.monotonic()
    world.segment.cut("other")
    for router in (one, other):
        await eventually(router.sessions, lambda states: SessionState.ESTABLISHED not in states.values())
    assert time.monotonic() - cut_at < 10


def test_gobgp_refuses_bfd() -> None:
    with pytest.raises(ValueError, match=r"no BFD, wanted with 0\.0\.0\.0"):
        render_gobgp(RouterPlan("192.0.2.1", OURS, (replace(ANY, bfd=True),)))


@each_kind
async def test_a_reflector_tells_its_clients_of_each_other(world: World, kind: type[Router]) -> None:
    clients = [Neighbour(world.address(host), OURS, reflector_client=True, passive=True) for host in ("other", "third")]
    await world.run("one", kind, world.plan("one", OURS, *clients))
    reflector = Neighbour(world.address("one"), OURS)
    other = await world.run("other", Bird, world.plan("other", OURS, reflector))
    third = await world.run("third", Frr, world.plan("third", OURS, reflector))
    await knows(other, world.prefix("third"), world.address("third"))
    await knows(third, world.prefix("other"), world.address("other"))


@pytest.mark.parametrize("kind", [Bird, Frr])
async def test_equal_paths_are_used_at_once_if_planned(world: World, kind: type[Router]) -> None:
    neighbours = []
    for host, asn, other_kind in (("other", THEIRS, Bird), ("third", Asn(64514), GoBgp)):
        plan = world.plan(host, asn, Neighbour(world.address("one"), OURS, passive=True))
        await world.run(host, other_kind, replace(plan, originate=(world.prefix("third"),)))
        neighbours.append(Neighbour(world.address(host), asn))
    one = await world.run("one", kind, replace(world.plan("one", OURS, *neighbours), multipath=True))
    await knows(one, world.prefix("third"), world.address("other"), world.address("third"))


async def test_frr_tells_of_vxlan_devices(world: World) -> None:
    """RFC 7432 §7.3: who takes part in a VNI, which the other end's kernel then floods to."""
    for host, other in (("one", "other"), ("other", "one")):
        netns = world.segment.hosts[host]
        for line in (f"{VXLAN} {world.address(host)}", "link add br7 up type bridge", "link set vxlan7 up master br7"):
            netns.ip(line)
        plan = world.plan(host, OURS, Neighbour(world.address(other), OURS))
        await world.stack.enter_async_context(Frr(netns.path, render_frr(plan) + render_frr_evpn(plan)))

    async def flooded() -> set[object]:
        entries = await asyncio.to_thread(world.segment.hosts["one"].read, "bridge fdb show dev vxlan7")
        return {entry.get("dst") for entry in entries if entry["mac"] == "00:00:00:00:00:00"}

    await eventually(flooded, lambda destinations: destinations == {str(world.address("other"))})
