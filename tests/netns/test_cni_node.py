"""The bridge plugin on the real kernel, called as the daemon calls it: what it makes, checks, and takes away."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cni.engine import Answer
from cni.ledger import State
from cni_node_world import NodeWorld, addresses, eventually, node_world
from flanneld.linux import netns
from scratch_netns import ScratchNetns

ETH_P_ALL = 3
NOWHERE = {"ipam": {"routes": [{"dst": "192.0.2.0/24", "gw": "198.51.100.1"}]}}
"""A route that the kernel refuses, when all else is made."""


@pytest.fixture
def world(tmp_path: Path) -> Iterator[NodeWorld]:
    with node_world(tmp_path) as made:
        yield made


def undone(world: NodeWorld, answer: Answer) -> None:
    assert answer.undo is not None
    world.run(answer.undo)


def test_a_pod_has_addresses_mtu_and_default_routes_in_both_families(world: NodeWorld) -> None:
    pod = world.pod()
    result = world.add("c1", pod)
    (eth0,) = pod.read("ip address show eth0")
    assert (eth0["mtu"], eth0["address"], eth0["operstate"]) == (1450, result["interfaces"][2]["mac"], "UP")
    usable = {f"{a['local']}/{a['prefixlen']}" for a in eth0["addr_info"] if not a.get("tentative")}
    assert usable >= {"10.244.7.2/24", "fd00:7::2/64"} == {ip["address"] for ip in result["ips"]}
    assert pod.read("ip route show default")[0]["gateway"] == "10.244.7.1"
    assert pod.read("ip -6 route show default")[0]["gateway"] == "fd00:7::1"


def test_the_bridge_is_the_gateway_with_a_mac_that_ports_do_not_change(world: NodeWorld) -> None:
    world.add("c1", world.pod())
    (before,) = world.host.read("ip address show cni0")
    result = world.add("c2", world.pod())
    (after,) = world.host.read("ip address show cni0")
    assert before["address"] == after["address"] == "0a:58:0a:f4:07:01" == result["interfaces"][0]["mac"]
    assert {a["local"] for a in after["addr_info"]} >= {"10.244.7.1", "fd00:7::1", "fe80::1"}
    ports = world.host.read("ip link show master cni0")
    assert [(port["linkinfo"]["info_slave_data"]["hairpin"], port["mtu"]) for port in ports] == [(True, 1450)] * 2
    assert world.run(Path("/proc/sys/net/ipv4/ip_forward").read_text) == "1\n"


def test_pods_reach_each_other_and_their_gateway(world: NodeWorld) -> None:
    one, two = world.pod(), world.pod()
    world.add("c1", one)
    world.add("c2", two)
    for ip in ("10.244.7.1", "10.244.7.3", "fd00:7::1", "fd00:7::3"):
        family = socket.AF_INET6 if ":" in ip else socket.AF_INET
        with netns.run_in(one.path, socket.socket, family, socket.SOCK_STREAM) as client:
            client.settimeout(5)
            assert client.connect_ex((ip, 9)) == 111  # refused: somebody is there


def test_del_takes_all_away_and_may_be_repeated(world: NodeWorld) -> None:
    pod = world.pod()
    world.add("c1", pod)
    world.delete("c1", pod)
    assert (world.links(), world.links(pod)) == ({"lo", "cni0"}, {"lo"})
    assert (world.claims(), world.node.ledger.records()) == (set(), [])
    for where in (pod, None):
        world.delete("c1", where)


def test_del_without_a_namespace_takes_all_away(world: NodeWorld) -> None:
    pod = world.pod()
    world.add("c1", pod)
    world.delete("c1")
    assert (world.veths(), world.claims(), world.node.ledger.records()) == (set(), set(), [])


def test_what_fails_half_way_leaves_nothing_but_the_bridge(world: NodeWorld) -> None:
    pod = world.pod()
    assert "route 192.0.2.0/24 via 198.51.100.1" in world.refused("ADD", "c1", pod, **NOWHERE)
    assert (world.links(), world.links(pod)) == ({"lo", "cni0"}, {"lo"})
    assert (world.claims(), world.node.ledger.records()) == (set(), [])
    assert addresses(world.add("c1", pod)) == ["10.244.7.3", "fd00:7::3"]


def test_a_flannel_pod_that_fails_half_way_leaves_nothing_but_the_bridge(world: NodeWorld) -> None:
    pod = world.pod()
    lease = "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.7.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n"
    (world.directory / "subnet.env").write_text(lease)
    conf = {"cniVersion": "1.0.0", "name": "net", "type": "flannel", "dataDir": str(world.directory / "flannel")}
    ipam = {"dataDir": str(world.networks)}
    failed = world.ask("ADD", "c1", pod, conf | {"ipam": ipam | NOWHERE["ipam"]})
    assert failed.exit_code == 1
    assert (world.links(), world.claims(), world.node.ledger.records()) == ({"lo", "cni0"}, set(), [])
    held: list[int] = []

    def undo(answer: Answer) -> None:
        held.extend((answer.exit_code, len(world.veths()), len(world.node.ledger.records())))
        undone(world, answer)

    world.ask("ADD", "c1", pod, conf | {"ipam": ipam}, undo)
    assert held == [0, 1, 3]
    assert (world.links(), world.links(pod), world.claims()) == ({"lo", "cni0"}, {"lo"}, set())
    assert (world.node.ledger.records(), list((world.directory / "flannel").iterdir())) == ([], [])


def test_an_answer_that_nobody_took_is_undone(world: NodeWorld) -> None:
    pod = world.pod()
    world.ask("ADD", "c1", pod, then=lambda answer: undone(world, answer))
    assert (world.veths(), world.links(pod), world.claims(), world.node.ledger.records()) == (set(), {"lo"}, set(), [])


def test_a_second_add_is_refused_and_the_first_stays(world: NodeWorld) -> None:
    pod = world.pod()
    world.add("c1", pod)
    before = (world.links(), world.claims(), world.node.ledger.records())
    assert "duplicate allocation is not allowed" in world.refused("ADD", "c1", pod)
    assert "is attached already by plugin 'bridge'" in world.refused("ADD", "c1", pod, ipam={"type": ""})
    assert (world.links(), world.claims(), world.node.ledger.records()) == before
    assert world.links(pod) == {"lo", "eth0"}


def test_a_strangers_interface_in_the_pod_is_refused_and_stays(world: NodeWorld) -> None:
    pod = world.pod()
    pod.ip("link add eth0 type bridge")
    assert "container veth name (eth0) already exists" in world.refused("ADD", "c1", pod)
    world.delete("c1", pod)
    assert (world.links(pod), world.veths(), world.claims()) == ({"lo", "eth0"}, set(), set())


def test_another_networks_interface_survives_the_del_of_a_refused_add(world: NodeWorld) -> None:
    pod = world.pod()
    world.add("c1", pod)
    assert "already exists" in world.refused("ADD", "c1", pod, name="other")
    world.delete("c1", pod, name="other")
    assert (world.links(pod), len(world.veths())) == ({"lo", "eth0"}, 1)


def test_a_bridge_that_is_something_else_is_refused_and_stays(world: NodeWorld) -> None:
    world.host.ip("link add cni0 type veth peer name other")
    pod = world.pod()
    assert "there is a veth device of that name" in world.refused("ADD", "c1", pod)
    assert "there is a veth device of that name" in world.refused("STATUS", "c1", cniVersion="1.1.0")
    assert (world.links(), world.links(pod), world.claims()) == ({"lo", "cni0", "other"}, {"lo"}, set())


def test_another_address_of_the_bridge_is_in_the_way_unless_it_is_to_go(world: NodeWorld) -> None:
    world.host.ip("link add cni0 type bridge")
    world.host.ip("address add 10.1.1.1/24 dev cni0")
    pod = world.pod()
    assert '"cni0" already has an IP address different from 10.244.7.1/24: 10.1.1.1/24' in world.refused("ADD", "c1", pod)
    assert (world.veths(), world.claims()) == (set(), set())
    world.add("c1", pod, forceAddress=True)
    (cni0,) = world.host.read("ip address show cni0")
    assert {a["local"] for a in cni0["addr_info"] if a["family"] == "inet"} == {"10.244.7.1"}


@pytest.mark.parametrize(
    ("line", "in_pod", "said"),
    [
        ("address del 10.244.7.2/24 dev eth0", True, "has not its address 10.244.7.2/24"),
        ("route del default", True, "has no route 0.0.0.0/0"),
        ("link set eth0 down", True, "is down"),
        ("link del eth0", True, "is not in bridge cni0"),
        ("link set eth0 address 02:00:00:00:00:01", True, "has MAC 02:00:00:00:00:01"),
        ("link del cni0", False, "bridge cni0 is gone"),
    ],
)
def test_check_compares_with_what_add_said(world: NodeWorld, line: str, in_pod: bool, said: str) -> None:
    pod = world.pod()
    result = world.add("c1", pod)
    assert world.ask("CHECK", "c1", pod, world.conf(prevResult=result)).stdout == b""
    (pod if in_pod else world.host).ip(line)
    assert said in world.refused("CHECK", "c1", pod, prevResult=result)


def test_gc_takes_away_what_is_not_valid(world: NodeWorld) -> None:
    pods = [world.pod() for _ in range(2)]
    for n, pod in enumerate(pods):
        world.add(f"c{n}", pod)
    valid = {"cniVersion": "1.1.0", "cni.dev/valid-attachments": [{"containerID": "c1", "ifname": "eth0"}]}
    assert world.ask("GC", "", conf=world.conf(**valid)).exit_code == 0
    assert (world.links(pods[0]), world.links(pods[1])) == ({"lo"}, {"lo", "eth0"})
    assert world.claims() == {"10.244.7.3", "fd00:7::3"}


def test_the_first_pods_of_a_node_may_come_all_at_once(world: NodeWorld) -> None:
    pods = [world.pod() for _ in range(32)]
    with ThreadPoolExecutor(32) as threads:
        results = list(threads.map(lambda n: world.add(f"c{n}", pods[n]), range(32)))
    assert {link["ifname"] for link in world.host.read("ip link show type bridge")} == {"cni0"}
    assert len({ip for result in results for ip in addresses(result)}) == 64
    assert len(world.host.read("ip link show master cni0")) == 32
    assert {record.state for record in world.node.ledger.records()} == {State.MADE}
    with ThreadPoolExecutor(32) as threads:
        list(threads.map(lambda n: world.delete(f"c{n}", pods[n]), range(32)))
    assert (world.links(), world.claims(), world.node.ledger.records()) == ({"lo", "cni0"}, set(), [])


def test_neighbours_are_told_who_has_an_address_now(world: NodeWorld) -> None:
    neighbour, pod = world.pod(), world.pod()
    world.add("c1", neighbour)
    with listening(neighbour) as wire:
        mac = world.add("c2", pod)["interfaces"][2]["mac"]
        heard: set[str] = set()

        def hear() -> bool:
            heard.update(announcements(wire, bytes.fromhex(mac.replace(":", ""))))
            return heard >= {"10.244.7.3", "fd00:7::3"}

        assert eventually(hear), heard


def listening(pod: ScratchNetns) -> socket.socket:
    wire = netns.run_in(pod.path, socket.socket, socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    wire.bind(("eth0", ETH_P_ALL))
    wire.settimeout(0.2)
    return wire


def announcements(wire: socket.socket, mac: bytes) -> Iterator[str]:
    """For which gratuitous ARP (RFC 5227) or unsolicited neighbour advertisements (RFC 4861 §7.2.6) came from that MAC."""
    try:
        while True:
            frame = wire.recv(2048)
            if frame[6:12] == mac and frame[12:14] == b"\x08\x06" and frame[28:32] == frame[38:42]:
                yield socket.inet_ntop(socket.AF_INET, frame[28:32])
            if frame[6:12] == mac and frame[12:14] == b"\x86\xdd" and frame[20] == 58 and frame[54] == 136:
                yield socket.inet_ntop(socket.AF_INET6, frame[62:78])
    except TimeoutError:
        return


def test_an_answer_is_json_of_the_configs_version(world: NodeWorld) -> None:
    answer = world.ask("ADD", "c1", world.pod(), world.conf(cniVersion="0.3.1"))
    shown = json.loads(answer.stdout)
    assert [ip["version"] for ip in shown["ips"]] == ["4", "6"]
    assert all("mtu" not in interface for interface in shown["interfaces"])
