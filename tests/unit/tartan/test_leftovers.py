"""What is flannel's on a host, and what only looks like it."""

from __future__ import annotations

from ipaddress import ip_address, ip_interface, ip_network

import pytest

from flanneld.kernel import Link, Route, RouteKind
from flanneld.subnet_env import SubnetEnv
from tartan.leftovers.kernel import is_flannels, is_to_peer
from tartan.leftovers.rules import our_chains, removal, stray
from tartan.running import arguments_of

ENV = SubnetEnv((ip_network("10.244.0.0/16"),), (ip_network("10.244.1.0/24"),), 1450, ip_masq=True)
UPLINK = (ip_interface("10.0.0.11/24"),)


@pytest.mark.parametrize(
    ("name", "kind", "is_ours"),
    [
        ("flannel.1", "vxlan", True),
        ("flannel-v6.4096", "vxlan", True),
        ("flannel0", "tun", True),
        ("flannel-wg", "wireguard", True),
        ("flannel-wg-v6", "wireguard", True),
        ("flannel.ipip", "ipip", True),
        ("flannel.1", "bridge", False),
        ("flannel.1x", "vxlan", False),
        ("flannel", "tun", False),
        ("vxlan.calico", "vxlan", False),
    ],
)
def test_a_device_is_flannels_by_name_and_kind(name: str, kind: str, is_ours: bool) -> None:
    assert is_flannels(Link(7, name, 1450, "0e:00:00:00:00:01", kind=kind)) is is_ours


@pytest.mark.parametrize(
    ("route", "is_peers"),
    [
        (Route(ip_network("10.244.2.0/24"), 2, ip_address("10.0.0.12")), True),
        (Route(ip_network("10.244.1.0/24"), 2, ip_address("10.0.0.12")), False),  # our own subnet
        (Route(ip_network("10.244.2.0/25"), 2, ip_address("10.0.0.12")), False),  # no host has a subnet of that length
        (Route(ip_network("10.99.2.0/24"), 2, ip_address("10.0.0.12")), False),
        (Route(ip_network("10.244.2.0/24"), 2, ip_address("10.9.0.12")), False),  # no neighbour
        (Route(ip_network("10.244.2.0/24"), 2), False),
        (Route(ip_network("10.244.2.0/24"), kind=RouteKind.BLACKHOLE), False),
    ],
)
def test_a_route_to_a_peer_is_known_by_what_only_such_a_route_is(route: Route, is_peers: bool) -> None:
    assert is_to_peer(route, ENV, UPLINK) is is_peers
    assert not is_to_peer(route, None, UPLINK)


SAVED = [
    ":POSTROUTING ACCEPT [0:0]",
    ":FLANNEL-POSTRTG - [0:0]",
    ":FLANNEL-POSTRTG-0a1b2c - [0:0]",
    ":FLANNEL-OTHERS - [0:0]",
    '-A POSTROUTING -m comment --comment "flanneld masq" -j FLANNEL-POSTRTG',
    '-A POSTROUTING -s 10.244.0.0/16 ! -d 224.0.0.0/4 -m comment --comment "flanneld masq" -j MASQUERADE',
    "-A POSTROUTING -s 10.244.0.0/16 -j MASQUERADE",
    '-A FLANNEL-POSTRTG -m comment --comment "flanneld masq" -j RETURN',
]


def test_chains_are_flannels_by_name_and_go_with_their_jumps() -> None:
    assert our_chains(SAVED) == ["FLANNEL-POSTRTG", "FLANNEL-POSTRTG-0a1b2c"]
    jump = '-D POSTROUTING -m comment --comment "flanneld masq" -j FLANNEL-POSTRTG'
    assert removal(SAVED, "FLANNEL-POSTRTG") == [":FLANNEL-POSTRTG - [0:0]", jump, "-X FLANNEL-POSTRTG"]


def test_rules_of_early_releases_are_known_by_their_comment() -> None:
    assert stray(SAVED) == ["-D" + SAVED[5].removeprefix("-A")]
    assert stray(SAVED[:5]) == []


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        (["/opt/bin/flanneld", "-iface=eth0"], ("-iface=eth0",)),
        (["python3", "-P", "-m", "flanneld", "--ip-masq"], ("--ip-masq",)),
        (["/venv/bin/python3.11", "/venv/bin/flanneld"], ()),
        (["vim", "flanneld"], None),
        (["python3", "test.py", "flanneld"], None),
        (["sh", "-c", "flanneld"], None),
        ([], None),
    ],
)
def test_a_flanneld_is_known_by_its_command_line(command: list[str], arguments: tuple[str, ...] | None) -> None:
    assert arguments_of(command) == arguments
