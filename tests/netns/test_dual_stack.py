"""Three hosts with both families, and with IPv6 alone: leases as flannel writes them, pods that reach each other."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from itertools import combinations

import pytest
from scapy.layers.inet6 import IPv6

from flanneld_world import NETWORK, World, flanneld_world, show, subnet_env
from lab.ping import ping_all
from lab.pods import Pod
from traffic import address_of, meshed, ping_sized, seen_source, tapped, transferred

POD_NETWORK = ip_network("fd00:10:244::/48")
IPV6_ONLY = {"EnableIPv4": False, "EnableIPv6": True, "IPv6Network": str(POD_NETWORK), "EnableNFTables": True}
DUAL = {**NETWORK, "EnableIPv6": True, "IPv6Network": str(POD_NETWORK)}
NETWORKS = {"dual": DUAL, "ipv6": IPV6_ONLY}
KEY = {"dual": r"10\.244\.\d+\.0-24&([\da-f:]+)-64", "ipv6": r"0\.0\.0\.0-0&([\da-f:]+)-64"}
"""flannel's: the regular expression of its pkg/subnet reads both."""
VALUE = {
    ("dual", "vxlan"): '{"PublicIP":"10.0.0.11","PublicIPv6":"fd00:10::11","BackendType":"vxlan",'
    '"BackendData":{"VNI":1,"VtepMAC":"%s"},"BackendV6Data":{"VNI":1,"VtepMAC":"%s"}}',
    ("dual", "host-gw"): '{"PublicIP":"10.0.0.11","PublicIPv6":"fd00:10::11","BackendType":"host-gw"}',
    ("ipv6", "vxlan"): '{"PublicIP":"0.0.0.0","PublicIPv6":"fd00:10::11","BackendType":"vxlan",'
    '"BackendV6Data":{"VNI":1,"VtepMAC":"%s"}}',
    ("ipv6", "host-gw"): '{"PublicIP":"0.0.0.0","PublicIPv6":"fd00:10::11","BackendType":"host-gw"}',
}
"""Of h1; in the place of each %s the MAC of a device, IPv4's first."""
MTU = {"vxlan": 1430, "host-gw": 1500}
OUTSIDE = ip_address("2001:db8:113::2")


@dataclass(frozen=True)
class Hosts:
    """A pod on each of them."""

    world: World
    families: str
    backend: str
    pods: list[Pod]


WORLDS = [(families, backend) for families in NETWORKS for backend in MTU]


@pytest.fixture(scope="module", params=WORLDS, ids=["-".join(world) for world in WORLDS])
def hosts(request: pytest.FixtureRequest) -> Iterator[Hosts]:
    families, backend = request.param
    with flanneld_world(3, {**NETWORKS[families], "Backend": {"Type": backend}}, ipv6=True) as world:
        yield Hosts(world, families, backend, meshed(world))


def test_every_host_has_a_subnet_of_its_own_under_flannels_key(hosts: Hosts) -> None:
    leases = hosts.world.etcd.keys()
    found = [re.fullmatch(KEY[hosts.families], key) for key in leases]
    subnets = [ip_network(f"{match[1]}/64") for match in found if match is not None]
    assert len(subnets) == len(leases) == 3
    assert not any(one.overlaps(other) for one, other in combinations(subnets, 2))
    assert {address_of(pod, 6) for pod in hosts.pods} == {subnet[2] for subnet in subnets}


def test_the_value_is_flannels_byte_for_byte(hosts: Hosts) -> None:
    macs = [link["address"] for link in show(hosts.world.lab.host("h1"), "ip link") if link["ifname"].startswith("flannel")]
    values = [key.value for key in hosts.world.etcd.keys().values()]
    assert VALUE[hosts.families, hosts.backend] % tuple(macs) in values


def test_subnet_env_has_the_family_and_an_mtu_that_fits_it(hosts: Hosts) -> None:
    lines = subnet_env(hosts.world.lab.host("h1")).splitlines()
    gateway = address_of(hosts.pods[0], 6) - 1
    ipv6 = [f"FLANNEL_IPV6_NETWORK={POD_NETWORK}", f"FLANNEL_IPV6_SUBNET={gateway}/64", f"FLANNEL_MTU={MTU[hosts.backend]}"]
    assert lines[-4:-1] == ipv6
    assert any(line.startswith("FLANNEL_SUBNET=") for line in lines) is (hosts.families == "dual")


def test_every_pod_reaches_every_other_in_every_family(hosts: Hosts) -> None:
    echoes = ping_all(hosts.pods)
    assert [echo for echo in echoes if echo.rtt_s is None] == []
    assert len(echoes) == {"dual": 12, "ipv6": 6}[hosts.families]


def test_a_transfer_over_ipv6_stays_whole(hosts: Hosts) -> None:
    near, far, _ = hosts.pods
    content = os.urandom(1 << 20)
    assert transferred(near, far, address_of(far, 6), content) == content


def test_pods_are_seen_as_themselves_inside_and_as_their_host_outside(hosts: Hosts) -> None:
    near, far, _ = hosts.pods
    assert seen_source(near, far, address_of(far, 6)) == str(address_of(near, 6))
    assert seen_source(near, hosts.world.lab.outside, OUTSIDE) == "fd00:10::11"
    assert seen_source(near, hosts.world.lab.host("h2"), ip_address("fd00:10::12")) == "fd00:10::11"


def test_ipv6_fills_the_underlay_to_the_last_byte_and_no_further(hosts: Hosts) -> None:
    near, far, _ = hosts.pods
    with tapped(hosts.world.lab.fabric, "h1") as tap:
        assert ping_sized(near, address_of(far, 6), MTU[hosts.backend])
        sizes = [len(frame.payload) for frame in tap.frames() if IPv6 in frame]
    assert sizes.count(1500) == 3
    assert max(sizes) == 1500
    assert not ping_sized(near, address_of(far, 6), MTU[hosts.backend] + 1)


def test_the_devices_are_flannels(hosts: Hosts) -> None:
    names = {link["ifname"] for link in show(hosts.world.lab.host("h1"), "ip link") if link["ifname"].startswith("flannel")}
    vxlan = {"dual": {"flannel.1", "flannel-v6.1"}, "ipv6": {"flannel-v6.1"}}[hosts.families]
    assert names == (vxlan if hosts.backend == "vxlan" else set())


@pytest.mark.parametrize("families", NETWORKS)
def test_udp_refuses_ipv6(families: str) -> None:
    with flanneld_world(1, {**NETWORKS[families], "Backend": {"Type": "udp"}}, ipv6=True) as world:
        why = world.start("h1").fails()
    assert why == "Backend.Type: udp carries IPv4 only, expected EnableIPv4 true and EnableIPv6 false"
