"""Which interface flannel's flags choose, on a host with two uplinks."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path

import pytest

from flanneld.backend import Uplink
from flanneld.flags import read_options
from flanneld.kernel import Route
from flanneld.lease import Family
from flanneld.linux import links, netns
from flanneld.linux.kernel import LinuxKernel
from flanneld.linux.netlink import Netlink
from flanneld.linux.uplink import UplinkError, find_uplink

ADDRESSES = {
    "lo": ["127.0.0.1/8"],
    "up0": ["10.1.0.2/24", "10.1.0.3/24", "fd01::2/64"],
    "up1": ["10.2.0.2/24", "fd02::2/64"],
    "bare": [],
}


class Host:
    """A namespace with the interfaces of ADDRESSES."""

    def __init__(self, path: Path, nl: Netlink) -> None:
        self.path = path
        self.nl = nl
        links.add_veth(nl, "up0", "end0", mtu=1400)
        links.add_veth(nl, "up1", "end1")
        links.add_veth(nl, "bare", "end2")
        for link in links.links(nl):
            links.set_link(nl, link.index, up=True)
            links.set_addresses(nl, link.index, [ip_interface(text) for text in ADDRESSES.get(link.name, [])])

    def default_route(self, device: str, gateway: str, metric: int = 0) -> None:
        network = "0.0.0.0/0" if ip_address(gateway).version == 4 else "::/0"
        route = Route(ip_network(network), links.present_link(self.nl, device).index, ip_address(gateway), metric=metric)
        assert not LinuxKernel(self.nl).add([route])

    def ip(self, *words: str) -> None:
        netns.run_in(self.path, lambda: subprocess.run(["ip", *words], check=True))

    def uplink(self, *flags: str, families: Sequence[Family] = (4,)) -> Uplink:
        return find_uplink(self.nl, read_options(flags, {}), families)

    def choice(self, *flags: str, families: Sequence[Family] = (4,)) -> tuple[str, ...]:
        found = self.uplink(*flags, families=families)
        return (found.name, *(str(address.ip) for address in found.addresses))

    def refusal(self, *flags: str, families: Sequence[Family] = (4,)) -> str:
        with pytest.raises(UplinkError) as refused:
            self.uplink(*flags, families=families)
        assert "; this host has lo (no address)" in str(refused.value)
        return str(refused.value).partition("; this host has")[0]


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    path = tmp_path / "netns"
    netns.create(path)
    try:
        with netns.netlink_in(path) as nl:
            yield Host(path, nl)
    finally:
        netns.delete(path)


def test_iface_takes_a_name_or_an_ip_which_is_then_the_address(host: Host) -> None:
    assert host.choice("--iface=up1") == ("up1", "10.2.0.2")
    assert host.choice("--iface=10.1.0.3") == ("up0", "10.1.0.3")
    assert host.choice("--iface=fd01::2", families=(4, 6)) == ("up0", "10.1.0.2", "fd01::2")


def test_uplink_carries_index_mtu_prefix_and_public_ips(host: Host) -> None:
    found = host.uplink("--iface=up0", "--public-ip=192.0.2.1", families=(4, 6))
    index = links.present_link(host.nl, "up0").index
    addresses = (ip_interface("10.1.0.2/24"), ip_interface("fd01::2/64"))
    assert found == Uplink("up0", index, 1400, addresses, (ip_address("192.0.2.1"), ip_address("fd01::2")))


def test_first_iface_that_fits_is_taken_then_regexes_then_can_reach(host: Host) -> None:
    assert host.choice("--iface=none", "--iface=bare", "--iface=up1", "--iface=up0") == ("up1", "10.2.0.2")
    assert host.choice("--iface=none", "--iface-regex=^up1$") == ("up1", "10.2.0.2")
    assert host.choice("--iface-regex=^none$", "--iface-regex=^up") == ("up0", "10.1.0.2")
    assert host.choice("--iface-regex=^none$", "--iface-can-reach=10.2.0.9") == ("up1", "10.2.0.2")


def test_regex_is_looked_for_in_ips_before_names(host: Host) -> None:
    assert host.choice(r"--iface-regex=^10\.1\..*3|up1") == ("up0", "10.1.0.3")
    assert host.choice("--iface-regex=^fd02", families=(6,)) == ("up1", "fd02::2")
    assert host.choice("--iface-regex=.") == ("up0", "10.1.0.2")


def test_public_ip_alone_means_the_interface_that_owns_it(host: Host) -> None:
    host.default_route("up1", "10.2.0.1")
    assert host.choice("--public-ip=10.1.0.3") == ("up0", "10.1.0.3")
    assert host.choice("--public-ip=10.1.0.3", "--public-ipv6=fd01::2", families=(4, 6)) == ("up0", "10.1.0.3", "fd01::2")
    assert host.choice("--public-ipv6=fd01::2") == ("up1", "10.2.0.2")


def test_default_route_of_the_best_metric_decides_without_flags(host: Host) -> None:
    host.default_route("up0", "10.1.0.1", metric=200)
    host.default_route("up1", "10.2.0.1", metric=100)
    assert host.choice() == ("up1", "10.2.0.2")
    host.default_route("up1", "fd02::1", metric=2000)
    host.default_route("up0", "fd01::1")
    assert host.choice(families=(6,)) == ("up0", "fd01::2")


def test_dual_stack_default_routes_must_share_an_interface(host: Host) -> None:
    host.default_route("up0", "10.1.0.1")
    host.default_route("up1", "fd02::1")
    assert (
        host.refusal(families=(4, 6)) == "the default route is by up0 for IPv4 and up1 for IPv6, expected one interface, or iface"
    )
    host.default_route("up0", "fd01::1", metric=1)
    assert host.choice(families=(4, 6)) == ("up0", "10.1.0.2", "fd01::2")


def test_address_is_global_before_link_local_and_not_deprecated(host: Host) -> None:
    host.ip("address", "flush", "dev", "up0")
    host.ip("address", "add", "169.254.1.1/16", "scope", "link", "dev", "up0")
    assert host.choice("--iface=up0") == ("up0", "169.254.1.1")
    host.ip("address", "add", "10.1.0.8/24", "dev", "up0", "preferred_lft", "0", "valid_lft", "600")
    host.ip("address", "add", "10.1.0.9/24", "dev", "up0")
    assert host.choice("--iface=up0") == ("up0", "10.1.0.9")


@pytest.mark.parametrize(
    ("flags", "families", "message"),
    [
        (["--iface=eth9"], (4,), "iface eth9: no such interface"),
        (["--iface=10.9.9.9"], (4,), "no interface has the address 10.9.9.9"),
        (["--iface=lo"], (4,), "interface lo has no IPv4 address"),
        (["--iface=bare"], (4, 6), "interface bare has no IPv4 address"),
        (["--iface=bare", "--iface=x"], (4,), "interface bare has no IPv4 address; iface x: no such interface"),
        (["--iface-regex=^eth9"], (4,), "iface-regex '^eth9': no IP and no interface matches"),
        (
            ["--iface-can-reach=192.0.2.1"],
            (4,),
            "iface-can-reach 192.0.2.1: kernel refused lookup of 192.0.2.1: no route to 192.0.2.1",
        ),
        (["--iface-can-reach=10.1.0.2"], (4,), "iface-can-reach 10.1.0.2: expected another host, got an address of this one"),
        (["--public-ip=192.0.2.1"], (4,), "no interface has the address 192.0.2.1 (public-ip); behind a NAT, expected iface too"),
        (
            ["--public-ip=10.1.0.2", "--public-ipv6=fd02::2"],
            (4, 6),
            "10.1.0.2 is on up0 but fd02::2 on up1, expected one interface",
        ),
        ([], (4,), "there is no IPv4 default route, expected one, or iface"),
        ([], (6,), "there is no IPv6 default route, expected one, or iface"),
    ],
)
def test_refusals_name_what_was_asked_and_what_there_is(
    host: Host, flags: list[str], families: Sequence[Family], message: str
) -> None:
    assert host.refusal(*flags, families=families) == message


def test_default_route_with_several_next_hops_needs_iface(host: Host) -> None:
    host.ip("route", "add", "default", "nexthop", "via", "10.1.0.1", "nexthop", "via", "10.2.0.1")
    assert host.refusal() == "the IPv4 default route has several next hops, expected iface"
