"""What somebody breaks comes back within a second or so, and what other hosts change is followed."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from flanneld_world import (
    NETWORK,
    PREFIX,
    REPAIR_S,
    World,
    eventually,
    flanneld_world,
    hostgw_lease,
    own_subnet,
    peer_entries,
    run,
    show,
    subnet_env,
    vxlan_entries,
    vxlan_lease,
)
from lab.pods import LabHost

PEER = ("10.244.9.0", "10.0.0.99", "0e:00:00:00:00:02")
PEER_KEY = f"{PREFIX}/subnets/10.244.9.0-24"


@pytest.fixture(scope="module")
def vxlan() -> Iterator[World]:
    """A host with one peer, for tests that leave it as they found it."""
    with flanneld_world() as world:
        world.etcd.put(PEER_KEY, vxlan_lease(*PEER[1:]))
        world.start("h1").ready()
        yield world


@pytest.fixture
def world() -> Iterator[World]:
    with flanneld_world() as up:
        yield up


def device(host: LabHost) -> tuple[object, ...]:
    """What of the VXLAN device is never to change; empty without one."""
    for link in show(host, "ip -4 addr show flannel.1", check=False):
        addresses = [f"{own['local']}/{own['prefixlen']}" for own in link["addr_info"]]
        return (link["linkinfo"]["info_kind"], link["address"], link["mtu"], "UP" in link["flags"], addresses)
    return ()


@pytest.mark.parametrize(
    "damage",
    [
        "ip route del 10.244.9.0/24",
        "ip route replace 10.244.9.0/24 via 10.0.0.1",
        "ip route add 10.244.77.0/24 dev flannel.1",
        "ip neigh del 10.244.9.0 dev flannel.1",
        "ip neigh replace 10.244.9.0 lladdr 0e:00:00:00:00:77 dev flannel.1",
        "bridge fdb del 0e:00:00:00:00:02 dev flannel.1 dst 10.0.0.99",
        "bridge fdb replace 0e:00:00:00:00:02 dev flannel.1 dst 10.0.0.77",
        "bridge fdb add 0e:00:00:00:00:77 dev flannel.1 dst 10.0.0.77",
        "ip link set flannel.1 down",
        "ip link set flannel.1 mtu 1300",
        "ip addr flush dev flannel.1",
        "ip addr add 10.9.9.9/24 dev flannel.1",
        "ip link del flannel.1",
        "ip route flush table main proto 84",
    ],
)
def test_damage_to_vxlan_is_undone(vxlan: World, damage: str) -> None:
    host = vxlan.lab.host("h1")
    assert vxlan_entries(host) == peer_entries(*PEER)
    before = device(host)
    run(host, damage)
    eventually(lambda: (vxlan_entries(host), device(host)) == (peer_entries(*PEER), before), f"repair of {damage}", REPAIR_S)
    assert "10.0.0.1 dev eth0" not in run(host, "ip route show 10.244.9.0/24")


def test_a_device_that_somebody_made_otherwise_is_made_anew(vxlan: World) -> None:
    (flanneld,) = vxlan.daemons
    host = flanneld.host
    before = device(host)
    flanneld.process.send_signal(signal.SIGSTOP)  # or it would be there first
    run(host, "ip link del flannel.1")
    run(host, "ip link add flannel.1 type bridge")
    flanneld.process.send_signal(signal.SIGCONT)
    eventually(lambda: (vxlan_entries(host), device(host)) == (peer_entries(*PEER), before), "our device", REPAIR_S)


def test_flaps_one_after_the_other_end_well(vxlan: World) -> None:
    host = vxlan.lab.host("h1")
    before = device(host)
    for _ in range(10):
        run(host, "ip link set flannel.1 down")
        run(host, "ip link set flannel.1 up")
    eventually(lambda: (vxlan_entries(host), device(host)) == (peer_entries(*PEER), before), "calm", REPAIR_S)


def test_strangers_entries_are_let_be(vxlan: World) -> None:
    host = vxlan.lab.host("h1")
    strangers = ["10.99.0.0/16 via 10.0.0.1 dev eth0", "10.99.1.0/24 via 10.0.0.1 dev eth0 proto 84", "blackhole 10.244.200.0/24"]
    for route in strangers:
        run(host, f"ip route add {route}")
    run(host, "ip route del 10.244.9.0/24")
    eventually(lambda: vxlan_entries(host) == peer_entries(*PEER), "repair", REPAIR_S)
    present = [route.strip() for route in run(host, "ip route").splitlines()]
    assert [route for route in strangers if route not in present] == []


@pytest.mark.parametrize(
    "damage", ["nft flush ruleset", "nft delete table ip flannel-ipv4", "nft flush chain ip flannel-ipv4 postrtg"]
)
def test_nftables_rules_come_back(vxlan: World, damage: str) -> None:
    host = vxlan.lab.host("h1")
    before = run(host, "nft list ruleset")
    assert "masquerade" in before
    run(host, damage)
    eventually(lambda: run(host, "nft list ruleset") == before, f"repair of {damage}", REPAIR_S)


def test_iptables_rules_come_back() -> None:
    with flanneld_world(network={**NETWORK, "EnableNFTables": False}) as world:
        host = world.start("h1").ready().host
        before = rules(host)
        assert any("MASQUERADE" in line for line in before)
        for damage in (
            "iptables -F",
            "iptables -t nat -F",
            "iptables -F FLANNEL-FWD",
            "iptables -D FORWARD 1",
            "nft flush ruleset",
        ):
            run(host, damage)
            eventually(lambda: rules(host) == before, f"repair of {damage}", REPAIR_S)
        run(host, "nft flush ruleset")
        eventually(lambda: rules(host) == before, "repair of a flush", REPAIR_S)


def rules(host: LabHost) -> list[str]:
    return [line for line in run(host, "iptables-save").splitlines() if "FLANNEL" in line]


def test_a_blackhole_route_comes_back(world: World) -> None:
    host = world.start("h1", "--ip-blackhole-route", "--iptables-resync=1").ready().host
    blackhole = f"blackhole {own_subnet(host)}/24"
    assert blackhole in run(host, "ip route")
    run(host, f"ip route del {blackhole}")
    eventually(lambda: blackhole in run(host, "ip route"), "the route", REPAIR_S)


def test_host_gw_routes_come_back_even_after_the_uplink_was_down(world: World) -> None:
    world.configure({**NETWORK, "Backend": {"Type": "host-gw"}})
    world.etcd.put(PEER_KEY, hostgw_lease(PEER[1]))
    host = world.start("h1").ready().host
    wanted = "10.244.9.0/24 via 10.0.0.99 dev eth0"
    for damage in ("ip route del 10.244.9.0/24", "ip route replace 10.244.9.0/24 via 10.0.0.98", "ip link set eth0 down"):
        run(host, damage)
        run(host, "ip link set eth0 up")
        eventually(lambda: wanted in run(host, "ip route show proto 84"), f"repair of {damage}", REPAIR_S)


def test_without_its_uplink_it_waits_and_says_why(world: World) -> None:
    flanneld = world.start("h1").ready()
    run(flanneld.host, "ip link del eth0")
    lost = flanneld.await_said("uplink lost")
    assert (lost["uplink"], lost["level"]) == ("eth0 (10.0.0.11/24)", "warning")
    assert flanneld.process.poll() is None


def test_udps_tun_comes_back(world: World) -> None:
    world.configure({**NETWORK, "Backend": {"Type": "udp"}})
    host = world.start("h1").ready().host
    for damage in ("ip link del flannel0", "ip link set flannel0 down", "ip route del 10.244.0.0/16", "ip addr flush dev flannel0"):
        run(host, damage)
        eventually(lambda: whole_tun(host), f"repair of {damage}", REPAIR_S)


def whole_tun(host: LabHost) -> bool:
    (link,) = show(host, "ip -4 addr show flannel0", check=False) or [{}]
    return own_subnet(host) in str(link.get("addr_info")) and "10.244.0.0/16" in run(
        host, "ip route show dev flannel0", check=False
    )


def test_a_peer_that_leaves_is_forgotten(vxlan: World) -> None:
    host = vxlan.lab.host("h1")
    vxlan.etcd.delete(PEER_KEY)
    eventually(lambda: not vxlan_entries(host), "nothing")
    vxlan.etcd.put(PEER_KEY, vxlan_lease(*PEER[1:]))
    eventually(lambda: vxlan_entries(host) == peer_entries(*PEER), "the peer again")


@pytest.mark.parametrize(
    ("ip", "mac"), [("10.0.0.77", PEER[2]), (PEER[1], "0e:00:00:00:00:77"), ("10.0.0.77", "0e:00:00:00:00:77")]
)
def test_a_peer_that_changes_is_followed_and_nothing_of_before_stays(vxlan: World, ip: str, mac: str) -> None:
    host = vxlan.lab.host("h1")
    vxlan.etcd.put(PEER_KEY, vxlan_lease(ip, mac))
    eventually(lambda: vxlan_entries(host) == peer_entries(PEER[0], ip, mac), "the new entries")
    vxlan.etcd.put(PEER_KEY, vxlan_lease(*PEER[1:]))
    eventually(lambda: vxlan_entries(host) == peer_entries(*PEER), "the old entries")


def test_a_peer_whose_public_ip_changes_is_followed_by_host_gw(world: World) -> None:
    world.configure({**NETWORK, "Backend": {"Type": "host-gw"}})
    world.etcd.put(PEER_KEY, hostgw_lease(PEER[1]))
    host = world.start("h1").ready().host
    world.etcd.put(PEER_KEY, hostgw_lease("10.0.0.77"))
    eventually(lambda: run(host, "ip route show proto 84").strip() == "10.244.9.0/24 via 10.0.0.77 dev eth0", "the new route alone")


def test_a_lease_that_was_deleted_is_claimed_again_with_its_subnet(world: World) -> None:
    flanneld = world.start("h1").ready()
    before = (world.etcd.keys(), subnet_env(flanneld.host))
    ((name, key),) = before[0].items()
    world.etcd.delete(f"{PREFIX}/subnets/")
    claimed = flanneld.await_said("lease claimed again")
    assert claimed["subnet"] == name.replace("-", "/")
    ((again, now),) = world.etcd.keys().items()
    assert (again, now.value, subnet_env(flanneld.host)) == (name, key.value, before[1])
    assert world.etcd.ttl_s(now.lease) > 86300


def test_a_subnet_that_another_host_took_is_given_up_loudly(world: World) -> None:
    flanneld = world.start("h1").ready()
    (name,) = world.etcd.keys()
    theirs = vxlan_lease(*PEER[1:])
    world.etcd.put(f"{PREFIX}/subnets/{name}", theirs)
    assert flanneld.fails() == f"lease {name.replace('-', '/')} is held by 10.0.0.99"
    assert {key: found.value for key, found in world.etcd.keys().items()} == {name: theirs}
    again = world.start("h1").ready()
    assert own_subnet(again.host) != name.partition("-")[0]
