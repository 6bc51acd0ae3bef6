from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cni import sublink
from cni.ledger import Key
from cni.result import Interface, Result
from cni.spec import CniError, Code
from cni_node import CONTAINER, VERSION, CniNode, cni_node
from flanneld.kernel import KernelError
from flanneld.linux import netns
from scratch_netns import ScratchNetns, scratch_netns

ADDRESSES = [{"address": "10.5.0.2/24", "gateway": "10.5.0.1"}, {"address": "fd00:5::2/64"}]
IPAM = {"type": "static", "addresses": ADDRESSES, "routes": [{"dst": "0.0.0.0/0"}]}


def macvlan(**keys: Any) -> dict[str, Any]:
    return {"cniVersion": VERSION, "name": "net", "type": "macvlan", "master": "eth0", "ipam": IPAM, **keys}


@contextmanager
def node_on_a_network(directory: Path) -> Iterator[tuple[CniNode, ScratchNetns, ScratchNetns]]:
    """A node whose eth0 leads to a neighbour, and a pod without an interface."""
    with cni_node(directory) as node, scratch_netns() as neighbour, scratch_netns() as pod:
        node.host.ip(f"link add eth0 mtu 1400 type veth peer name eth0 netns {neighbour.name}")
        node.host.ip("link set eth0 up")
        for address in ("10.5.0.1/24", "fd00:5::1/64"):
            neighbour.ip(f"address add {address} dev eth0 nodad")
        neighbour.ip("link set eth0 up")
        yield node, neighbour, pod


def reaches(sender: ScratchNetns, receiver: ScratchNetns, address: str) -> None:
    """Send a datagram there and see it come in."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    incoming = netns.run_in(receiver.path, socket.socket, family, socket.SOCK_DGRAM)
    outgoing = netns.run_in(sender.path, socket.socket, family, socket.SOCK_DGRAM)
    with incoming, outgoing:
        incoming.bind((address, 0))
        incoming.settimeout(5)
        outgoing.sendto(b"hello", incoming.getsockname()[:2])
        assert incoming.recv(16) == b"hello"


def test_a_pod_is_on_the_masters_network_until_del(tmp_path: Path) -> None:
    with node_on_a_network(tmp_path) as (node, neighbour, pod):
        result = node.add(macvlan(), pod)
        assert result.interfaces == (Interface("eth0", "0a:58:0a:05:00:02", str(pod.path), 1400),)
        assert [(str(ip.address), ip.interface) for ip in result.ips] == [("10.5.0.2/24", 0), ("fd00:5::2/64", 0)]
        (link,) = node.links(pod).values()
        assert (link["address"], link["mtu"], link["linkinfo"]["info_data"]["mode"]) == ("0a:58:0a:05:00:02", 1400, "bridge")
        for address, other in (("10.5.0.1", "10.5.0.2"), ("fd00:5::1", "fd00:5::2")):
            reaches(pod, neighbour, address)
            reaches(neighbour, pod, other)
        assert pod.read("ip route show default")[0]["gateway"] == "10.5.0.1"
        node.check(macvlan(), pod, result)
        for _ in range(2):
            node.delete(macvlan(), pod, result)
            assert node.links(pod) == {}
        assert set(node.links()) == {"eth0"}


def test_two_pods_reach_each_other_in_bridge_mode(tmp_path: Path) -> None:
    with node_on_a_network(tmp_path) as (node, _, pod), scratch_netns() as other:
        node.add(macvlan(), pod)
        node.add(macvlan(ipam={"type": "static", "addresses": [{"address": "10.5.0.3/24"}]}), other, container_id="c2")
        reaches(pod, other, "10.5.0.3")
        reaches(other, pod, "10.5.0.2")


def test_the_neighbour_hears_of_a_pod_that_takes_an_address_over(tmp_path: Path) -> None:
    with node_on_a_network(tmp_path) as (node, neighbour, pod):
        neighbour.ip("neigh replace 10.5.0.2 lladdr 02:00:00:00:00:aa dev eth0 nud stale")
        node.add(macvlan(mac="02:00:00:00:00:bb"), pod)
        (entry,) = neighbour.read("ip neigh show 10.5.0.2")
        assert entry["lladdr"] == "02:00:00:00:00:bb"


@pytest.mark.parametrize("mode", ["private", "vepa", "passthru"])
def test_each_mode_is_made_and_checked(tmp_path: Path, mode: str) -> None:
    with node_on_a_network(tmp_path) as (node, _, pod):
        result = node.add(macvlan(mode=mode, mtu=1300, bcqueuelen=2000), pod)
        data = node.links(pod)["eth0"]["linkinfo"]["info_data"]
        assert (data["mode"], data["bcqueuelen"], result.interfaces[0].mtu) == (mode, 2000, 1300)
        node.check(macvlan(mode=mode, bcqueuelen=2000), pod, result)
        with pytest.raises(CniError, match="macvlan mode"):
            node.check(macvlan(mode="bridge"), pod, result)
        if mode == "passthru":  # the master's MAC must stay what the network knows
            assert result.interfaces[0].mac == node.links()["eth0"]["address"]


def test_the_mac_that_is_asked_for_is_given(tmp_path: Path) -> None:
    with node_on_a_network(tmp_path) as (node, _, pod):
        asked = {"runtimeConfig": {"mac": "02:00:00:00:00:07"}, "capabilities": {"mac": True}}
        assert node.add(macvlan(mac="02:00:00:00:00:01", **asked), pod).interfaces[0].mac == "02:00:00:00:00:07"


def test_without_ipam_the_interface_is_up_and_has_no_address(tmp_path: Path) -> None:
    with node_on_a_network(tmp_path) as (node, _, pod):
        result = node.add(macvlan(ipam={}), pod)
        assert result.ips == ()
        assert "UP" in node.links(pod)["eth0"]["flags"]
        node.check(macvlan(ipam={}), pod, result)


def test_the_master_is_the_default_routes_or_the_previous_results(tmp_path: Path) -> None:
    with node_on_a_network(tmp_path) as (node, _, pod), scratch_netns() as other:
        with pytest.raises(CniError, match="no default route interface"):
            node.add(macvlan(master=""), pod)
        prev = Result((Interface("eth0"),))
        chained = node.add(macvlan(master=""), pod, prev)
        assert [each.sandbox for each in chained.interfaces] == ["", str(pod.path)]
        assert [ip.interface for ip in chained.ips] == [1, 1]
        with pytest.raises(CniError, match="single named interface"):
            node.add(macvlan(master=""), other, Result())
        node.host.ip("address add 192.0.2.1/24 dev eth0")
        node.host.ip("link add eth1 type veth peer name eth2")
        node.host.ip("link set eth1 up")
        node.host.ip("address add 198.51.100.1/24 dev eth1")
        node.host.ip("route add default via 198.51.100.2 metric 50")
        node.host.ip("route add default via 192.0.2.2 metric 20")
        conf = macvlan(master="", ipam={"type": "static", "addresses": [{"address": "10.5.0.3/24"}]})
        assert node.add(conf, other, container_id="c2").interfaces[0].mtu == 1400
        assert node.links(other)["eth0"]["link_index"] == node.links()["eth0"]["ifindex"]


def test_the_master_may_be_in_the_pod(tmp_path: Path) -> None:
    with node_on_a_network(tmp_path) as (node, _, pod):
        conf = macvlan(master="in0", linkInContainer=True)
        with pytest.raises(CniError, match=r"in0: no such interface.*linkInContainer"):
            node.add(conf, pod)
        pod.ip("link add in0 type veth peer name in1")
        pod.ip("link set in0 up")
        result = node.add(conf, pod)
        assert node.links(pod)["eth0"]["link"] == "in0"
        node.check(conf, pod, result)
        node.delete(conf, pod, result)
        assert set(node.links(pod)) == {"in0", "in1"}


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "mode": ({"mode": "junk"}, "unknown macvlan mode"),
    "mtu too large": ({"mtu": 1401}, r"invalid MTU 1401, must be \[0, master MTU\(1400\)\]"),
    "negative mtu": ({"mtu": -1}, "invalid MTU -1"),
    "mac": ({"mac": "02:00:00:00:00:zz"}, "mac: got"),
    "no such master": ({"master": "nosuch"}, "master nosuch: no such interface"),
    "bad address": ({"ipam": {"type": "static", "addresses": [{"address": "bad"}]}}, "CIDR"),
    "no address": ({"ipam": {"type": "static"}}, "missing IP config"),
    "unknown key": ({"colour": "red"}, "unsupported field colour"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_refused_leaves_nothing(tmp_path: Path, what: str) -> None:
    keys, gist = REFUSED[what]
    with node_on_a_network(tmp_path) as (node, _, pod):
        with pytest.raises(CniError, match=gist):
            node.add(macvlan(**keys), pod)
        assert node.links(pod) == {}
        assert node.ledger.records() == []
        node.delete(macvlan(**keys), pod)


def test_an_add_that_fails_after_the_interface_was_made_takes_it_away(tmp_path: Path) -> None:
    with node_on_a_network(tmp_path) as (node, _, pod):
        unreachable = {**IPAM, "routes": [{"dst": "192.0.2.0/24", "gw": "203.0.113.1"}]}
        with pytest.raises(KernelError):
            node.add(macvlan(ipam=unreachable), pod)
        assert node.links(pod) == {}
        node.add(macvlan(), pod)


def test_a_taken_name_is_refused_and_what_has_it_stays(tmp_path: Path) -> None:
    with node_on_a_network(tmp_path) as (node, _, pod):
        pod.ip("link add eth0 type veth peer name in1")
        before = node.links(pod)
        with pytest.raises(CniError, match="eth0 already exists"):
            node.add(macvlan(), pod)
        node.delete(macvlan(), pod)  # it is no macvlan
        assert node.links(pod) == before


def test_what_a_call_that_died_left_is_no_obstacle(tmp_path: Path) -> None:
    with node_on_a_network(tmp_path) as (node, _, pod):
        name = sublink.temporary_name(Key("net", CONTAINER, "eth0"))
        for command in (node.add, node.delete):
            node.host.ip(f"link add {name} link eth0 netns {pod.name} type macvlan mode bridge")
            command(macvlan(), pod)
            assert name not in node.links(pod)


@pytest.mark.parametrize(
    ("line", "gist"),
    [
        ("link set eth0 down", "is down|has no route"),
        ("link set eth0 address 02:00:00:00:00:09", "MAC"),
        ("address delete 10.5.0.2/24 dev eth0", "10.5.0.2"),
        ("link delete eth0", "is gone"),
    ],
)
def test_check_sees_what_somebody_changed(tmp_path: Path, line: str, gist: str) -> None:
    with node_on_a_network(tmp_path) as (node, _, pod):
        result = node.add(macvlan(), pod)
        pod.ip(line)
        with pytest.raises(CniError, match=gist):
            node.check(macvlan(), pod, result)


def test_check_sees_another_master(tmp_path: Path) -> None:
    with node_on_a_network(tmp_path) as (node, _, pod):
        result = node.add(macvlan(), pod)
        node.host.ip("link add eth1 type veth peer name eth2")
        with pytest.raises(CniError, match="expected eth1"):
            node.check(macvlan(master="eth1"), pod, result)


def test_del_succeeds_whatever_is_missing(tmp_path: Path) -> None:
    with node_on_a_network(tmp_path) as (node, _, pod):
        node.add(macvlan(), pod)
        node.delete(macvlan())
        node.delete(macvlan(mode="junk", mtu="junk"), pod)
        node.delete(macvlan(), pod)
        node.delete({"type": "macvlan"})
        node.delete(macvlan(), node.host)
        assert node.links(pod) == {}
        assert set(node.links()) == {"eth0"}


def test_the_hosts_own_namespace_is_refused(tmp_path: Path) -> None:
    with node_on_a_network(tmp_path) as (node, _, _pod):
        with pytest.raises(CniError, match="own namespace"):
            node.add(macvlan(), node.host, ifname="eth9")
        node.add(macvlan(), node.host, ifname="eth9", netns_override=True)
        node.delete(macvlan(), node.host, ifname="eth9", netns_override=True)
        assert set(node.links()) == {"eth0"}


def test_status_asks_for_the_master_and_gc_for_the_addresses(tmp_path: Path) -> None:
    with node_on_a_network(tmp_path) as (node, _, _pod):
        node.status(macvlan())
        with pytest.raises(CniError, match="master eth7") as refused:
            node.status(macvlan(master="eth7"))
        assert refused.value.code == Code.NOT_AVAILABLE
        node.gc(macvlan())
        assert set(node.links()) == {"eth0"}
