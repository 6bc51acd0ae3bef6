"""Kernels without these devices are answered with their names; where there are such, pods get them, else a skip says so."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_interface
from pathlib import Path
from typing import Any

import pytest

from cni.result import Interface, Ip, Result
from cni.spec import CniError, Code
from cni_node import CniNode, cni_node
from cni_world import kernel_has
from flanneld.linux import netns, sublink
from scratch_netns import ScratchNetns, scratch_netns

IPAM = {"type": "static", "addresses": [{"address": "10.5.0.2/24"}]}
CONFS: dict[str, dict[str, Any]] = {
    "ipvlan": {"type": "ipvlan", "master": "eth0", "mode": "l3", "ipam": IPAM},
    "vlan": {"type": "vlan", "master": "eth0", "vlanId": 5, "ipam": IPAM},
}
SETTINGS: dict[str, dict[str, Any]] = {"ipvlan": {"mode": "l3"}, "vlan": {"id": 5}}


@contextmanager
def node_with_an_uplink(directory: Path) -> Iterator[tuple[CniNode, ScratchNetns]]:
    with cni_node(directory) as node, scratch_netns() as pod:
        node.host.ip("link add eth0 mtu 1400 type veth peer name eth1")
        node.host.ip("link set eth0 up")
        yield node, pod


def needs(kind: str) -> None:
    if not kernel_has(kind):
        pytest.skip(f"this kernel has no {kind} devices")


def lacks(kind: str) -> None:
    if kernel_has(kind):
        pytest.skip(f"this kernel has {kind} devices")


@pytest.mark.parametrize("kind", CONFS)
def test_a_kernel_without_such_devices_is_named_and_nothing_is_left(tmp_path: Path, kind: str) -> None:
    lacks(kind)
    with node_with_an_uplink(tmp_path) as (node, pod):
        with pytest.raises(CniError, match=f"{kind} is not supported by this kernel.*the module {kind}") as refused:
            node.add(CONFS[kind], pod)
        assert refused.value.code == Code.FAILED
        assert node.links(pod) == {}
        with pytest.raises(CniError, match=f"the module {kind}") as refused:
            node.status(CONFS[kind])
        assert refused.value.code == Code.NOT_AVAILABLE


@pytest.mark.parametrize("kind", CONFS)
def test_del_and_gc_succeed_all_the_same(tmp_path: Path, kind: str) -> None:
    with node_with_an_uplink(tmp_path) as (node, pod):
        pod.ip("link add eth0 type veth peer name peer0")
        for conf in (CONFS[kind], {"type": kind}, {**CONFS[kind], "mode": "junk", "vlanId": -1}):
            node.delete(conf, pod)
            node.delete(conf)
        node.gc(CONFS[kind])
        assert set(node.links(pod)) == {"eth0", "peer0"}


@pytest.mark.parametrize("kind", CONFS)
def test_a_pod_has_the_interface_until_del(tmp_path: Path, kind: str) -> None:
    needs(kind)
    with node_with_an_uplink(tmp_path) as (node, pod):
        result = node.add(CONFS[kind], pod)
        link = node.links(pod)["eth0"]
        assert link["linkinfo"]["info_data"].items() >= SETTINGS[kind].items()
        assert (link["address"], link["mtu"]) == (node.links()["eth0"]["address"], 1400)
        node.check(CONFS[kind], pod, result)
        node.status(CONFS[kind])
        node.delete(CONFS[kind], pod, result)
        assert node.links(pod) == {}


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "ipvlan mode": (CONFS["ipvlan"] | {"mode": "l9"}, "unknown ipvlan mode: 'l9'"),
    "ipvlan mtu": (CONFS["ipvlan"] | {"mtu": 9000}, "invalid MTU 9000"),
    "ipvlan has its master's MAC": (CONFS["ipvlan"] | {"mac": "02:00:00:00:00:01"}, "unsupported field mac"),
    "ipvlan without addresses": (CONFS["ipvlan"] | {"ipam": {}}, "ipam.type: got none"),
    "vlan id": (CONFS["vlan"] | {"vlanId": 5000}, "invalid VLAN ID 5000"),
    "negative vlan id": (CONFS["vlan"] | {"vlanId": -1}, "invalid VLAN ID -1"),
    "vlan mtu": (CONFS["vlan"] | {"mtu": 9000}, "invalid MTU 9000"),
    "vlan without master": (CONFS["vlan"] | {"master": ""}, '"master" field is required'),
    "no such master": (CONFS["vlan"] | {"master": "nosuch"}, "master nosuch: no such interface"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_refused_leaves_nothing(tmp_path: Path, what: str) -> None:
    conf, gist = REFUSED[what]
    with node_with_an_uplink(tmp_path) as (node, pod):
        with pytest.raises(CniError, match=gist):
            node.add(conf, pod)
        assert node.links(pod) == {}


def test_ipvlan_takes_the_addresses_of_the_plugin_before_it(tmp_path: Path) -> None:
    needs("ipvlan")
    with node_with_an_uplink(tmp_path) as (node, pod):
        prev = Result((Interface("eth0"),), (Ip(ip_interface("10.5.0.9/24")),))
        result = node.add({"type": "ipvlan"}, pod, prev)
        assert [(str(ip.address), ip.interface) for ip in result.ips] == [("10.5.0.9/24", 1)]


def test_the_probe_makes_nothing(tmp_path: Path) -> None:
    with node_with_an_uplink(tmp_path) as (node, _), netns.netlink_in(node.host.path) as nl:
        assert sublink.is_known(nl, "macvlan")
        assert not sublink.is_known(nl, "nonesuch")
        assert set(node.links()) == {"eth0", "eth1"}
