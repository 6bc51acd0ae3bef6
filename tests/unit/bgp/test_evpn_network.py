"""vxlan by EVPN on a kernel in memory: what leases and neighbours say becomes entries; no exabgp runs."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest

from bgp.events import Down, EndOfRib, EvpnAnnounced, EvpnWithdrawn, Opened, Up
from bgp.evpn.announcement import EvpnAnnouncement
from bgp.evpn.backend import EvpnVxlanBackend
from bgp.evpn.network import EvpnNetwork
from bgp.hosts import peer_view
from bgp.path import Asn
from bgp.speaker.news import Synced
from evpn_routes import at, extended, through, told, told_of_host
from flanneld.backend import Identity, Refusal, load_backend, unknown_keys
from flanneld.backends.vxlan import VxlanBackend
from flanneld.config import ConfigError
from flanneld.kernel import Entry, FdbEntry, Neighbour, NextHop, Route
from flanneld.lease import Lease
from memory_kernel import MemoryKernel
from peers_of import lease, network, uplink, vtep_mac

LEAF = {"Address": "10.0.0.99", "AS": 65101}
PLAIN = '{"Type": "vxlan"}'


def config(**keys: object) -> str:
    return json.dumps({"Type": "vxlan", "Control": "bgp-evpn", "AS": 64512, **keys})


@asynccontextmanager
async def attached(directory: Path, kernel: MemoryKernel, **keys: object) -> AsyncIterator[EvpnNetwork]:
    """Host 1, with the sessions of which its router is told that they are there."""
    wanted = network(config(**keys))
    backend = load_backend(wanted)
    assert isinstance(backend, EvpnVxlanBackend)
    async with backend.on_host(Identity("h1", {}, directory)).attach(uplink(), wanted, kernel) as found:
        assert isinstance(found, EvpnNetwork)
        await found.adopt(lease(1))
        found.router.adjacencies.take(Synced({}, {}, (), {}))
        yield found


def speaking(n: int, asn: int = 64512) -> Lease:
    """A host that speaks EVPN."""
    plain = lease(n)
    (family, vtep), *_ = plain.attrs.backend_data
    besides = {"AS": asn, "RouterID": f"10.0.0.{n}", "Name": f"h{n}", "Labels": {}, "Port": 179}
    return replace(plain, attrs=replace(plain.attrs, backend_data=((family, json.dumps(json.loads(vtep) | besides)),)))


def hears(host: EvpnNetwork, n: int, *said: EvpnAnnouncement, whole: bool = True) -> None:
    """Neighbour n is up, and has told all this."""
    host.router.adjacencies.take(Opened(at(n), Asn(64512), f"10.0.0.{n}", 9, 120))
    host.router.adjacencies.take(Up(at(n)))
    host.router.adjacencies.take(EvpnAnnounced(at(n), said))
    if whole:
        host.router.adjacencies.take(EndOfRib(at(n), "evpn"))


async def entries(host: EvpnNetwork, peers: Sequence[Lease]) -> set[Entry]:
    wanted = await host.reach(peers)
    assert [peer for peer, _ in wanted.plans] == list(peers)
    plans = [plan for _, plan in wanted.plans if not isinstance(plan, Refusal)]
    return {*wanted.entries, *(entry for plan in plans for entry in plan)}


def way(device: int, n: int, vtep: int, mac: str) -> set[Entry]:
    """What the subnet of n needs when it is behind that VTEP and MAC."""
    (subnet,) = lease(n).subnets
    gateway = subnet.network_address
    route = Route(subnet, device, gateway, onlink=True)
    return {route, Neighbour(device, gateway, mac), FdbEntry(device, mac, at(vtep))}


@pytest.fixture
def kernel() -> MemoryKernel:
    made = MemoryKernel()
    made.next_hops = {at(n): NextHop(2, None) for n in range(2, 100)}
    return made


def device(kernel: MemoryKernel) -> int:
    return kernel.links["flannel.1"].index


async def test_a_peer_is_where_its_lease_says_until_evpn_says_otherwise(tmp_path: Path, kernel: MemoryKernel) -> None:
    async with attached(tmp_path, kernel) as host:
        peers = [speaking(2)]
        assert await entries(host, peers) == way(device(kernel), 2, 2, vtep_mac(2))
        hears(host, 2, told(2, next_hop=at(22), extended=extended(vtep_mac(22))))
        assert await entries(host, peers) == way(device(kernel), 2, 22, vtep_mac(22))
        host.router.adjacencies.take(EvpnWithdrawn(at(2), (told(2).route.key,)))
        assert await entries(host, peers) == way(device(kernel), 2, 2, vtep_mac(2))


async def test_a_host_of_the_plain_method_is_a_peer_without_a_session(tmp_path: Path, kernel: MemoryKernel) -> None:
    async with attached(tmp_path, kernel) as host:
        assert await entries(host, [lease(2), speaking(3)]) >= way(device(kernel), 2, 2, vtep_mac(2))
        assert set(host.router.adjacencies.aim.neighbours) == {at(3)}


async def test_what_a_router_has_is_reached_through_it_and_withdrawn_again(tmp_path: Path, kernel: MemoryKernel) -> None:
    async with attached(tmp_path, kernel, Peers=[LEAF]) as host:
        peers = [lease(2)]
        before = await entries(host, peers)
        said = told(50, next_hop=at(99), attributes=through(65101), extended=extended(vtep_mac(99), asn=65101))
        hears(host, 99, said)
        assert await entries(host, peers) - before == way(device(kernel), 50, 99, vtep_mac(99))
        host.router.adjacencies.take(EvpnWithdrawn(at(99), (said.route.key,)))
        assert await entries(host, peers) == before


async def test_several_subnets_behind_one_vtep_share_its_mac(tmp_path: Path, kernel: MemoryKernel) -> None:
    async with attached(tmp_path, kernel, Peers=[LEAF]) as host:
        await host.reach([])
        theirs = extended(vtep_mac(99), asn=65101)
        hears(host, 99, *(told(n, next_hop=at(99), attributes=through(65101), extended=theirs) for n in (50, 51)))
        both = way(device(kernel), 50, 99, vtep_mac(99)) | way(device(kernel), 51, 99, vtep_mac(99))
        assert await entries(host, []) == both


async def test_a_router_cannot_take_a_peer_s_mac(tmp_path: Path, kernel: MemoryKernel) -> None:
    async with attached(tmp_path, kernel, Peers=[LEAF]) as host:
        peers = [lease(2)]
        before = await entries(host, peers)
        hears(host, 99, told(50, next_hop=at(99), attributes=through(65101), extended=extended(vtep_mac(2), asn=65101)))
        assert await entries(host, peers) == before


async def test_nobody_can_say_where_a_host_is_that_speaks_no_evpn(tmp_path: Path, kernel: MemoryKernel) -> None:
    async with attached(tmp_path, kernel, Peers=[LEAF]) as host:
        peers = [lease(2)]
        before = await entries(host, peers)
        hears(host, 99, told(2, next_hop=at(99), attributes=through(65101), extended=extended(vtep_mac(99), asn=65101)))
        assert await entries(host, peers) == before
        host.hear([*peers, lease(60, "host-gw")])
        await host.reach(peers)
        hears(host, 99, told(60, next_hop=at(99), attributes=through(65101), extended=extended(vtep_mac(99), asn=65101)))
        assert await entries(host, peers) == before


async def test_a_host_may_announce_its_own_subnet_alone(tmp_path: Path, kernel: MemoryKernel) -> None:
    async with attached(tmp_path, kernel) as host:
        peers = [speaking(2), speaking(3)]
        before = await entries(host, peers)
        hears(host, 3, told(2, next_hop=at(3), extended=extended(vtep_mac(3))), told(77, next_hop=at(3)))
        assert await entries(host, peers) == before
        reasons = {each.refusal.reason.value for each in host.router.adjacencies.rib.refusals(at(3))}
        assert reasons == {"not-its-lease"}


async def test_single_hosts_are_reached_where_host_routes_are_allowed(tmp_path: Path, kernel: MemoryKernel) -> None:
    async with attached(tmp_path, kernel, Peers=[LEAF], AllowHostRoutes=True) as host:
        await host.reach([])
        mac = "02:00:00:00:00:77"
        said = replace(told_of_host(99, "10.244.50.7", mac), attributes=through(65101))
        hears(host, 99, said)
        ip = ip_address("10.244.50.7")
        found = await entries(host, [])
        assert found >= {Neighbour(device(kernel), ip, mac), FdbEntry(device(kernel), mac, at(99))}
        assert {str(entry.destination) for entry in found if isinstance(entry, Route)} == {"10.244.50.7/32"}


async def test_the_address_of_a_vtep_itself_needs_no_route(tmp_path: Path, kernel: MemoryKernel) -> None:
    async with attached(tmp_path, kernel, AllowHostRoutes=True) as host:
        peers = [speaking(2)]
        before = await entries(host, peers)
        hears(host, 2, told(2), told_of_host(2, "10.244.2.0", vtep_mac(2)))
        assert await entries(host, peers) == before


async def test_what_was_there_at_the_start_stays_until_neighbours_have_told_all(tmp_path: Path, kernel: MemoryKernel) -> None:
    async with attached(tmp_path, kernel, Peers=[LEAF]) as host:
        left = way(device(kernel), 50, 99, vtep_mac(99))
        kernel.present |= left
        assert await entries(host, []) == left
        hears(host, 99, whole=False)
        assert await entries(host, []) == left
        host.router.adjacencies.take(EndOfRib(at(99), "evpn"))
        assert await entries(host, []) == set()


async def test_what_a_router_told_outlives_a_lost_connection_and_not_its_end(tmp_path: Path, kernel: MemoryKernel) -> None:
    async with attached(tmp_path, kernel, Peers=[LEAF]) as host:
        await host.reach([])
        hears(host, 99, told(50, next_hop=at(99), attributes=through(65101), extended=extended(vtep_mac(99), asn=65101)))
        there = await entries(host, [])
        assert there
        host.router.adjacencies.take(Down(at(99), "closing connection", hard=False))
        assert await entries(host, []) == there
        host.router.adjacencies.take(Down(at(99), "notification received (6,2)", hard=True))
        host.router.adjacencies.take(Up(at(99)))
        host.router.adjacencies.take(Down(at(99), "notification received (6,2)", hard=True))
        assert await entries(host, []) == set()


async def test_a_plan_that_stays_is_the_very_object(tmp_path: Path, kernel: MemoryKernel) -> None:
    async with attached(tmp_path, kernel) as host:
        peers = [speaking(2), lease(3)]
        await host.reach(peers)
        hears(host, 2, told(2, next_hop=at(22)))
        first, second = [await host.reach(peers, disturbed=False) for _ in range(2)]
        assert [id(plan) for _, plan in first.plans] == [id(plan) for _, plan in second.plans]


async def test_garbage_in_a_lease_is_refused_in_its_own_name(tmp_path: Path, kernel: MemoryKernel) -> None:
    async with attached(tmp_path, kernel) as host:
        peer = replace(lease(2), attrs=replace(lease(2).attrs, backend_data=((4, '{"VtepMAC": "x"}'),)))
        ((_, plan),) = (await host.reach([peer])).plans
        assert isinstance(plan, Refusal)
        assert plan.lease is peer


async def test_our_lease_says_what_vxlan_s_does_and_who_we_are_besides(tmp_path: Path, kernel: MemoryKernel) -> None:
    async with attached(tmp_path, kernel, BGPPort=1790, Port=4789) as host:
        ((_, data),) = host.attrs.backend_data
        said = json.loads(data)
        assert list(said)[:2] == ["VNI", "VtepMAC"]
        assert {key: said[key] for key in ("VNI", "AS", "RouterID", "Name", "Port")} == {
            "VNI": 1,
            "AS": 64512,
            "RouterID": "10.0.0.1",
            "Name": "h1",
            "Port": 1790,
        }
        assert kernel.vxlan["flannel.1"].port == 4789
        assert peer_view(Lease(lease(1).subnets, host.attrs)).port == 1790


def test_the_table_of_backends_has_evpn_as_a_control_of_vxlan() -> None:
    assert isinstance(load_backend(network(config())), EvpnVxlanBackend)
    assert isinstance(load_backend(network(PLAIN)), VxlanBackend)
    assert isinstance(load_backend(network('{"Type": "vxlan", "Control": "leases"}')), VxlanBackend)


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ('{"Type": "vxlan", "Control": "ospf"}', "Backend.Control"),
        ('{"Type": "vxlan", "Control": 7}', "Backend.Control"),
        ('{"Type": "vxlan by bgp-evpn"}', "Backend.Type"),
        (config(BGPPort=0), "Backend.BGPPort"),
        (config(VNI=-1), "Backend.VNI"),
        (config(AS=0), "Backend.AS"),
        (config(RouteTargets="64512:1"), "Backend.RouteTargets"),
        (config(RouteTargets=["64512"]), "Backend.RouteTargets[0]"),
        (config(Peers=[{"Address": "10.0.0.9"}]), "Backend.Peers[0]"),
    ],
)
def test_a_wrong_value_is_an_error_that_names_its_key(text: str, key: str) -> None:
    with pytest.raises(ConfigError, match=key.replace("[", r"\[").replace("]", r"\]")):
        load_backend(network(text))


def test_keys_that_mean_nothing_here_are_warned_of() -> None:
    wanted = network(config(Reflectors={"Count": 2}, MaxPaths=2, Services=["10.96.0.0/12"], Colour="blue", HoldTime=3))
    warned = [warning.split(":")[0] for warning in unknown_keys(wanted, load_backend(wanted))]
    assert warned == ["Backend.colour", "Backend.maxpaths", "Backend.reflectors", "Backend.services"]
    assert unknown_keys(network('{"Type": "host-gw", "Control": "x"}'), load_backend(network('{"Type": "host-gw"}')))
