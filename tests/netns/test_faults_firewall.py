"""Rules come back within a second, whoever flushed them, and a change of their kind leaves nothing of the old one."""

from __future__ import annotations

import time
from collections.abc import Iterator
from ipaddress import ip_address

import pytest

from flanneld_world import NETWORK, World, eventually, flanneld_world, run
from lab.pods import LabHost
from traffic import meshed, seen_source, steady_ping

OUTSIDE = ip_address("203.0.113.2")
KINDS = {"nftables": True, "iptables": False}


@pytest.fixture
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    with flanneld_world(1) as up:
        up.configure({**NETWORK, "EnableNFTables": KINDS[request.param]})
        yield up


with_nftables = pytest.mark.parametrize("world", ["nftables"], indirect=True)
with_iptables = pytest.mark.parametrize("world", ["iptables"], indirect=True)


def rules(host: LabHost) -> tuple[str, str]:
    """What there is of ours, in nftables tables of our own and in iptables' chains."""
    tables = [table for table in run(host, "nft list tables").splitlines() if "flannel-ipv" in table]
    own = "".join(run(host, f"nft -s list {table}") for table in tables)
    saved = run(host, "iptables-save") + run(host, "ip6tables-save")
    return own, "\n".join(line for line in saved.splitlines() if "FLANNEL" in line)


def await_repair(host: LabHost, before: tuple[str, str], damage: str) -> None:
    began = time.monotonic()
    eventually(lambda: rules(host) == before, f"repair after {damage}", 5)
    print(f"{damage}: {(time.monotonic() - began) * 1000:.0f} ms, the looks themselves included")


@with_nftables
@pytest.mark.parametrize("damage", ["flush ruleset", "delete table ip flannel-ipv4", "flush chain ip flannel-ipv4 postrtg"])
def test_nftables_rules_come_back(world: World, damage: str) -> None:
    host = world.start("h1").ready().host
    before = rules(host)
    assert before[0]
    run(host, f"nft {damage}")
    await_repair(host, before, damage)


FIREWALLD = [
    f"{program} -t {table} {what}"
    for program in ("iptables", "ip6tables")
    for table in ("filter", "nat", "mangle", "raw")
    for what in ("-F", "-X")
]
"""What firewalld does at a reload with its iptables backend, as its log says with --debug."""


@with_iptables
@pytest.mark.parametrize(
    "damage",
    [
        ["iptables -F"],
        ["iptables -t nat -F", "iptables -t nat -X"],
        ["iptables -D FORWARD -m comment --comment flanneld/forward -j FLANNEL-FWD"],
        ["nft flush ruleset"],
        FIREWALLD,
    ],
    ids=["filter", "nat", "jump", "nft", "firewalld reload"],
)
def test_iptables_rules_come_back(world: World, damage: list[str]) -> None:
    host = world.start("h1").ready().host
    before = rules(host)
    assert before[1]
    for line in damage:
        argv = [word.replace("flanneld/forward", "flanneld forward") for word in line.split()]
        host.run(argv)
    await_repair(host, before, "; ".join(damage)[:60])


@pytest.mark.parametrize("world", KINDS, indirect=True)
def test_a_change_of_kind_leaves_nothing_of_the_old_and_no_gap(world: World) -> None:
    (pod,) = meshed(world)
    host, outside = world.lab.host("h1"), world.lab.outside
    before = rules(host)
    was_nftables = bool(before[0])
    with steady_ping(pod, OUTSIDE) as echoes:
        world.configure({**NETWORK, "EnableNFTables": not was_nftables})
        world.daemons[0].await_said("change applied")
    after = rules(host)
    assert [bool(kind) for kind in after] == [not was_nftables, was_nftables]
    assert seen_source(pod, outside, OUTSIDE) == "10.0.0.11"
    assert echoes.lost == 0
