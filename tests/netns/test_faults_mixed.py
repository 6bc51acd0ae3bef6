"""Beside Go flannel: a peer programmed exactly as it programs itself, and a host that it ran on before us."""

from __future__ import annotations

import json
import signal
from ipaddress import ip_address

import pytest

from flanneld_world import (
    NETWORK,
    PREFIX,
    eventually,
    flanneld_world,
    hostgw_lease,
    own_subnet,
    peer_entries,
    run,
    show,
    vxlan_entries,
    vxlan_lease,
    write_file,
)
from lab.pods import SUBNET_FILE, LabHost
from netns.test_foreign_peers import FOREIGN_IP, FOREIGN_MAC, FOREIGN_NET, Pair, assert_they_interwork, ip, pair
from traffic import address_of, ping

KEY = f"{PREFIX}/subnets/{FOREIGN_NET}-24"


def go_vxlan(peers: Pair, mac: str) -> None:
    """What Go flannel has on the stranger after its start, with the random MAC that it drew."""
    ours = json.loads(peers.world.etcd.keys()[f"{peers.subnet}-24"].value)
    theirs, host = ours["BackendData"]["VtepMAC"], ours["PublicIP"]
    ip(
        peers.stranger,
        f"link add flannel.1 address {mac} type vxlan id 1 dev eth0 local {FOREIGN_IP} dstport 8472 nolearning",
        f"address add {FOREIGN_NET}/32 dev flannel.1",
        "link set flannel.1 up",
        f"neigh add {peers.subnet} lladdr {theirs} dev flannel.1 nud permanent",
        f"route add {peers.subnet}/24 via {peers.subnet} dev flannel.1 onlink",
    )
    run(peers.stranger, f"bridge fdb add {theirs} dst {host} dev flannel.1 self permanent")


def test_a_go_peer_that_comes_back_with_another_mac_is_followed() -> None:
    with pair("vxlan") as peers:
        go_vxlan(peers, FOREIGN_MAC)
        assert_they_interwork(peers)
        ip(peers.stranger, "link del flannel.1")
        again = "0e:00:00:00:00:c9"
        go_vxlan(peers, again)
        peers.world.etcd.put(KEY, vxlan_lease(FOREIGN_IP, again))
        h1 = peers.world.lab.host("h1")
        eventually(lambda: vxlan_entries(h1) == peer_entries(FOREIGN_NET, FOREIGN_IP, again), "the new MAC alone")
        assert_they_interwork(peers)


def test_a_go_peer_that_stays_on_vxlan_is_reached_by_it_while_we_change_over() -> None:
    """It reads the config at its start only."""
    with pair("vxlan") as peers:
        go_vxlan(peers, FOREIGN_MAC)
        (one,) = peers.world.daemons
        peers.world.configure({**NETWORK, "Backend": {"Type": "host-gw"}})
        one.await_said("change applied")
        assert_they_interwork(peers)
        one.end(signal.SIGKILL)
        peers.world.start("h1").ready()
        assert_they_interwork(peers)
        assert vxlan_entries(one.host) == peer_entries(FOREIGN_NET, FOREIGN_IP, FOREIGN_MAC)


def go_was_here(host: LabHost, *routes: str) -> None:
    """What Go flannel leaves: subnet.env, its iptables chains, and these routes."""
    write_file(
        host, SUBNET_FILE, "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.77.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n"
    )
    for route in routes:
        run(host, f"ip route add {route}")
    for chain, table, base in (("FLANNEL-POSTRTG", "nat", "POSTROUTING"), ("FLANNEL-FWD", "filter", "FORWARD")):
        run(host, f"iptables -t {table} -N {chain}")
        run(host, f"iptables -t {table} -A {base} -j {chain}")


def test_an_upgrade_from_go_flannels_vxlan_keeps_subnet_mac_and_device() -> None:
    with flanneld_world(1) as world:
        host = world.lab.host("h1")
        ip(
            host,
            "link add flannel.1 address fa:4f:bb:a6:ee:c4 type vxlan id 1 dev eth0 local 10.0.0.11 dstport 8472 nolearning",
            "link set flannel.1 mtu 1450 up",
            "address add 10.244.77.0/32 dev flannel.1",
            "neigh add 10.244.5.0 lladdr 0e:00:00:00:00:05 dev flannel.1 nud permanent",
        )
        go_was_here(host, "10.244.5.0/24 via 10.244.5.0 dev flannel.1 onlink")
        index = show(host, "ip link show flannel.1")[0]["ifindex"]
        world.start("h1").ready()
        (link,) = show(host, "ip link show flannel.1")
        assert (own_subnet(host), link["ifindex"], link["address"]) == ("10.244.77.0", index, "fa:4f:bb:a6:ee:c4")
        assert vxlan_entries(host) == set(), "the peer is gone, and with it what Go flannel left for it"
        assert "FLANNEL" not in run(host, "iptables-save")


def test_an_upgrade_from_go_flannels_host_gw_forgets_departed_hosts_and_nothing_else() -> None:
    with flanneld_world(1, {**NETWORK, "Backend": {"Type": "host-gw"}}) as world:
        host = world.lab.host("h1")
        world.etcd.put(f"{PREFIX}/subnets/10.244.6.0-24", hostgw_lease("10.0.0.66"))
        others = ["10.244.9.0/25 via 10.0.0.69", "192.0.2.0/24 via 10.0.0.69", "10.244.8.0/24 dev eth0"]
        go_was_here(host, "10.244.5.0/24 via 10.0.0.65", "10.244.6.0/24 via 10.0.0.66", *others)
        one = world.start("h1").ready()
        assert one.said("routes of an earlier flannel taken over")[0]["routes"] == 2
        routes = run(host, "ip route").splitlines()
        assert "10.244.6.0/24 via 10.0.0.66 dev eth0 proto 84 " in routes
        assert not [route for route in routes if route.startswith("10.244.5.0")]
        assert all(any(route.startswith(other) for route in routes) for other in others)


@pytest.mark.parametrize("kind", ["vxlan", "host-gw"])
def test_our_pods_and_theirs_see_each_other_as_themselves(kind: str) -> None:
    with pair(kind) as peers:
        if kind == "vxlan":
            go_vxlan(peers, FOREIGN_MAC)
        else:
            ip(peers.stranger, f"route add {peers.subnet}/24 via 10.0.0.11 dev eth0")
        theirs = peers.stranger.pod("p1")
        assert address_of(theirs) == ip_address("10.244.200.2")
        for size in (100, 1400, 5000):
            assert ping(peers.pod, address_of(theirs), f"-s{size}")
            assert ping(theirs, address_of(peers.pod), f"-s{size}")
