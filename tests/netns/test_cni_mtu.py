"""Pods that run follow their network's MTU: bridge, both ends of each pair, and the pods' routes, in whatever direction it goes."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cni.ledger import HeldLink, Key
from cni.pod_mtu import PodMtu
from cni_node_world import NodeWorld, node_world
from flanneld.linux import netns
from flanneld.linux.netlink import Netlink
from flow import Flow, flowing
from scratch_netns import ScratchNetns

LEASE = """FLANNEL_NETWORK=10.244.0.0/16
FLANNEL_SUBNET=10.244.7.1/24
FLANNEL_IPV6_NETWORK=fd00::/48
FLANNEL_IPV6_SUBNET=fd00:0:0:7::1/64
FLANNEL_MTU={mtu}
FLANNEL_IPMASQ=true
"""
NETWORKS = {"10.244.0.0/16": "-4", "fd00::/48": "-6"}
PATIENCE_S = 30.0
MIB = 1 << 20


class FlannelWorld:
    """A node whose pods are flannel's."""

    def __init__(self, world: NodeWorld) -> None:
        self.world = world
        self._pods = 0
        self.lease(1450)

    def lease(self, mtu: int) -> None:
        self.world.node.subnet_file.write_text(LEASE.format(mtu=mtu))

    def follow(self) -> None:
        self.world.run(PodMtu(self.world.node).follow)

    def follow_to(self, mtu: int) -> None:
        self.lease(mtu)
        self.follow()

    def conf(self, **delegate: Any) -> dict[str, Any]:
        ipam = {"dataDir": str(self.world.networks)}
        told = {"isDefaultGateway": True, **delegate} if "type" not in delegate else delegate
        name = {"cniVersion": "1.1.0", "name": "cbr0", "type": "flannel"}
        return {**name, "dataDir": str(self.world.directory / "flannel"), "ipam": ipam, "delegate": told}

    def pod(self, **delegate: Any) -> ScratchNetns:
        """Attached; containers are c1, c2 and so on."""
        pod = self.world.pod()
        self._pods += 1
        answer = self.world.ask("ADD", f"c{self._pods}", pod, self.conf(**delegate))
        assert answer.exit_code == 0, answer.stdout
        return pod

    def key(self, number: int = 1) -> Key:
        return Key("cbr0", f"c{number}", "eth0")

    def host_end(self, number: int = 1, plugin: str = "bridge") -> str:
        record = self.world.node.ledger.record(self.key(number), plugin)
        assert record is not None
        return record.of(HeldLink)[0].name


@pytest.fixture
def flannel(tmp_path: Path) -> Iterator[FlannelWorld]:
    with node_world(tmp_path) as world:
        yield FlannelWorld(world)


def mtu_of(where: ScratchNetns, name: str) -> int:
    return int(where.read(f"ip link show {name}")[0]["mtu"])


def route_mtus(pod: ScratchNetns) -> set[int]:
    """Of the routes to the pod networks; 0 for one without."""
    rows = [row for network, family in NETWORKS.items() for row in pod.read(f"ip {family} route show exact {network}")]
    assert len(rows) == 2
    return {int(metric.get("mtu", 0)) for row in rows for metric in row.get("metrics", [{}])}


def all_mtus(flannel: FlannelWorld, *pods: ScratchNetns, plugin: str = "bridge") -> set[int]:
    host_ends = {mtu_of(flannel.world.host, flannel.host_end(n, plugin)) for n in range(1, len(pods) + 1)}
    return host_ends | {mtu_of(pod, "eth0") for pod in pods} | set().union(*map(route_mtus, pods))


def routes(pod: ScratchNetns) -> list[str]:
    """All of both families, with their MTU made equal."""
    rows = [row for family in ("-4", "-6") for row in pod.read(f"ip {family} route show table all")]
    for row in rows:
        for metric in row.get("metrics", []):
            metric["mtu"] = "any"
    return sorted(json.dumps(row) for row in rows if row.get("dev") == "eth0" and row["type"] != "anycast")


@contextmanager
def sent(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What is changed in the kernel, meanwhile."""
    said: list[str] = []
    change: Callable[..., None] = Netlink.change

    def changing(self: Netlink, what: str, *args: Any) -> None:
        said.append(what)
        change(self, what, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Netlink, "change", changing)
        yield said


@pytest.mark.parametrize("mtu", [1350, 1500])
def test_everything_that_a_packet_passes_has_the_new_mtu_and_a_second_round_sends_nothing(
    flannel: FlannelWorld, mtu: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pods = [flannel.pod(), flannel.pod()]
    before = list(map(routes, pods))
    with sent(monkeypatch) as changes:
        flannel.follow()
        assert changes == []
        flannel.follow_to(mtu)
        assert all_mtus(flannel, *pods) | {mtu_of(flannel.world.host, "cni0")} == {mtu}
        changes.clear()
        flannel.follow()
        assert changes == []
    assert list(map(routes, pods)) == before


def test_check_and_del_and_the_next_pod_agree(flannel: FlannelWorld) -> None:
    pod = flannel.world.pod()
    result = json.loads(flannel.world.ask("ADD", "c1", pod, flannel.conf()).stdout)
    flannel.follow_to(1350)
    assert flannel.world.ask("CHECK", "c1", pod, {**flannel.conf(), "prevResult": result}).exit_code == 0
    flannel.world.ask("DEL", "c1", pod, flannel.conf())
    assert (flannel.world.veths(), flannel.world.node.ledger.records()) == (set(), [])
    assert all_mtus(flannel, flannel.pod()) == {1350}


@pytest.mark.parametrize("address", ["10.244.7.{}", "fd00:0:0:7::{}"])
def test_a_connection_goes_on_while_the_mtu_changes_and_new_ones_come_through(flannel: FlannelWorld, address: str) -> None:
    one, two = flannel.pod(), flannel.pod()
    with flow_to(one, two, address.format(3)) as flow:
        for mtu in (1350, 1450, 1300, 1500, 1280):
            flannel.follow_to(mtu)
            flow.await_more(MIB)
            with flow_to(two, one, address.format(2)) as new:
                new.await_more(MIB)


@contextmanager
def flow_to(client: ScratchNetns, server: ScratchNetns, address: str) -> Iterator[Flow]:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with netns.run_in(server.path, socket.create_server, (address, 0), family=family) as listener:
        near = netns.run_in(client.path, socket.create_connection, listener.getsockname()[:2], PATIENCE_S)
        far, _ = listener.accept()
        with near, far, flowing(near, far) as flow:
            yield flow


def test_a_pod_whose_namespace_is_gone_or_another_is_skipped(flannel: FlannelWorld, caplog: pytest.LogCaptureFixture) -> None:
    pods = [flannel.pod() for _ in range(3)]
    netns.delete(pods[0].path)
    netns.delete(pods[1].path)
    netns.create(pods[1].path)  # of another life
    flannel.follow_to(1350)
    assert mtu_of(pods[2], "eth0") == mtu_of(flannel.world.host, flannel.host_end(3)) == 1350
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == []
    netns.create(pods[0].path)


def test_a_pod_that_cannot_be_seen_is_left_and_told_once(flannel: FlannelWorld, caplog: pytest.LogCaptureFixture) -> None:
    hidden, seen = flannel.pod(), flannel.pod()
    record = flannel.world.node.ledger.record(flannel.key(), "flannel")
    assert record is not None
    flannel.world.node.ledger.write(replace(record, netns=None))
    flannel.lease(1350)
    mtus = PodMtu(flannel.world.node)
    for _ in range(2):
        flannel.world.run(mtus.follow)
    assert (mtu_of(hidden, "eth0"), mtu_of(flannel.world.host, flannel.host_end())) == (1450, 1450)
    assert (mtu_of(seen, "eth0"), mtu_of(flannel.world.host, "cni0")) == (1350, 1350)
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == ["pods keep their MTU"]


def test_a_configured_mtu_stays_and_no_route_promises_more(flannel: FlannelWorld) -> None:
    pod = flannel.pod(mtu=1300)
    for mtu in (1450, 1280, 1500):
        flannel.follow_to(mtu)
        assert all_mtus(flannel, pod) | {mtu_of(flannel.world.host, "cni0")} == {1300}


def test_an_mtu_that_tuning_has_set_stays(flannel: FlannelWorld) -> None:
    pod = flannel.world.pod()
    prev = json.loads(flannel.world.ask("ADD", "c1", pod, flannel.conf()).stdout)
    tuned = {"cniVersion": "1.1.0", "name": "cbr0", "type": "tuning", "mtu": 1300, "prevResult": prev}
    assert flannel.world.ask("ADD", "c1", pod, tuned | {"dataDir": str(flannel.world.directory / "tuning")}).exit_code == 0
    flannel.follow_to(1400)
    assert (mtu_of(pod, "eth0"), mtu_of(flannel.world.host, flannel.host_end())) == (1300, 1450)


def test_a_pair_without_a_bridge_follows(flannel: FlannelWorld) -> None:
    pod = flannel.pod(type="ptp")
    for mtu in (1350, 1500):
        flannel.follow_to(mtu)
        assert all_mtus(flannel, pod, plugin="ptp") == {mtu}


def test_an_interface_on_one_of_the_hosts_follows_as_far_as_that_lets_it(
    flannel: FlannelWorld, caplog: pytest.LogCaptureFixture
) -> None:
    flannel.world.host.ip("link add up0 type veth peer name up1")
    flannel.world.host.ip("link set up0 up")
    pod = flannel.pod(type="macvlan", master="up0")
    for mtu in (1350, 1500):
        flannel.follow_to(mtu)
        assert {mtu_of(pod, "eth0")} | route_mtus(pod) == {mtu}
    flannel.follow_to(9000)
    assert mtu_of(pod, "eth0") == 1500
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == ["pods keep their MTU"]


@pytest.mark.parametrize(("delegate", "after"), [({}, 1350), ({"mtu": 1400}, 1400)])
def test_records_of_an_earlier_version_are_understood(flannel: FlannelWorld, delegate: dict[str, int], after: int) -> None:
    pod = flannel.pod(**delegate)
    record = flannel.world.node.ledger.record(flannel.key(), "flannel")
    assert record is not None
    flannel.world.node.ledger.write(replace(record, mtu_from=None))
    if delegate:  # and the reference's file has the lease's MTU on the route whatever the interface's
        kept = flannel.world.directory / "flannel" / "c1"
        kept.write_text(kept.read_text().replace('"dst": "fd00::/48", "mtu": 1400', '"dst": "fd00::/48", "mtu": 1450'))
    flannel.world.restart()
    flannel.follow_to(1350)
    assert (mtu_of(pod, "eth0"), mtu_of(flannel.world.host, flannel.host_end())) == (after, after)


def test_a_pod_in_the_making_when_the_lease_changes_gets_the_new_one(
    flannel: FlannelWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    flannel.pod()
    pod = flannel.world.pod()
    read = Path.read_text
    once = iter([True])

    def read_then_change(path: Path, *args: Any, **kwargs: Any) -> str:
        text = read(path, *args, **kwargs)
        if path == flannel.world.node.subnet_file and next(once, False):
            flannel.lease(1350)  # the ADD has read the former one
            following.append(thread.submit(flannel.follow))
        return text

    following: list[Any] = []
    with ThreadPoolExecutor(1) as thread:
        monkeypatch.setattr(Path, "read_text", read_then_change)
        assert flannel.world.ask("ADD", "c2", pod, flannel.conf()).exit_code == 0
        following[0].result(PATIENCE_S)
    assert all_mtus(flannel, pod) | {mtu_of(flannel.world.host, "cni0")} == {1350}


@pytest.mark.parametrize("kept", ["", "{", "{}", '{"type": [], "ipam": {}}', '{"type": "bridge", "ipam": 5}'])
def test_a_spoilt_kept_configuration_stops_no_other_pod(flannel: FlannelWorld, kept: str) -> None:
    flannel.pod()
    pod = flannel.pod()
    (flannel.world.directory / "flannel" / "c1").write_text(kept)
    flannel.follow_to(1350)
    assert {mtu_of(pod, "eth0")} | route_mtus(pod) == {1350}


def test_without_a_lease_nothing_changes_and_a_spoilt_one_is_told(flannel: FlannelWorld, caplog: pytest.LogCaptureFixture) -> None:
    pod = flannel.pod()
    flannel.world.node.subnet_file.write_text("FLANNEL_MTU=small\n")
    flannel.follow()
    assert [record.getMessage() for record in caplog.records] == ["pods keep their MTU"]
    flannel.world.node.subnet_file.unlink()
    flannel.follow()
    assert all_mtus(flannel, pod) == {1450}
