from __future__ import annotations

import hashlib
import json
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_interface
from pathlib import Path
from typing import Any

import pytest

from cni import bandwidth
from cni.bandwidth import ifb_name
from cni.ledger import Key
from cni.result import Interface, Ip, Result
from cni.spec import CniError
from cni_node import CONTAINER, CniNode, cni_node
from flanneld.kernel import KernelError
from flanneld.linux import netns, tc
from scratch_netns import ScratchNetns, scratch_netns

KEY = Key("net", CONTAINER, "eth0")
INGRESS = {"ingressRate": 8_000_000, "ingressBurst": 160_000}
EGRESS = {"egressRate": 16_000_000, "egressBurst": 160_000}
PORT = 7000


@contextmanager
def pod_on_a_node(directory: Path) -> Iterator[tuple[CniNode, ScratchNetns, Result]]:
    """A pod with a veth, as another plugin has made it."""
    with cni_node(directory) as node, scratch_netns() as pod:
        node.host.ip(f"link add veth7 type veth peer name eth0 netns {pod.name}")
        for scratch, name, address in ((node.host, "veth7", "10.1.2.1/24"), (pod, "eth0", "10.1.2.2/24")):
            scratch.ip(f"address add {address} dev {name}")
            scratch.ip(f"link set {name} up")
        interfaces = (Interface("br0"), Interface("veth7"), Interface("eth0", sandbox=str(pod.path)))
        yield node, pod, Result(interfaces, (Ip(ip_interface("10.1.2.2/24"), interface=2),))


def conf(**keys: Any) -> dict[str, Any]:
    return {"type": "bandwidth", **keys}


def queues(scratch: ScratchNetns) -> dict[str, list[Any]]:
    """What `tc` shows: of each device its queues, of a token bucket rate and burst in bytes."""
    said = subprocess.run(["tc", "-n", scratch.name, "-j", "qdisc", "show"], check=True, capture_output=True).stdout
    found: dict[str, list[Any]] = {}
    for queue in json.loads(said):
        if queue["kind"] == "noqueue":
            continue
        shown = (queue["options"]["rate"], queue["options"]["burst"]) if queue["kind"] == "tbf" else queue["kind"]
        found.setdefault(queue["dev"], []).append(shown)
    return found


def change(scratch: ScratchNetns, line: str) -> None:
    subprocess.run(["tc", "-n", scratch.name, *line.split()], check=True)


def send_all(out: socket.socket, size: int) -> None:
    out.sendall(bytes(size))
    out.shutdown(socket.SHUT_WR)


def send(sender: ScratchNetns, receiver: ScratchNetns, address: str, size: int) -> float:
    """Seconds that a TCP transfer takes."""
    listening = netns.run_in(receiver.path, socket.create_server, (address, PORT))
    with listening, netns.run_in(sender.path, socket.create_connection, (address, PORT), 10) as out:
        incoming, _ = listening.accept()
        with incoming:
            incoming.settimeout(20)
            began = time.monotonic()
            sending = threading.Thread(target=send_all, args=(out, size))
            sending.start()
            while incoming.recv(1 << 16):
                pass
            sending.join()
            return time.monotonic() - began


def test_the_host_end_and_the_ifb_have_the_limits_and_del_takes_them_away(tmp_path: Path) -> None:
    with pod_on_a_node(tmp_path) as (node, pod, prev):
        both = conf(**INGRESS, **EGRESS)
        result = node.add(both, pod, prev)
        ifb = ifb_name(KEY)
        assert queues(node.host) == {"veth7": [(1_000_000, 20_000), "ingress"], ifb: [(2_000_000, 20_000)]}
        assert result.interfaces[:3] == prev.interfaces
        assert result.interfaces[3] == Interface(ifb, node.links()[ifb]["address"], mtu=1500)
        node.check(both, pod, result)
        for _ in range(2):
            node.delete(both, pod, result)
            assert queues(node.host) == queues(pod) == {}
            assert set(node.links()) == {"veth7"}
        assert node.ledger.records() == []


def test_one_direction_alone_is_limited(tmp_path: Path) -> None:
    with pod_on_a_node(tmp_path) as (node, pod, prev):
        result = node.add(conf(**INGRESS), pod, prev)
        assert result == prev
        assert queues(node.host) == {"veth7": [(1_000_000, 20_000)]}
        node.check(conf(**INGRESS), pod, result)
        node.delete(conf(**INGRESS), pod)
        node.add(conf(**EGRESS), pod, prev)
        assert queues(node.host) == {"veth7": ["ingress"], ifb_name(KEY): [(2_000_000, 20_000)]}


def test_without_limits_nothing_is_made(tmp_path: Path) -> None:
    with pod_on_a_node(tmp_path) as (node, pod, prev):
        assert node.add(conf(), pod, prev) == prev
        node.check(conf(), pod, prev)
        node.delete(conf(), pod, prev)
        assert queues(node.host) == {}


@pytest.mark.parametrize("method", [bandwidth.through_ifb, bandwidth.inside_pod])
def test_no_transfer_is_faster_than_its_limit(tmp_path: Path, method: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bandwidth, "EGRESS_METHODS", (method,))
    with pod_on_a_node(tmp_path) as (node, pod, prev):
        node.add(conf(**INGRESS, **EGRESS), pod, prev)
        assert send(node.host, pod, "10.1.2.2", 520_000) > 0.45  # 500,000 bytes more than the burst, at 1 MB/s
        assert send(pod, node.host, "10.1.2.1", 1_020_000) > 0.45


def test_a_kernel_without_ifb_has_the_egress_limit_in_the_pod(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tc, "CLASSIFIERS", ("nonesuch",))
    with pod_on_a_node(tmp_path) as (node, pod, prev):
        both = conf(**INGRESS, **EGRESS)
        result = node.add(both, pod, prev)
        assert result == prev
        assert queues(node.host) == {"veth7": [(1_000_000, 20_000)]}
        assert queues(pod) == {"eth0": [(2_000_000, 20_000)]}
        assert set(node.links()) == {"veth7"}
        node.check(both, pod, result)
        node.delete(both, pod, result)
        assert queues(node.host) == queues(pod) == {}


def test_an_add_that_fails_half_way_leaves_nothing(tmp_path: Path) -> None:
    with pod_on_a_node(tmp_path) as (node, pod, prev):
        change(node.host, "qdisc add dev veth7 ingress")
        with pytest.raises(KernelError):
            node.add(conf(**INGRESS, **EGRESS), pod, prev)
        assert queues(node.host) == {"veth7": ["ingress"]}
        assert set(node.links()) == {"veth7"}
        assert node.ledger.records() == []


def test_a_second_add_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    with pod_on_a_node(tmp_path) as (node, pod, prev):
        both = conf(**INGRESS, **EGRESS)
        result = node.add(both, pod, prev)
        with pytest.raises(CniError, match="attached already"):
            node.add(both, pod, prev)
        node.check(both, pod, result)


@pytest.mark.parametrize(
    "line",
    [
        "qdisc delete dev veth7 root",
        "qdisc replace dev veth7 root tbf rate 1mbit burst 20000 latency 25ms",
        "qdisc delete dev veth7 ingress",
        "qdisc delete dev IFB root",
        "qdisc replace dev IFB root tbf rate 16mbit burst 10000 latency 25ms",
    ],
)
def test_check_sees_what_somebody_changed(tmp_path: Path, line: str) -> None:
    with pod_on_a_node(tmp_path) as (node, pod, prev):
        both = conf(**INGRESS, **EGRESS)
        result = node.add(both, pod, prev)
        change(node.host, line.replace("IFB", ifb_name(KEY)))
        with pytest.raises(CniError, match=r"limit|expected|does not go through"):
            node.check(both, pod, result)


WRONG_RESULTS: dict[str, tuple[Interface, ...]] = {
    "no interfaces provided": (),
    "no veth peer of container interface": (Interface("br0"), Interface("eth0", sandbox="/run/netns/x")),
}


@pytest.mark.parametrize("gist", WRONG_RESULTS)
def test_the_host_end_has_to_be_in_the_previous_result(tmp_path: Path, gist: str) -> None:
    with pod_on_a_node(tmp_path) as (node, pod, prev):
        for given in (Result(WRONG_RESULTS[gist]), None):
            with pytest.raises(CniError, match=gist if given else "prevResult"):
                node.add(conf(**INGRESS), pod, given)
        with pytest.raises(CniError, match="no veth peer"):
            node.add(conf(**INGRESS), pod, prev, ifname="eth9")
        with pytest.raises(CniError, match="own namespace"):
            node.add(conf(**INGRESS), node.host, prev)


def test_del_succeeds_whatever_is_missing(tmp_path: Path) -> None:
    with pod_on_a_node(tmp_path) as (node, pod, prev):
        both = conf(**INGRESS, **EGRESS)
        node.add(both, pod, prev)
        pod.ip("link delete eth0")
        node.delete(both, pod)
        node.delete({**both, "ingressRate": "junk"})
        assert node.links() == {}


def test_del_without_a_namespace_removes_the_ifb(tmp_path: Path) -> None:
    with pod_on_a_node(tmp_path) as (node, pod, prev):
        node.add(conf(**EGRESS), pod, prev)
        node.delete(conf())
        assert set(node.links()) == {"veth7"}
        assert node.ledger.records() == []


def test_del_removes_the_references_ifb(tmp_path: Path) -> None:
    with pod_on_a_node(tmp_path) as (node, pod, prev):
        name = "bwp" + hashlib.sha512(f"net{CONTAINER}".encode()).hexdigest()[:12]
        node.host.ip(f"link add {name} type ifb")
        node.delete(conf(**EGRESS), pod, prev)
        assert set(node.links()) == {"veth7"}


def test_gc_removes_the_ifbs_of_others(tmp_path: Path) -> None:
    with pod_on_a_node(tmp_path) as (node, pod, prev):
        node.add(conf(**EGRESS), pod, prev)
        node.gc(conf(), {KEY})
        assert ifb_name(KEY) in node.links()
        node.gc(conf())
        assert set(node.links()) == {"veth7"}
