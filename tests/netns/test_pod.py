from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from ipaddress import ip_interface
from pathlib import Path

import pytest

from flanneld.kernel import KernelError
from flanneld.linux import netns
from flanneld.linux.links import links
from flanneld.linux.pod import PodLink, attach_pod, detach_pod
from scratch_netns import ScratchNetns, scratch_netns

WANTED = PodLink(
    name="eth0",
    host_name="pod-web",
    bridge="cni0",
    addresses=(ip_interface("10.244.7.2/24"), ip_interface("fd00:7::2/64")),
    gateways=(ip_interface("10.244.7.1/24"), ip_interface("fd00:7::1/64")),
    mtu=1450,
)


@contextmanager
def open_file(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def attach(host: ScratchNetns, pod: ScratchNetns, wanted: PodLink = WANTED) -> str:
    with netns.netlink_in(host.path) as nl, open_file(pod.path) as inside:
        return attach_pod(nl, inside, wanted)


def names(scratch: ScratchNetns) -> list[str]:
    with netns.netlink_in(scratch.path) as nl:
        return [link.name for link in links(nl)]


def test_a_pod_has_addresses_mtu_and_default_routes_in_both_families() -> None:
    with scratch_netns() as host, scratch_netns() as pod:
        mac = attach(host, pod)
        (eth0,) = pod.read("ip address show eth0")
        assert (eth0["mtu"], eth0["address"], eth0["operstate"]) == (1450, mac, "UP")
        usable = {f"{a['local']}/{a['prefixlen']}" for a in eth0["addr_info"] if not a.get("tentative")}
        assert usable >= {"10.244.7.2/24", "fd00:7::2/64"}
        assert pod.read("ip route show default")[0]["gateway"] == "10.244.7.1"
        assert pod.read("ip -6 route show default")[0]["gateway"] == "fd00:7::1"


def test_the_bridge_is_the_gateway_with_a_mac_that_ports_do_not_change() -> None:
    with scratch_netns() as host, scratch_netns() as one, scratch_netns() as two:
        attach(host, one)
        (before,) = host.read("ip address show cni0")
        attach(
            host, two, replace(WANTED, host_name="pod-db", addresses=(ip_interface("10.244.7.3/24"), ip_interface("fd00:7::3/64")))
        )
        (after,) = host.read("ip address show cni0")
        assert before["address"] == after["address"] == "0a:58:0a:f4:07:01"
        assert {a["local"] for a in after["addr_info"]} >= {"10.244.7.1", "fd00:7::1", "fe80::1"}
        ports = host.read("ip link show master cni0")
        assert all(port["linkinfo"]["info_slave_data"]["hairpin"] and port["mtu"] == 1450 for port in ports)
        assert len(ports) == 2


def test_what_fails_in_the_pod_leaves_nothing_on_the_host_but_the_bridge() -> None:
    with scratch_netns() as host, scratch_netns() as pod:
        with pytest.raises(KernelError):  # the gateway is not on the link: no route to it
            attach(host, pod, replace(WANTED, addresses=(ip_interface("192.0.2.1/32"),)))
        assert names(host) == ["lo", "cni0"]
        assert names(pod) == ["lo"]


def test_a_taken_interface_name_is_refused_and_what_was_there_stays() -> None:
    with scratch_netns() as host, scratch_netns() as pod, scratch_netns() as other:
        attach(host, pod)
        with pytest.raises(KernelError):
            attach(host, other)
        assert "pod-web" in names(host)
        assert "eth0" in names(pod)


def test_detaching_may_be_repeated() -> None:
    with scratch_netns() as host, scratch_netns() as pod:
        attach(host, pod)
        with netns.netlink_in(host.path) as nl:
            detach_pod(nl, "pod-web")
            detach_pod(nl, "pod-web")
        assert names(pod) == ["lo"]


def test_work_in_a_namespace_does_not_move_the_caller() -> None:
    with scratch_netns() as scratch:
        ours = os.readlink("/proc/thread-self/ns/net")
        theirs = netns.run_in(scratch.path, os.readlink, "/proc/thread-self/ns/net")
        assert theirs != ours == os.readlink("/proc/thread-self/ns/net")
        assert str(scratch.path.stat().st_ino) in theirs


def test_a_namespace_is_made_once_and_removed_as_often_as_one_likes(tmp_path: Path) -> None:
    path = tmp_path / "net"
    netns.create(path)
    try:
        with pytest.raises(FileExistsError):
            netns.create(path)
        assert netns.run_in(path, socket.if_nameindex) == [(1, "lo")]
    finally:
        netns.delete(path)
        netns.delete(path)
    assert not path.exists()


def test_what_is_no_namespace_cannot_be_entered(tmp_path: Path) -> None:
    plain = tmp_path / "file"
    plain.touch()
    with pytest.raises(OSError, match=str(plain)):
        netns.run_in(plain, os.getpid)
