"""The uplink may flap, change its name, its MTU, its address, or be another interface: the daemon goes along."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from flanneld_world import NETWORK, World, eventually, flanneld_world, own_subnet, readyz, run, show
from lab.pods import LabHost
from traffic import address_of, meshed, ping

KINDS = ["vxlan", "host-gw", "udp"]


@pytest.fixture
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    with flanneld_world(2) as up:
        up.configure({**NETWORK, "Backend": {"Type": getattr(request, "param", "vxlan")}})
        yield up


each_backend = pytest.mark.parametrize("world", KINDS, indirect=True)


def public_ip(world: World, subnet: str) -> str:
    return str(json.loads(world.etcd.keys()[f"{subnet}-24"].value)["PublicIP"])


def readdress(host: LabHost, address: str, device: str = "eth0") -> None:
    """As a DHCP client does when the lease is another: the old address goes, then the new one comes."""
    run(host, f"ip addr flush dev {device} scope global")
    run(host, f"ip addr add {address}/24 dev {device}")
    run(host, "ip route replace default via 10.0.0.1")


@each_backend
def test_a_flap_is_over_as_soon_as_the_link_is_up(world: World) -> None:
    one, two = meshed(world)
    for _ in range(3):
        run(world.lab.host("h1"), "ip link set eth0 down")
        run(world.lab.host("h1"), "ip link set eth0 up")
        run(world.lab.host("h1"), "ip route replace default via 10.0.0.1")
    eventually(lambda: ping(one, address_of(two)), "pods that reach each other")
    assert world.daemons[0].process.poll() is None


@each_backend
def test_a_cable_that_is_pulled_for_a_while_is_waited_for(world: World) -> None:
    one, two = meshed(world)
    run(world.lab.fabric, "ip link set h1 down")
    assert not ping(one, address_of(two), "-W1")
    run(world.lab.fabric, "ip link set h1 up")
    eventually(lambda: ping(one, address_of(two)), "pods that reach each other")


@each_backend
def test_another_address_keeps_the_subnet_and_peers_follow(world: World) -> None:
    one, two = meshed(world)
    host = world.lab.host("h1")
    before, mac = own_subnet(host), vtep(host)
    readdress(host, "10.0.0.61")
    eventually(lambda: public_ip(world, before) == "10.0.0.61", "the lease with the new address")
    eventually(lambda: ping(one, address_of(two)), "pods that reach each other")
    assert (own_subnet(host), vtep(host)) == (before, mac)
    assert "10.0.0.11" not in run(world.lab.host("h2"), "ip route") + run(world.lab.host("h2"), "bridge fdb")
    eventually(lambda: readyz(host)[0] == 200, f"readiness, but {readyz(host)}")


def vtep(host: LabHost) -> str:
    return next((str(link["address"]) for link in show(host, "ip link show flannel.1", check=False)), "")


@each_backend
def test_another_name_is_no_matter(world: World) -> None:
    one, two = meshed(world)
    host = world.lab.host("h1")
    run(host, "ip link set eth0 down")
    run(host, "ip link set eth0 name uplink0")
    run(host, "ip link set uplink0 up")
    run(host, "ip route replace default via 10.0.0.1")
    eventually(lambda: ping(one, address_of(two)), "pods that reach each other")
    assert world.daemons[0].process.poll() is None
    eventually(lambda: "uplink0" in world.daemons[0].log.read_text(), "the name in the log")


@each_backend
def test_another_interface_in_its_place_is_taken(world: World) -> None:
    """As a hot-plugged card, or a driver that was loaded again: it has another index."""
    one, two = meshed(world)
    host = world.lab.host("h1")
    before = own_subnet(host)
    run(host, "ip link del eth0")
    eventually(lambda: "uplink:" in readyz(host)[1], "that it is missed")
    assert world.daemons[0].process.poll() is None
    run(world.lab.fabric, "ip link add h1 type veth peer name newcard")
    netns = next(path for path in host.namespaces if path.name == "net")
    run(world.lab.fabric, "ip link set h1 master lan1 up")
    run(world.lab.fabric, f"ip link set newcard netns {netns}")
    run(host, "ip link set newcard name eth0")
    run(host, "ip link set eth0 up")
    run(host, "ip addr add 10.0.0.11/24 dev eth0")
    run(host, "ip route add default via 10.0.0.1")
    eventually(lambda: ping(one, address_of(two)), "pods that reach each other")
    assert own_subnet(host) == before
    eventually(lambda: readyz(host)[0] == 200, f"readiness, but {readyz(host)}")


def test_another_address_under_another_name_than_the_flags_say_is_followed(world: World) -> None:
    one, two = meshed(world, flags=("--iface=eth0",))
    host = world.lab.host("h1")
    before = own_subnet(host)
    for line in ("ip link set eth0 down", "ip link set eth0 name uplink0", "ip link set uplink0 up"):
        run(host, line)
    readdress(host, "10.0.0.61", "uplink0")
    eventually(lambda: public_ip(world, before) == "10.0.0.61", "the lease with the new address")
    eventually(lambda: ping(one, address_of(two)), "pods that reach each other")
