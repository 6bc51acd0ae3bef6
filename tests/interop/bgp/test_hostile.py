"""Neighbours that announce what they must not: nothing of it comes to the kernel, each is told why, and others do not notice.

r1 is a neighbour in another AS, r2 poses as a host of the pod network, and r3 is a router like any other.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from bgp.control import SOCKET, ask
from bgp_speaker_stub import ROUTE_REFRESH, Stub, StubSession, update, withdrawal
from flanneld.lease import IPNetwork
from flanneld_world import PREFIX, Flanneld, World, vxlan_lease
from router import Router, established, eventually, missing
from router_configs import Neighbour
from router_lab import OURS, POOL4, RouterLab, router_hosts, router_lab
from routers import Bird

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(bool(missing(Bird)), reason=missing(Bird)),
    pytest.mark.asyncio(loop_scope="module"),
]
THEIRS, GOOD_AS = 65001, 65003
ITS_LEASE, GOOD = IPv4Network("10.244.110.0/24"), IPv4Network("10.244.103.0/24")
SERVICES = "10.96.0.0/12"
LIMIT = 1000
MOST_GROWTH_MIB = 30.0
"""Of flanneld, by 100,000 announcements."""
CONTROL = Path("/run/flannel/subnet.env.state/bgp") / SOCKET


@dataclass(frozen=True)
class Scene:
    """Everybody, with sessions with h1."""

    lab: RouterLab
    external: StubSession
    internal: StubSession
    good: Router

    def asked(self, what: str) -> list[dict[str, Any]]:
        """What h1's backend says."""
        answer = self.lab.host("h1").call(ask, CONTROL, {"do": what})
        assert isinstance(answer, list)
        return answer

    def peer(self, name: str) -> Mapping[str, Any]:
        (found,) = (each for each in self.asked("peers") if each["peer"] == str(self.lab.address(name)))
        return found

    def refusals(self, name: str, prefix: IPNetwork) -> list[str]:
        """Why what that neighbour says of the prefix is refused."""
        peer = str(self.lab.address(name))
        said = [each for each in self.asked("routes") if (each["peer"], each["prefix"]) == (peer, str(prefix))]
        return [each["why"] for each in said if each["why"].startswith("refused: ")]

    @property
    def rightful(self) -> Mapping[IPNetwork, frozenset[Any]]:
        """All routes that h1 is to have."""
        return {GOOD: frozenset({self.lab.address("r3")}), ITS_LEASE: frozenset({self.lab.address("r2")})}

    @property
    def flanneld(self) -> Flanneld:
        return self.lab.started["h1"]


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with router_hosts("h1", "r1", "r2", "r3") as world:
        yield world


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def scene(world: World) -> AsyncIterator[Scene]:
    async with router_lab(world, POOL4) as lab:
        hostile = lab.peer("r1", THEIRS, Passive=True, MaxPrefix=LIMIT)
        reflector = {"Select": "name == h1"}
        lab.configure(hostile, lab.peer("r3", GOOD_AS), Services=[SERVICES], HoldTime=30, Reflectors=reflector)
        ip = str(lab.address("r2"))
        data = {"AS": OURS, "RouterID": ip, "Name": "r2"}
        lease = {"PublicIP": ip, "BackendType": "bgp", "BackendData": data}
        leases = {"10.244.110.0-24": json.dumps(lease), "10.244.120.0-24": vxlan_lease("10.0.0.99", "aa:bb:cc:dd:ee:ff")}
        us = lab.address4("h1")
        good = await lab.router("r3", Bird, lab.plan("r3", GOOD_AS, Neighbour(us, OURS, passive=True), originate=(str(GOOD),)))
        lab.flanneld("h1")
        world.etcd.put_all({f"{PREFIX}/subnets/{key}": value for key, value in leases.items()})
        with ExitStack() as stack:
            external, internal = (
                stack.enter_context(Stub(lab.host(name), lab.address4(name), asn).connected(us))
                for name, asn in (("r1", THEIRS), ("r2", OURS))
            )
            internal.send(update([ITS_LEASE], lab.address4("r2")))
            await established(good, us)
            scene = Scene(lab, external, internal, good)
            await in_kernel(scene)
            yield scene


async def in_kernel(scene: Scene) -> None:
    """Wait until h1 has its rightful routes and no others."""
    await eventually(lambda: asyncio.to_thread(scene.lab.routes, "h1"), lambda routes: routes == scene.rightful)


async def refused(scene: Scene, name: str, prefix: IPNetwork, reason: str, words: object) -> None:
    """Wait until what that neighbour says of the prefix is refused in these words; the reason is among those counted."""

    async def look() -> list[str]:
        return scene.refusals(name, prefix)

    await eventually(look, lambda said: any(str(words) in why for why in said), 10)
    assert scene.peer(name)["refused"][reason]


FROM_OUTSIDE = {
    "the default route": ("0.0.0.0/0", "default-route"),
    "loopback": ("127.0.0.0/8", "martian"),
    "multicast": ("224.0.0.0/4", "martian"),
    "our pod subnet": ("own", "own-subnet"),
    "a half of our pod subnet": ("own half", "own-subnet"),
    "the whole pool": ("10.244.0.0/16", "own-subnet"),
    "more than a subnet of the pool": ("10.244.112.0/20", "length"),
    "less than a subnet of the pool": ("10.244.111.128/25", "length"),
    "one pod": ("10.244.111.7/32", "length"),
    "a host's own address": ("10.0.0.14/32", "host-address"),
    "what is no pod's": ("192.0.2.0/24", "no-pool"),
    "a subnet that another backend reaches": ("10.244.120.0/24", "elsewhere"),
}


@pytest.mark.parametrize(("prefix", "reason"), FROM_OUTSIDE.values(), ids=list(FROM_OUTSIDE))
async def test_a_prefix_that_is_not_a_neighbours_to_announce_is_refused(scene: Scene, prefix: str, reason: str) -> None:
    (own,) = scene.lab.subnets("h1")
    assert isinstance(own, IPv4Network)
    meant = {"own": own, "own half": next(own.subnets())}.get(prefix) or IPv4Network(prefix)
    scene.external.send(update([meant], scene.lab.address4("r1"), [THEIRS]))
    await refused(scene, "r1", meant, reason, meant)
    await in_kernel(scene)
    scene.external.send(withdrawal([meant]))


FREE = IPv4Network("10.244.130.0/24")
"""In order, but for what is said of it."""
NEXT_HOPS = {
    "ourselves": ("10.0.0.11", "next-hop-own"),
    "loopback": ("127.0.0.1", "next-hop-martian"),
    "off the link": ("198.51.100.1", "next-hop-off-link"),
}
PATHS = {"that has come round": ([THEIRS, OURS], "as-loop"), "of somebody else's": ([65066, THEIRS], "first-as")}


@pytest.mark.parametrize(("hop", "reason"), NEXT_HOPS.values(), ids=list(NEXT_HOPS))
async def test_a_next_hop_that_leads_nowhere_is_refused(scene: Scene, hop: str, reason: str) -> None:
    scene.external.send(update([FREE], IPv4Address(hop), [THEIRS]))
    await refused(scene, "r1", FREE, reason, hop)
    await in_kernel(scene)
    scene.external.send(withdrawal([FREE]))


@pytest.mark.parametrize(("path", "reason"), PATHS.values(), ids=list(PATHS))
async def test_an_as_path_that_cannot_be_is_refused(scene: Scene, path: list[int], reason: str) -> None:
    scene.external.send(update([FREE], scene.lab.address4("r1"), path))
    await refused(scene, "r1", FREE, reason, (OURS if reason == "as-loop" else THEIRS))
    await in_kernel(scene)
    scene.external.send(withdrawal([FREE]))


async def test_a_host_may_announce_no_others_subnet(scene: Scene) -> None:
    scene.internal.send(update([FREE], scene.lab.address4("r2")))
    await refused(scene, "r2", FREE, "not-its-lease", ITS_LEASE)
    await in_kernel(scene)


async def test_our_own_reflection_is_refused(scene: Scene) -> None:
    """RFC 4456 §8: the ORIGINATOR_ID is ours."""
    us = scene.lab.address4("h1")
    scene.internal.send(update([FREE], scene.lab.address4("r2"), [], (9, us.packed)))
    await refused(scene, "r2", FREE, "originator", us)
    await in_kernel(scene)


async def test_what_we_have_reflected_before_is_refused(scene: Scene) -> None:
    """RFC 4456 §8: the CLUSTER_LIST has our CLUSTER_ID in it, which is our router id."""
    us = scene.lab.address4("h1")
    scene.internal.send(update([FREE], scene.lab.address4("r2"), [], (9, IPv4Address("10.0.0.99").packed), (10, us.packed)))
    await refused(scene, "r2", FREE, "cluster", f"our cluster {us}")
    await in_kernel(scene)


async def test_a_hosts_subnet_stays_with_it_when_a_router_claims_it(scene: Scene) -> None:
    scene.external.send(update([ITS_LEASE, FREE], scene.lab.address4("r1"), [THEIRS]))
    free: Mapping[IPNetwork, frozenset[Any]] = {FREE: frozenset({scene.lab.address("r1")})}
    await eventually(lambda: asyncio.to_thread(scene.lab.routes, "h1"), lambda routes: routes == {**scene.rightful, **free})
    scene.external.send(withdrawal([ITS_LEASE, FREE]))
    await in_kernel(scene)


def everywhere(count: int, network: str) -> Iterator[IPv4Network]:
    first = int(IPv4Network(network)[0])
    return (IPv4Network((first + number, 32)) for number in range(count))


def standing_since(scene: Scene) -> dict[str, float]:
    """When the sessions of those who do no harm came up, by our clock."""
    return {name: time.monotonic() - scene.peer(name)["since"] for name in ("r2", "r3")}


def asked_anew(session: StubSession) -> Callable[[], Awaitable[bool]]:
    """Whether a ROUTE-REFRESH has come (RFC 2918)."""

    async def look() -> bool:
        return any(kind == ROUTE_REFRESH for kind, _ in session.received)

    return look


async def flooded(scene: Scene, prefixes: list[IPv4Network], reason: str) -> float:
    """How much flanneld has grown, in MiB, when all of them have been refused, or all but LIMIT."""
    before, grown_from, began = scene.peer("r1")["refused"].get(reason, 0), scene.flanneld.rss_mib(), time.monotonic()
    await asyncio.to_thread(scene.external.send, update(prefixes, scene.lab.address4("r1"), [THEIRS]))

    async def count() -> int:
        return int(scene.peer("r1")["refused"].get(reason, 0) - before)

    await eventually(count, lambda refused: refused >= len(prefixes) - LIMIT, 60)
    now_mib, took_s = scene.flanneld.rss_mib(), time.monotonic() - began
    print(f"{len(prefixes)} refused for {reason}: {took_s:.1f} s, {now_mib - grown_from:.1f} MiB more, {now_mib:.0f} in all")
    return now_mib - grown_from


async def test_100_000_prefixes_of_no_pool_cost_little_memory_and_nobody_elses_session(scene: Scene) -> None:
    stood = standing_since(scene)
    assert await flooded(scene, list(everywhere(100_000, "172.16.0.0/12")), "no-pool") < MOST_GROWTH_MIB
    await in_kernel(scene)
    assert standing_since(scene) == pytest.approx(stood, abs=1)


async def test_of_100_000_service_addresses_as_many_are_taken_as_the_limit_allows(scene: Scene) -> None:
    stood = standing_since(scene)
    prefixes = list(everywhere(100_000, SERVICES))
    assert await flooded(scene, prefixes, "limit") < MOST_GROWTH_MIB
    await eventually(lambda: asyncio.to_thread(scene.lab.routes, "h1"), lambda routes: len(routes) == LIMIT + len(scene.rightful))
    assert scene.flanneld.said("too many prefixes, new ones are refused")
    assert standing_since(scene) == pytest.approx(stood, abs=1)
    await asyncio.to_thread(scene.external.send, withdrawal(prefixes))
    await in_kernel(scene)
    await eventually(asked_anew(scene.external), bool)  # there is room again for what was not taken
