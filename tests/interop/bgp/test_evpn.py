"""Hosts of flanneld's and FRR in one EVPN: a leaf that bridges the VNI (r1), a router in it (r2), each in an AS of its own.

What FRR's kernel has of our VTEPs and subnets, and ours of FRR's subnet; packets both ways.
"""

from __future__ import annotations

import asyncio
import re
import signal
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import TypeVar

import pytest
import pytest_asyncio

from bgp.path import Asn
from bgp.speaker.farewell import part_with, speakers_here
from flanneld_world import World, peer_entries, run, show, vxlan_entries
from lab.place import Place
from router import eventually, missing
from router_configs import Neighbour, RouterPlan, render_frr, render_frr_evpn
from router_lab import OURS, RouterLab, router_hosts, router_lab
from routers import Frr
from traffic import address_of, ping

T = TypeVar("T")

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(bool(missing(Frr)), reason=missing(Frr)),
    pytest.mark.asyncio(loop_scope="module"),
]
HOSTS = ("h1", "h2")
ASNS = {"r1": 65101, "r2": 65102}
SUBNET, ADDRESS = "10.244.150.0", "10.244.150.1"
"""What r2 routes to."""
ROUTED = """vni 1
router bgp 65102
 address-family l2vpn evpn
  advertise ipv4 unicast
 exit-address-family
exit
"""
BRIDGED_MAC, BRIDGED_IP = "02:00:00:00:00:77", "10.244.160.9"


@dataclass(frozen=True)
class Fabric:
    """All of it."""

    lab: RouterLab
    routers: Mapping[str, Frr]

    def mac(self, host: str) -> str:
        """Of our VTEP there."""
        (device,) = show(self.lab.host(host), "ip link show flannel.1")
        return str(device["address"])

    def router_mac(self) -> str:
        """Of r2, in the VNI."""
        (device,) = show(self.lab.host("r2"), "ip link show br1")
        return str(device["address"])

    def subnet(self, host: str) -> str:
        return str(self.lab.subnets(host)[0])

    def routed(self) -> set[str]:
        """What our kernels are to have for what r2 routes to."""
        return peer_entries(SUBNET, str(self.lab.address("r2")), self.router_mac())


def vtep(host: Place, address: object) -> None:
    """A bridge, and in it a VXLAN device for the VNI, as FRR wants to find them."""
    for line in (
        "ip link add br1 type bridge",
        f"ip link add vx1 type vxlan id 1 local {address} dstport 8472 nolearning",
        "ip link set vx1 master br1 addrgenmode none",
        "ip link set vx1 type bridge_slave neigh_suppress on learning off",
        "ip link set br1 up",
        "ip link set vx1 up",
    ):
        run(host, line)


def bridge_host(leaf: Place) -> None:
    """A host on the leaf's bridge, in a namespace of its own there."""
    for line in (
        "ip netns add bridged",
        "ip link add port type veth peer name eth0 netns bridged",
        "ip link set port master br1 up",
        f"ip -n bridged link set eth0 address {BRIDGED_MAC} up",
        f"ip -n bridged addr add {BRIDGED_IP}/32 dev eth0",
    ):
        run(leaf, line)


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with router_hosts(*HOSTS, *ASNS) as world:
        for name in ASNS:
            (spec,) = (host for host in world.lab.topology.hosts if host.name == name)
            vtep(world.lab.host(name), spec.addresses[0].ip)
        r1, r2 = world.lab.host("r1"), world.lab.host("r2")
        run(r2, "ip link add pods type bridge")  # that anything is in it is not needed
        run(r2, "ip link set pods up")
        run(r2, f"ip addr add {ADDRESS}/24 dev pods")
        bridge_host(r1)
        yield world


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def fabric(world: World) -> AsyncIterator[Fabric]:
    async with router_lab(world) as lab:
        routers = [lab.peer(name, asn) for name, asn in ASNS.items()]
        lab.configure(*routers, Type="vxlan", Control="bgp-evpn", AS=OURS, AllowHostRoutes=True)
        for host in HOSTS:
            lab.flanneld(host)
        us = tuple(Neighbour(lab.address(host), OURS, passive=True, families=()) for host in HOSTS)
        found = {}
        for (name, asn), more in zip(ASNS.items(), ("", ROUTED), strict=True):
            own = (ip_network(f"{SUBNET}/24"),) if more else ()
            plan = RouterPlan(str(lab.address(name)), Asn(asn), us, own)
            frr = Frr(lab.host(name).namespaces[0], render_frr(plan) + render_frr_evpn(plan) + more)
            found[name] = await lab.stack.enter_async_context(frr)
        yield Fabric(lab, found)


def fdb(host: Place) -> set[tuple[str, str]]:
    """MAC addresses that a VXLAN device sends to another host, with the host."""
    return {(entry["mac"], entry["dst"]) for entry in show(host, "bridge fdb show dev vx1") if "dst" in entry}


async def see(look: Callable[[], set[T]], wanted: set[T], *, there: bool = True) -> None:
    """Wait until all of it is there, or nothing of it."""
    await eventually(lambda: asyncio.to_thread(look), lambda seen: wanted <= seen if there else not wanted & seen)


async def test_a_bridging_leaf_finds_our_vteps_and_floods_to_them(fabric: Fabric) -> None:
    wanted = set()
    for host in HOSTS:
        address = str(fabric.lab.address(host))
        wanted |= {(fabric.mac(host), address), ("00:00:00:00:00:00", address)}
    await see(lambda: fdb(fabric.lab.host("r1")), wanted)


async def test_a_bridging_leaf_knows_who_has_a_vtep_s_overlay_address(fabric: Fabric) -> None:
    def neighbours() -> set[tuple[str, str]]:
        return {(each["dst"], each["lladdr"]) for each in show(fabric.lab.host("r1"), "ip neigh show dev br1")}

    await see(neighbours, {(fabric.subnet(host).split("/")[0], fabric.mac(host)) for host in HOSTS})


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("router", ASNS)
async def test_our_subnet_is_in_its_table_with_route_target_and_router_s_mac(fabric: Fabric, router: str, host: str) -> None:
    prefix, bits = fabric.subnet(host).split("/")
    vtep = rf"\n +{fabric.lab.address(host)} .*\n +RT:64512:1 ET:8 Rmac:{fabric.mac(host)}"
    route = re.compile(rf"\[5\]:\[0\]:\[{bits}\]:\[{prefix}\]{vtep}")
    await eventually(lambda: fabric.routers[router].ask("show bgp l2vpn evpn"), lambda told: bool(route.search(told)))


@pytest.mark.parametrize("host", HOSTS)
async def test_what_a_router_routes_to_is_reached_through_its_vtep_and_mac(fabric: Fabric, host: str) -> None:
    await see(lambda: vxlan_entries(fabric.lab.host(host)), fabric.routed())


@pytest.mark.parametrize("host", HOSTS)
async def test_packets_go_both_ways(fabric: Fabric, host: str) -> None:
    r2, pod = fabric.lab.host("r2"), fabric.lab.pod(host)
    await eventually(lambda: asyncio.to_thread(ping, r2, address_of(pod), "-I", ADDRESS), bool)
    assert ping(pod, ip_address(ADDRESS))


async def test_a_host_behind_a_bridging_leaf_is_reached_as_a_single_one(fabric: Fabric) -> None:
    r1, h1 = fabric.lab.host("r1"), fabric.lab.host("h1")
    wanted = {
        f"route {BRIDGED_IP} via {BRIDGED_IP} onlink",
        f"neigh {BRIDGED_IP} {BRIDGED_MAC} PERMANENT",
        f"fdb {BRIDGED_MAC} {fabric.lab.address('r1')} permanent",
    }
    run(r1, f"ip -n bridged route add 10.244.0.0/16 via {fabric.subnet('h1').split('/')[0]} dev eth0 onlink")
    run(r1, f"ip neigh add {BRIDGED_IP} lladdr {BRIDGED_MAC} dev br1")
    await see(lambda: vxlan_entries(h1), wanted)
    assert ping(fabric.lab.pod("h1"), ip_address(BRIDGED_IP))
    run(r1, f"ip neigh del {BRIDGED_IP} dev br1")  # FRR withdraws by another label than it announced
    await see(lambda: vxlan_entries(h1), wanted, there=False)


async def test_what_it_withdraws_leaves_our_kernel_and_comes_back(fabric: Fabric) -> None:
    h1, r2 = fabric.lab.host("h1"), fabric.routers["r2"]
    network = ("configure terminal", f"router bgp {ASNS['r2']}", "address-family ipv4 unicast")
    await r2.ask(*network, f"no network {SUBNET}/24")
    await see(lambda: vxlan_entries(h1), fabric.routed(), there=False)
    await r2.ask(*network, f"network {SUBNET}/24")
    await see(lambda: vxlan_entries(h1), fabric.routed())


async def test_the_death_of_a_daemon_alone_is_no_news_to_neighbours(fabric: Fabric) -> None:
    r1, ours = fabric.lab.host("r1"), {(fabric.mac("h1"), str(fabric.lab.address("h1")))}
    fabric.lab.started["h1"].end(signal.SIGKILL)
    for _ in range(20):
        assert ours <= fdb(r1)
        await asyncio.sleep(0.1)
    fabric.lab.flanneld("h1")


async def test_a_killed_host_keeps_what_the_router_told_until_it_is_told_again(fabric: Fabric) -> None:
    h1 = fabric.lab.host("h1")
    fabric.lab.kill("h1")
    assert fabric.routed() <= vxlan_entries(h1)
    fabric.lab.flanneld("h1")
    for _ in range(30):
        assert fabric.routed() <= vxlan_entries(h1)
        await asyncio.sleep(0.1)


async def test_a_host_that_leaves_is_forgotten_at_once(fabric: Fabric) -> None:
    r1, h2 = fabric.lab.host("r1"), fabric.lab.host("h2")
    ours = {(fabric.mac("h2"), str(fabric.lab.address("h2")))}
    assert ours <= fdb(r1)
    fabric.lab.started["h2"].end()
    for found in h2.call(lambda: list(speakers_here())):
        await asyncio.to_thread(h2.call, lambda found=found: asyncio.run(part_with(found)))
    await see(lambda: fdb(r1), ours, there=False)
