"""flanneld.linux.pod and .netns on the real kernel; what the CNI plugins make of them is in test_cni_node.py."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path
from typing import Any

import pytest

from flanneld.kernel import KernelError
from flanneld.linux import links, netns
from flanneld.linux.netlink import Netlink
from flanneld.linux.pod import PodRoute, announce_changes, bring_up, default_routes, ensure_sysctl
from flanneld.linux.rtnetlink import RT_SCOPE_LINK
from scratch_netns import ScratchNetns, scratch_netns

ADDRESSES = (ip_interface("10.244.7.2/24"), ip_interface("fd00:7::2/64"))
GATEWAYS = (ip_interface("10.244.7.1/24"), ip_interface("fd00:7::1/64"))


@dataclass(frozen=True)
class Pod:
    scratch: ScratchNetns
    netlink: Netlink

    def routes(self, line: str) -> list[dict[str, Any]]:
        return self.scratch.read(f"ip {line}")

    def in_it(self, path: str) -> str:
        return netns.run_in(self.scratch.path, Path("/proc/sys/net", path).read_text).strip()


@pytest.fixture
def pod() -> Iterator[Pod]:
    with scratch_netns() as scratch, netns.netlink_in(scratch.path) as netlink:
        links.add_veth(netlink, "eth0", "other")
        scratch.ip("link set other up")
        yield Pod(scratch, netlink)


def test_a_link_has_addresses_and_default_routes_in_both_families(pod: Pod) -> None:
    bring_up(pod.netlink, "eth0", ADDRESSES, default_routes(GATEWAYS))
    (eth0,) = pod.scratch.read("ip address show eth0")
    assert eth0["operstate"] == "UP"
    usable = {f"{a['local']}/{a['prefixlen']}" for a in eth0["addr_info"] if not a.get("tentative")}
    assert usable >= {"10.244.7.2/24", "fd00:7::2/64"}
    assert pod.routes("route show default")[0]["gateway"] == "10.244.7.1"
    assert pod.routes("-6 route show default")[0]["gateway"] == "fd00:7::1"


def test_duplicate_detection_is_on_where_it_is_asked_for(pod: Pod) -> None:
    index = bring_up(pod.netlink, "eth0", ADDRESSES, detect_duplicates=True)
    assert ADDRESSES[1] in links.tentative(pod.netlink, index)


def test_without_subnet_routes_an_address_stands_alone(pod: Pod) -> None:
    way = PodRoute(ip_network("10.244.7.1/32"), scope=RT_SCOPE_LINK)
    bring_up(
        pod.netlink, "eth0", ADDRESSES, [way, PodRoute(ip_network("10.244.7.0/24"), ip_address("10.244.7.1"))], subnet_routes=False
    )
    assert {row["dst"]: row.get("gateway") for row in pod.routes("route show")} == {
        "10.244.7.1": None,
        "10.244.7.0/24": "10.244.7.1",
    }
    assert "fd00:7::/64" not in {row["dst"] for row in pod.routes("-6 route show")}


def test_a_route_has_all_that_it_says(pod: Pod) -> None:
    route = PodRoute(ip_network("192.0.2.0/24"), ip_address("10.244.7.1"), mtu=1300, advmss=1200, metric=77, table=4242)
    bring_up(pod.netlink, "eth0", ADDRESSES, [route])
    (found,) = pod.routes("route show table 4242")
    assert (found["dst"], found["gateway"], found["metric"]) == ("192.0.2.0/24", "10.244.7.1", 77)
    assert found["metrics"] == [{"mtu": 1300, "advmss": 1200}]


def test_ipv4_goes_by_way_of_an_ipv6_next_hop_rfc_8950(pod: Pod) -> None:
    bring_up(pod.netlink, "eth0", ADDRESSES, [PodRoute(ip_network("192.0.2.0/24"), ip_address("fd00:7::1"))])
    (found,) = pod.routes("route show 192.0.2.0/24")
    assert found["via"] == {"family": "inet6", "host": "fd00:7::1"}


def test_a_gateway_off_the_link_is_refused_and_named(pod: Pod) -> None:
    with pytest.raises(KernelError, match=r"kernel refused .*route 192\.0\.2\.0/24 via 198\.51\.100\.1"):
        bring_up(pod.netlink, "eth0", ADDRESSES, [PodRoute(ip_network("192.0.2.0/24"), ip_address("198.51.100.1"))])


def test_settings_are_the_namespaces_own(pod: Pod) -> None:
    ours = Path("/proc/sys/net/ipv4/conf/default/arp_notify").read_text()
    netns.run_in(pod.scratch.path, announce_changes, "eth0", {4, 6})
    netns.run_in(pod.scratch.path, ensure_sysctl, "ipv4/conf/eth0/forwarding", "1")
    assert (pod.in_it("ipv4/conf/eth0/arp_notify"), pod.in_it("ipv6/conf/eth0/ndisc_notify")) == ("1", "1")
    assert pod.in_it("ipv4/conf/eth0/forwarding") == "1"
    assert Path("/proc/sys/net/ipv4/conf/default/arp_notify").read_text() == ours
    with pytest.raises(OSError, match="eth9"):
        netns.run_in(pod.scratch.path, ensure_sysctl, "ipv4/conf/eth9/forwarding", "1")


def test_a_namespace_is_told_from_other_files(pod: Pod, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path, expected in ((pod.scratch.path, True), (tmp_path / "file", False), (Path("/proc/self/ns/mnt"), False)):
        descriptor = os.open(path, os.O_RDONLY)
        assert netns.is_network_namespace(descriptor) is expected
        os.close(descriptor)


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
