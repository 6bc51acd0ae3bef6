"""`flanneld --dry-run` says what a start would change, and changes nothing."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from flanneld_world import NETWORK, PREFIX, World, flanneld_world, hostgw_lease, own_subnet, run, traces, vxlan_lease
from lab.daemon import PROGRAM

PEER = ("10.0.0.99", "0e:00:00:00:00:02")


@pytest.fixture
def world() -> Iterator[World]:
    with flanneld_world(1) as up:
        up.etcd.put(f"{PREFIX}/subnets/10.244.9.0-24", vxlan_lease(*PEER))
        yield up


def planned(world: World, *flags: str) -> list[str]:
    """What it prints; nothing on the host or in etcd is different afterwards."""
    host = world.lab.host("h1")
    before = (traces(host), world.etcd.keys(), run(host, "ip -d addr"), run(host, "ip route show table all"))
    ended = host.run([*PROGRAM, "--dry-run", "--ip-masq", "--iface=eth0", *flags])
    assert (traces(host), world.etcd.keys(), run(host, "ip -d addr"), run(host, "ip route show table all")) == before
    return ended.stdout.splitlines()


def test_on_a_fresh_host_everything_is_to_be_made(world: World) -> None:
    lines = planned(world)
    assert lines[0].startswith("lease 10.244.")
    assert lines[0].endswith("create")
    assert lines[1:5] == [
        "device flannel.1: make",
        "add fdb entry 0e:00:00:00:00:02 to 10.0.0.99 on flannel.1",
        "add neighbour 10.244.9.0 at 0e:00:00:00:00:02 on flannel.1",
        "add unicast route 10.244.9.0/24 via 10.244.9.0 on flannel.1",
    ]
    assert [line.split(":")[0] for line in lines[5:]] == ["nftables table ip flannel-ipv4", "/run/flannel/subnet.env"]


def test_beside_a_daemon_there_is_nothing_to_change(world: World) -> None:
    world.start("h1").ready()
    assert planned(world) == ["nothing would change"]


def test_what_is_amiss_is_named_piece_by_piece(world: World) -> None:
    one = world.start("h1").ready()
    subnet = own_subnet(one.host)
    one.end(signal.SIGKILL)
    for line in ("ip link set flannel.1 mtu 1300", "ip route replace 10.244.9.0/24 via 10.0.0.1 proto 84", "nft flush ruleset"):
        run(one.host, line)
    world.etcd.put(f"{PREFIX}/subnets/{subnet}-24", hostgw_lease("10.0.0.11"))
    lines = planned(world)
    assert lines[0].startswith(f"lease {subnet}/24: publish ")
    assert lines[1:] == [
        "device flannel.1: MTU 1300 -> 1450",
        "add unicast route 10.244.9.0/24 via 10.244.9.0 on flannel.1",
        "remove unicast route 10.244.9.0/24 via 10.0.0.1 on eth0",
        "nftables table ip flannel-ipv4: replace",
    ]


def test_iptables_rules_are_shown_as_they_would_be_given(world: World) -> None:
    world.configure({**NETWORK, "EnableNFTables": False})
    assert 'iptables: -A FORWARD -m comment --comment "flanneld forward" -j FLANNEL-FWD' in planned(world)


def test_what_would_keep_it_from_starting_is_said(world: World) -> None:
    ended = world.lab.host("h1").run([*PROGRAM, "--dry-run", "--iface=eth7"], check=False)
    assert (ended.returncode, "iface eth7: no such interface" in ended.stderr) == (1, True)
