from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cni.ledger import Key
from cni.result import Interface, Result
from cni.spec import CniError, Code
from cni_node import CONTAINER, CniNode, cni_node
from flanneld.kernel import KernelError
from flanneld.linux import netns
from scratch_netns import ScratchNetns, scratch_netns

MAC = "02:11:22:33:44:55"


@contextmanager
def pod_on_a_node(directory: Path) -> Iterator[tuple[CniNode, ScratchNetns, Result]]:
    """A pod with eth0, as another plugin has made it."""
    with cni_node(directory) as node, scratch_netns() as pod:
        pod.ip("link add eth0 type veth peer name peer0")
        pod.ip("link set eth0 up")
        interfaces = (Interface("veth7"), Interface("eth0", node.links(pod)["eth0"]["address"], str(pod.path), 1500))
        yield node, pod, Result(interfaces)


def tuning(directory: Path, **keys: Any) -> dict[str, Any]:
    return {"type": "tuning", "dataDir": str(directory / "saved"), **keys}


def sysctl(pod: ScratchNetns, path: str) -> str:
    return netns.run_in(pod.path, Path("/proc/sys/net", path).read_text).strip()


def shown(node: CniNode, pod: ScratchNetns) -> tuple[Any, ...]:
    """MAC, MTU, queue length, promiscuous, all multicast."""
    link = node.links(pod)["eth0"]
    return (link["address"], link["mtu"], link["txqlen"], "PROMISC" in link["flags"], "ALLMULTI" in link["flags"])


def test_add_sets_the_result_tells_check_agrees_and_del_restores(tmp_path: Path) -> None:
    with pod_on_a_node(tmp_path) as (node, pod, prev):
        before = shown(node, pod)
        conf = tuning(tmp_path, mac=MAC, mtu=1300, promisc=True, allmulti=True, txQLen=77)
        result = node.add(conf, pod, prev)
        assert shown(node, pod) == (MAC, 1300, 77, True, True)
        assert result.interfaces == (prev.interfaces[0], Interface("eth0", MAC, str(pod.path), 1300))
        node.check(conf, pod, result)
        saved = json.loads((tmp_path / "saved" / f"{CONTAINER}_eth0.json").read_text())
        assert saved == {"mac": before[0], "mtu": 1500, "txQLen": 1000, "promisc": False, "allmulti": False}
        for _ in range(2):
            node.delete(conf, pod, result)
            assert shown(node, pod) == before
        assert list((tmp_path / "saved").iterdir()) == []
        assert node.ledger.records() == []


def test_sysctls_are_set_in_the_pod_alone_and_stay(tmp_path: Path) -> None:
    with pod_on_a_node(tmp_path) as (node, pod, prev):
        conf = tuning(tmp_path, sysctl={"net.core.somaxconn": "500", "net.ipv4.conf.IFNAME.arp_filter": "1"})
        ours = sysctl(node.host, "core/somaxconn")
        assert node.add(conf, pod, prev) == prev
        assert (sysctl(pod, "core/somaxconn"), sysctl(pod, "ipv4/conf/eth0/arp_filter")) == ("500", "1")
        assert sysctl(node.host, "core/somaxconn") == ours
        node.check(conf, pod, prev)
        node.delete(conf, pod, prev)
        assert sysctl(pod, "core/somaxconn") == "500"
        assert not (tmp_path / "saved").exists()


@pytest.mark.parametrize(
    ("wrong", "error", "gist"),
    [
        ({"sysctl": {"net.core.somaxconn": "500", "net.core.nonesuch": "1"}}, CniError, "nonesuch"),
        ({"sysctl": {"net.core.somaxconn": "500", "net.ipv4.ip_local_port_range": "junk"}}, CniError, "junk"),
        ({"sysctl": {"net.core.somaxconn": "500"}, "txQLen": 5, "mac": "01:00:00:00:00:01"}, KernelError, "mac"),
        ({"sysctl": {"net.core.somaxconn": "500"}, "mtu": 60}, KernelError, "mtu"),
    ],
)
def test_an_add_that_fails_has_changed_nothing(tmp_path: Path, wrong: dict[str, Any], error: type[Exception], gist: str) -> None:
    with pod_on_a_node(tmp_path) as (node, pod, prev):
        before = shown(node, pod), sysctl(pod, "core/somaxconn")
        with pytest.raises(error, match=gist):
            node.add(tuning(tmp_path, **wrong), pod, prev)
        assert (shown(node, pod), sysctl(pod, "core/somaxconn")) == before
        assert node.ledger.records() == []
        assert list((tmp_path / "saved").glob("*")) == []


def test_a_second_tuning_in_the_chain_keeps_what_the_first_one_saved(tmp_path: Path) -> None:
    with pod_on_a_node(tmp_path) as (node, pod, prev):
        before = shown(node, pod)
        first, second = tuning(tmp_path, mtu=1300), tuning(tmp_path, mtu=1200, mac=MAC)
        result = node.add(second, pod, node.add(first, pod, prev))
        assert shown(node, pod)[:2] == (MAC, 1200)
        with pytest.raises(KernelError):
            node.add(tuning(tmp_path, mtu=60), pod, result)
        node.delete(second, pod, result)
        node.delete(first, pod, result)
        assert shown(node, pod) == before


@pytest.mark.parametrize(
    ("line", "gist"),
    [
        ("link set eth0 mtu 1250", "mtu of eth0 is 1300, current value is 1250"),
        ("link set eth0 address 02:00:00:00:00:99", "mac of eth0 is .*value is 02:00:00:00:00:99"),
        ("link set eth0 promisc off", "promisc of eth0"),
        ("link delete eth0", "IFNAME|eth0 is gone"),
    ],
)
def test_check_sees_what_somebody_changed(tmp_path: Path, line: str, gist: str) -> None:
    with pod_on_a_node(tmp_path) as (node, pod, prev):
        conf = tuning(tmp_path, mac=MAC, mtu=1300, promisc=True)
        result = node.add(conf, pod, prev)
        pod.ip(line)
        with pytest.raises(CniError, match=gist):
            node.check(conf, pod, result)


def test_check_sees_a_changed_sysctl(tmp_path: Path) -> None:
    with pod_on_a_node(tmp_path) as (node, pod, prev):
        conf = tuning(tmp_path, sysctl={"net.ipv4.ip_local_port_range": "20000 30000"})
        node.check(conf, pod, node.add(conf, pod, prev))
        with pytest.raises(CniError, match="ip_local_port_range"):
            node.check(tuning(tmp_path, sysctl={"net.ipv4.ip_local_port_range": "20001 30000"}), pod, prev)


def test_del_succeeds_whatever_is_missing(tmp_path: Path) -> None:
    with pod_on_a_node(tmp_path) as (node, pod, prev):
        conf = tuning(tmp_path, mtu=1300)
        node.add(conf, pod, prev)
        node.delete({**conf, "mtu": "junk", "dataDir": 7})  # what we wrote down says where the file is
        assert list((tmp_path / "saved").iterdir()) == []
        node.add(conf, pod, prev)
        pod.ip("link delete eth0")
        (tmp_path / "saved" / f"{CONTAINER}_eth0.json").write_text("junk")
        node.delete(conf, pod)
        node.delete(conf, pod)
        node.delete({"type": "tuning"})
        assert list((tmp_path / "saved").iterdir()) == []


def test_del_restores_what_the_reference_saved(tmp_path: Path) -> None:
    with pod_on_a_node(tmp_path) as (node, pod, prev):
        (tmp_path / "saved").mkdir()
        (tmp_path / "saved" / f"{CONTAINER}_eth0.json").write_text('{\n "mac": "02:00:00:00:00:07",\n "mtu": 1400\n}')
        node.delete(tuning(tmp_path), pod, prev)
        assert shown(node, pod)[:2] == ("02:00:00:00:00:07", 1400)


def test_gc_removes_what_was_saved_for_others(tmp_path: Path) -> None:
    with pod_on_a_node(tmp_path) as (node, pod, prev):
        conf = tuning(tmp_path, mtu=1300)
        node.add(conf, pod, prev)
        node.gc(conf, {Key("net", CONTAINER, "eth0")})
        assert len(list((tmp_path / "saved").iterdir())) == 1
        node.gc(conf)
        assert list((tmp_path / "saved").iterdir()) == []


def test_the_hosts_own_namespace_and_a_lonely_call_are_refused(tmp_path: Path) -> None:
    with pod_on_a_node(tmp_path) as (node, pod, prev):
        before = sysctl(node.host, "core/somaxconn")
        conf = tuning(tmp_path, sysctl={"net.core.somaxconn": "500"})
        with pytest.raises(CniError, match="own namespace") as refused:
            node.add(conf, node.host, prev)
        assert refused.value.code == Code.ENVIRONMENT
        assert sysctl(node.host, "core/somaxconn") == before
        with pytest.raises(CniError, match="prevResult"):
            node.add(conf, pod)
