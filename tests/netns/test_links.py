"""flanneld.linux.links and vxlan_device on the real kernel; iproute2 is the second opinion."""

from __future__ import annotations

import errno
import os
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from ipaddress import ip_address, ip_interface
from typing import Any

import pytest

from flanneld.kernel import IPInterface, KernelError, Link, VxlanLink
from flanneld.linux import links, netns, vxlan_device
from flanneld.linux.netlink import Netlink
from flanneld.linux.vxlan_device import ensure_vxlan
from scratch_netns import ScratchNetns, scratch_netns

MAC, NEW_MAC = "02:00:00:00:00:0a", "02:00:00:00:00:0b"
NODE, NODE6 = ip_interface("172.31.0.1/24"), ip_interface("fd31::1/64")
POD_ADDRESS = ip_interface("10.244.1.0/32")


@dataclass(frozen=True)
class Host:
    scratch: ScratchNetns
    netlink: Netlink
    uplink: Link

    def vxlan(self, **changes: Any) -> VxlanLink:
        wanted = VxlanLink("flannel.1", 1, NODE.ip, self.uplink.index, 8472, 1350, MAC, addresses=(POD_ADDRESS,))
        return replace(wanted, **changes)

    def details(self, name: str) -> dict[str, Any]:
        (found,) = self.scratch.read(f"ip link show {name}")
        return found

    def addresses(self, name: str) -> set[str]:
        (found,) = self.scratch.read(f"ip addr show {name}")
        return {f"{address['local']}/{address['prefixlen']}" for address in found["addr_info"] if address["scope"] == "global"}


def eventually(is_so: Callable[[], bool], patience_s: float = 5.0) -> bool:
    give_up_at = time.monotonic() + patience_s
    while not is_so() and time.monotonic() < give_up_at:
        time.sleep(0.01)
    return is_so()


@pytest.fixture
def host() -> Iterator[Host]:
    with scratch_netns() as scratch, netns.netlink_in(scratch.path) as netlink:
        uplink = links.ensure_bridge(netlink, "eth0", mtu=1500, mac=MAC)
        links.set_addresses(netlink, uplink.index, (NODE, NODE6))
        yield Host(scratch, netlink, uplink)


def test_a_link_is_found_by_name_or_not_at_all(host: Host) -> None:
    assert links.link(host.netlink, "eth0") == Link(host.uplink.index, "eth0", 1500, MAC, up=True, kind="bridge")
    assert links.link(host.netlink, "eth1") is None
    assert links.link(host.netlink, "a-name-that-is-too-long") is None
    assert {link.name for link in links.links(host.netlink)} == {"lo", "eth0"}


def test_a_bridge_keeps_its_mac_whatever_its_ports_have(host: Host) -> None:
    bridge = links.ensure_bridge(host.netlink, "cni0", mtu=1400)
    links.add_veth(host.netlink, "veth0", "eth9", mtu=1400, mac="00:00:00:00:00:01", port=links.Port(bridge.index))
    assert links.ensure_bridge(host.netlink, "cni0", mtu=1400, mac=NEW_MAC) == links.ensure_bridge(host.netlink, "cni0")
    assert links.present_link(host.netlink, "cni0").mac == bridge.mac


def test_a_bridge_gets_the_mtu_that_is_asked_for_or_keeps_its_own(host: Host) -> None:
    assert links.ensure_bridge(host.netlink, "cni0", mtu=1400).mtu == 1400
    host.scratch.ip("link set cni0 down")
    assert links.ensure_bridge(host.netlink, "cni0").mtu == 1400
    assert links.ensure_bridge(host.netlink, "cni0", mtu=1300).mtu == 1300
    assert links.present_link(host.netlink, "cni0").up


@pytest.mark.parametrize(("hairpin", "isolated"), [(True, False), (False, True)])
def test_a_veth_is_born_in_its_bridge_as_its_port_is_to_be(host: Host, hairpin: bool, isolated: bool) -> None:
    links.add_veth(host.netlink, "veth0", "eth9", mac=MAC, port=links.Port(host.uplink.index, hairpin, isolated))
    port = host.details("veth0")["linkinfo"]["info_slave_data"]
    assert (port["hairpin"], port["isolated"]) == (hairpin, isolated)
    assert (links.present_link(host.netlink, "veth0").up, host.details("veth0")["address"]) == (True, MAC)
    assert links.master_of(host.netlink, "veth0") == host.uplink.index
    assert links.master_of(host.netlink, "eth9") == links.master_of(host.netlink, "nothing") == 0


def test_a_veth_whose_port_is_refused_is_not_left(host: Host) -> None:
    lo = links.present_link(host.netlink, "lo").index
    with pytest.raises(KernelError, match="veth veth0 with peer eth9"):
        links.add_veth(host.netlink, "veth0", "eth9", port=links.Port(lo))
    assert {link.name for link in links.links(host.netlink)} == {"lo", "eth0"}


def test_a_pair_runs_when_both_ends_are_up(host: Host) -> None:
    links.add_veth(host.netlink, "veth0", "eth9", port=links.Port(host.uplink.index))
    assert not links.is_running(host.netlink, "veth0")
    host.scratch.ip("link set eth9 up")
    assert eventually(lambda: links.is_running(host.netlink, "veth0"))


def test_many_links_go_in_one_request_and_missing_ones_are_no_matter(host: Host) -> None:
    for n in range(20):
        links.add_veth(host.netlink, f"veth{n}", f"peer{n}")
    links.remove_links(host.netlink, [f"veth{n}" for n in range(19)] + ["nothing"])
    assert {link.name for link in links.links(host.netlink)} == {"lo", "eth0", "veth19", "peer19"}
    links.remove_links(host.netlink, ["nothing"])


def test_an_address_is_added_and_removed_as_often_as_one_likes(host: Host) -> None:
    address = ip_interface("fd31::7/64")
    for _ in range(2):
        links.add_address(host.netlink, host.uplink.index, address)
    assert address in links.addresses(host.netlink, host.uplink.index)
    for _ in range(2):
        links.remove_address(host.netlink, host.uplink.index, address)
    assert address not in links.addresses(host.netlink, host.uplink.index)


def test_routes_by_an_interface_are_told_of_the_main_table(host: Host) -> None:
    host.scratch.ip("route add 192.0.2.0/24 via 172.31.0.9")
    host.scratch.ip("route add 198.51.100.0/24 via 172.31.0.9 table 77")
    found = links.route_destinations(host.netlink, host.uplink.index)
    assert {str(network) for network in found} >= {"192.0.2.0/24", "172.31.0.0/24", "fd31::/64"}
    assert "198.51.100.0/24" not in map(str, found)


def test_a_bridge_cannot_take_another_devices_name(host: Host) -> None:
    links.add_veth(host.netlink, "cni0", "eth9")
    with pytest.raises(KernelError, match="there is a veth device of that name"):
        links.ensure_bridge(host.netlink, "cni0", mtu=1400)


def test_addresses_become_exactly_those_wanted_but_link_local_ones(host: Host) -> None:
    host.scratch.ip("addr add fe80::77/64 dev eth0 nodad")
    for wanted in (["172.31.0.7/24", "172.31.0.8/24", "fd31::7/64"], ["172.31.0.8/24", "fd31::8/64"], ["172.31.0.8/32"], []):
        links.set_addresses(host.netlink, host.uplink.index, [ip_interface(text) for text in wanted])
        assert host.addresses("eth0") == set(wanted)
    assert ip_interface("fe80::77/64") in links.addresses(host.netlink, host.uplink.index)


def test_the_addresses_of_a_missing_link_are_none(host: Host) -> None:
    assert links.addresses(host.netlink, 999) == ()


def test_a_veth_peer_is_born_in_its_namespace(host: Host) -> None:
    with scratch_netns() as pod, netns.netlink_in(pod.path) as inside:
        descriptor = os.open(pod.path, os.O_RDONLY)
        links.add_veth(host.netlink, "veth0", "eth0", peer_netns=descriptor, mtu=1450, mac=MAC, peer_mac=NEW_MAC)
        os.close(descriptor)
        born, ours = links.present_link(inside, "eth0"), links.present_link(host.netlink, "veth0")
    assert (born.mtu, born.mac, born.up) == (1450, NEW_MAC, False)
    assert (ours.mtu, ours.mac) == (1450, MAC)


def test_a_link_moves_and_is_renamed_on_the_way(host: Host) -> None:
    links.add_veth(host.netlink, "veth0", "veth1")
    with scratch_netns() as pod, netns.netlink_in(pod.path) as inside:
        descriptor = os.open(pod.path, os.O_RDONLY)
        links.set_link(host.netlink, links.present_link(host.netlink, "veth1").index, netns=descriptor, name="eth0", mac=MAC)
        os.close(descriptor)
        assert links.present_link(inside, "eth0").mac == MAC
    assert links.link(host.netlink, "veth1") is None


def test_a_refused_change_says_what_was_wanted(host: Host) -> None:
    with pytest.raises(KernelError, match=r"^kernel refused up True, mtu 1400 for link 999: no such device$"):
        links.set_link(host.netlink, 999, up=True, mtu=1400)


def test_removing_a_missing_link_does_nothing(host: Host) -> None:
    links.remove_link(host.netlink, "flannel.1")


@pytest.mark.parametrize(
    ("name", "local", "address"), [("flannel.1", NODE, "10.244.1.0/32"), ("flannel-v6.1", NODE6, "fd44::/128")]
)
def test_a_vxlan_device_is_made_as_flannel_makes_it(host: Host, name: str, local: IPInterface, address: str) -> None:
    link = ensure_vxlan(host.netlink, host.vxlan(name=name, local=local.ip, addresses=(ip_interface(address),)))
    assert (link.mac, link.mtu, link.up, link.kind) == (MAC, 1350, True, "vxlan")
    options = host.details(name)["linkinfo"]["info_data"]
    assert (options["id"], options["port"], options["link"], options["learning"]) == (1, 8472, "eth0", False)
    assert options["local" if local.version == 4 else "local6"] == str(local.ip)
    assert options["udp_csum"] is True
    assert host.addresses(name) == {address}


def test_a_vxlan_device_made_by_flannel_is_changed_and_not_made_anew(host: Host) -> None:
    host.scratch.ip(f"link add flannel.1 address {NEW_MAC} type vxlan id 1 local {NODE.ip} dev eth0 dstport 8472 nolearning")
    before = links.present_link(host.netlink, "flannel.1")
    after = ensure_vxlan(host.netlink, host.vxlan(mtu=1300, learning=True))
    assert (after.index, after.mac, after.mtu, after.up) == (before.index, MAC, 1300, True)
    assert host.details("flannel.1")["linkinfo"]["info_data"]["learning"] is True


@pytest.mark.parametrize(
    "changes",
    [{"vni": 2}, {"port": 4789}, {"gbp": True}, {"local": ip_address("172.31.0.9")}, {"local": NODE6.ip}],
    ids=["vni", "port", "gbp", "local address", "family"],
)
def test_a_vxlan_device_that_differs_is_made_anew(host: Host, changes: dict[str, Any]) -> None:
    before = ensure_vxlan(host.netlink, host.vxlan())
    after = ensure_vxlan(host.netlink, host.vxlan(mac=NEW_MAC, **changes))
    assert after.index != before.index
    assert after.mac == NEW_MAC


def test_a_vxlan_device_with_a_default_destination_is_made_anew(host: Host) -> None:
    host.scratch.ip(f"link add flannel.1 type vxlan id 1 local {NODE.ip} remote 172.31.0.9 dev eth0 dstport 8472 nolearning")
    assert ensure_vxlan(host.netlink, host.vxlan()).mac == MAC
    assert "remote" not in host.details("flannel.1")["linkinfo"]["info_data"]


def test_addresses_stay_when_none_are_asked_for(host: Host) -> None:
    ensure_vxlan(host.netlink, host.vxlan())
    ensure_vxlan(host.netlink, host.vxlan(addresses=None))
    assert host.addresses("flannel.1") == {str(POD_ADDRESS)}


def test_a_second_device_with_the_vni_and_port_is_refused_by_name(host: Host) -> None:
    host.scratch.ip("link add vx9 type vxlan id 1 dev eth0 dstport 8472")
    with pytest.raises(KernelError, match="vx9 has VNI 1 on port 8472 already") as refused:
        ensure_vxlan(host.netlink, host.vxlan())
    assert refused.value.errno == errno.EEXIST


def test_a_taken_port_is_refused_and_no_device_left(host: Host) -> None:
    with netns.run_in(host.scratch.path, socket.socket, socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("0.0.0.0", 8472))  # noqa: S104  # inside the namespace
        with pytest.raises(KernelError, match="UDP port 8472 is taken"):
            ensure_vxlan(host.netlink, host.vxlan())
    assert links.link(host.netlink, "flannel.1") is None


def test_an_mtu_that_the_uplink_cannot_carry_is_refused_and_no_device_left(host: Host) -> None:
    with pytest.raises(KernelError, match="mtu 9000"):
        ensure_vxlan(host.netlink, host.vxlan(mtu=9000))
    assert links.link(host.netlink, "flannel.1") is None


def test_a_kernel_without_vxlan_is_told_apart(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vxlan_device, "KIND", "no-such-kind")
    with pytest.raises(KernelError, match=r"this kernel has no vxlan \(modprobe vxlan\)") as refused:
        ensure_vxlan(host.netlink, host.vxlan())
    assert refused.value.errno == errno.EOPNOTSUPP
