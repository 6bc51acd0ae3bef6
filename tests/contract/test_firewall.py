"""Every kind of firewall gives real packets the same verdicts and keeps the contract of `masquerade.Firewall`; needs root."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, suppress
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path

import pytest

from contract.firewall_world import CLIENT, GATEWAY, GROUP, OUTSIDE, POD, REMOTE_POD, UPLINK, World, make_world
from flanneld.firewall import clear_other, open_firewall
from flanneld.firewall.iptables import IptablesFirewall
from flanneld.firewall.nftables import NftablesFirewall
from flanneld.lease import IPNetwork
from flanneld.linux import nft
from flanneld.linux.netns import run_in
from flanneld.masquerade import Firewall, FirewallError, FirewallMissing, Policy, Rule, RuleSet, Verdict, plan

pytestmark = pytest.mark.root

NETWORKS: tuple[IPNetwork, ...] = (ip_network("10.77.0.0/16"), ip_network("fd77::/48"))
OWN: tuple[IPNetwork, ...] = (ip_network("10.77.1.0/24"), ip_network("fd77:0:0:1::/64"))
RULES = plan(NETWORKS, OWN, Policy(masquerade=True))

each_kind = pytest.mark.parametrize("kind", ["nftables", "iptables-nft", "iptables-legacy"], indirect=True)
each_iptables = pytest.mark.parametrize("kind", ["iptables-nft", "iptables-legacy"], indirect=True)
nftables_only = pytest.mark.parametrize("kind", ["nftables"], indirect=True)


@dataclass(frozen=True)
class Kind:
    """One kind of firewall on the host of a world."""

    world: World
    make: Callable[[str], Firewall]

    def open(self, instance: str = "") -> Firewall:
        return run_in(self.world.host, self.make, instance)

    def apply(self, firewall: Firewall, rules: tuple[RuleSet, ...] = RULES) -> bool:
        return self.world.wait_for(firewall.apply(rules))


@pytest.fixture(scope="module")
def module_world() -> Iterator[World]:
    with make_world() as world:
        yield world


@pytest.fixture
def world(module_world: World) -> Iterator[World]:
    """A host without any rule."""
    yield module_world
    module_world.wipe()


@pytest.fixture
def kind(request: pytest.FixtureRequest, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Kind:
    if request.param == "nftables":
        return Kind(world, NftablesFirewall)
    variant = request.param.removeprefix("iptables-")
    for name in (f"{program}{suffix}" for program in ("iptables", "ip6tables") for suffix in ("", "-save", "-restore")):
        target = shutil.which(name.replace("tables", f"tables-{variant}"))
        (tmp_path / name).symlink_to(target or pytest.skip(f"{name} has no {variant} variant here"))
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return Kind(world, IptablesFirewall)


def sources_seen(world: World, v: int) -> dict[str, str]:
    """The source that each sort of packet arrives with; `v` is 0 for IPv4 and 1 for IPv6."""
    pod, host, away, seen = world.pod, world.host, world.away, world.source_seen
    return {
        "pod to outside": seen(pod, POD[v], away, OUTSIDE[v]),
        "pod to remote pod": seen(pod, POD[v], away, REMOTE_POD[v]),
        "pod to host": seen(pod, POD[v], host, UPLINK[v]),
        "remote pod to pod": seen(away, REMOTE_POD[v], pod, POD[v]),
        "outside to pod": seen(away, OUTSIDE[v], pod, POD[v]),
        "host to pod": seen(host, CLIENT[v], pod, POD[v]),
        "host to remote pod": seen(host, CLIENT[v], away, REMOTE_POD[v]),
        "host to outside": seen(host, CLIENT[v], away, OUTSIDE[v]),
        "gateway to remote pod": seen(host, GATEWAY[v], away, REMOTE_POD[v]),
        "gateway to multicast": seen(host, GATEWAY[v], away, GROUP[v]),
        "marked by kube-proxy": seen(host, GATEWAY[v], away, OUTSIDE[v], 0x4000),
        "marked by kube-proxy and another": seen(host, GATEWAY[v], away, OUTSIDE[v], 0xC000),
        "marked by another": seen(host, GATEWAY[v], away, OUTSIDE[v], 0x8000),
    }


def true_sources(v: int) -> dict[str, str]:
    return {
        **dict.fromkeys(("pod to outside", "pod to remote pod", "pod to host"), POD[v]),
        **dict.fromkeys(("host to pod", "host to remote pod", "host to outside"), CLIENT[v]),
        **dict.fromkeys(("gateway to remote pod", "gateway to multicast"), GATEWAY[v]),
        **dict.fromkeys(("marked by kube-proxy", "marked by kube-proxy and another", "marked by another"), GATEWAY[v]),
        "remote pod to pod": REMOTE_POD[v],
        "outside to pod": OUTSIDE[v],
    }


@each_kind
@pytest.mark.parametrize("v", [0, 1], ids=["ipv4", "ipv6"])
def test_packets_keep_or_lose_their_source_as_flannels_rules_say(world: World, kind: Kind, v: int) -> None:
    firewall = kind.open()
    assert sources_seen(world, v) == true_sources(v)
    assert kind.apply(firewall)
    masqueraded = dict.fromkeys(("pod to outside", "host to remote pod", "marked by another"), UPLINK[v])
    assert sources_seen(world, v) == true_sources(v) | masqueraded


@each_kind
def test_apply_twice_is_apply_once(world: World, kind: Kind) -> None:
    firewall = kind.open()
    assert kind.apply(firewall)
    before = world.rules()
    assert not kind.apply(firewall)
    assert not kind.apply(kind.open()), "a daemon that starts again adopts what it finds"
    assert world.rules() == before


@each_kind
def test_stale_rules_of_an_earlier_subnet_and_family_vanish(world: World, kind: Kind) -> None:
    firewall = kind.open()
    kind.apply(firewall)
    assert kind.apply(firewall, plan(NETWORKS[:1], (ip_network("10.77.9.0/24"),), Policy(masquerade=True)))
    rules = world.rules()
    assert "10.77.9.0/24" in rules
    assert "10.77.1.0/24" not in rules
    assert "fd77" not in rules


@each_kind
def test_masquerade_and_forward_rules_come_and_go_apart(world: World, kind: Kind) -> None:
    firewall = kind.open()
    kind.apply(firewall, plan(NETWORKS, OWN, Policy(masquerade=False)))
    assert world.source_seen(world.pod, POD[0], world.away, OUTSIDE[0]) == POD[0]
    kind.apply(firewall, plan(NETWORKS, OWN, Policy(masquerade=True, forward=False)))
    assert world.source_seen(world.pod, POD[0], world.away, OUTSIDE[0]) == UPLINK[0]
    assert "flanneld forward" not in world.rules()


@each_kind
def test_clear_removes_ours_and_nothing_else(world: World, kind: Kind) -> None:
    world.run(
        "nft", "add table ip other { flags dormant; }; add chain ip other postrtg { type nat hook postrouting priority 100; }"
    )
    world.run("iptables", "-t", "nat", "-A", "POSTROUTING", "-s", "203.0.113.0/24", "-j", "RETURN")

    def others() -> str:
        return world.run("nft", "list", "table", "ip", "other") + world.run("iptables", "-t", "nat", "-S")

    before, firewall = others(), kind.open()
    kind.apply(firewall)
    assert "10.77.1.0/24" in world.rules()
    for _ in range(2):
        world.wait_for(firewall.clear())
    assert "flannel" not in world.rules().lower()
    assert others() == before


@each_kind
def test_instances_on_one_host_do_not_touch_each_other(world: World, kind: Kind) -> None:
    first, second = kind.open(), kind.open("a1b2c3d4e5f6")
    other = plan([ip_network("10.88.0.0/16")], (ip_network("10.88.1.0/24"),), Policy(masquerade=True))
    assert kind.apply(first)
    assert kind.apply(second, other)
    assert not kind.apply(first)
    world.wait_for(first.clear())
    assert not kind.apply(second, other)


@each_kind
def test_no_packet_slips_through_while_rules_are_replaced(world: World, kind: Kind) -> None:
    firewall = kind.open()
    kind.apply(firewall)
    with ThreadPoolExecutor(1) as thread:
        for index in range(10):
            policy = Policy(masquerade=True, fully_random=bool(index % 2))
            replaced = thread.submit(kind.apply, firewall, plan(NETWORKS, OWN, policy))
            while not replaced.done():
                assert world.source_seen(world.pod, POD[0], world.away, OUTSIDE[0]) == UPLINK[0]
            assert replaced.result()


@pytest.mark.parametrize("kind", ["nftables", "iptables-nft"], indirect=True)
def test_rules_come_back_after_a_flush_and_our_own_writes_do_not_wake_us_for_ever(world: World, kind: Kind) -> None:
    applied = world.wait_for(keep_through_flush(world, kind.open()))
    assert applied.count(True) == 2
    assert len(applied) < 8


async def keep_through_flush(world: World, firewall: Firewall) -> list[bool]:
    """What each `apply` said that the firewall's notices asked for; ends when no notice comes any more."""
    applied: list[bool] = []
    async with aclosing(firewall.changes()) as changes:
        with suppress(TimeoutError):
            while True:
                async with asyncio.timeout(10 * nft.SETTLE_S):
                    await anext(changes)
                applied.append(await firewall.apply(RULES))
                if len(applied) == 1:
                    await asyncio.to_thread(world.run, "nft", "flush", "ruleset")
    return applied


def test_notices_lost_to_a_full_buffer_count_as_a_change(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    small = run_in(world.host, nft._netfilter_socket)
    small.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    monkeypatch.setattr(nft, "_netfilter_socket", lambda: small)

    async def hear() -> None:
        async with aclosing(nft.nft_changes(lambda change: False)) as changes, asyncio.timeout(20):
            await anext(changes)
            await asyncio.to_thread(world.run, "nft", "-f", "-", given="".join(f"add table ip t{n}\n" for n in range(200)))
            await anext(changes)

    asyncio.run(hear())


@each_iptables
def test_iptables_s_prints_flannels_golden_rules(world: World, kind: Kind) -> None:
    kind.apply(kind.open())
    masq = '-m comment --comment "flanneld masq" -j'
    assert world.run("ip6tables", "-t", "nat", "-S").splitlines()[4:] == [
        "-N FLANNEL-POSTRTG",
        f"-A POSTROUTING {masq} FLANNEL-POSTRTG",
        f"-A FLANNEL-POSTRTG -m mark --mark 0x4000/0x4000 {masq} RETURN",
        f"-A FLANNEL-POSTRTG -s fd77:0:0:1::/64 -d fd77::/48 {masq} RETURN",
        f"-A FLANNEL-POSTRTG -s fd77::/48 -d fd77:0:0:1::/64 {masq} RETURN",
        f"-A FLANNEL-POSTRTG ! -s fd77::/48 -d fd77:0:0:1::/64 {masq} RETURN",
        f"-A FLANNEL-POSTRTG -s fd77::/48 ! -d ff00::/8 {masq} MASQUERADE --random-fully",
        f"-A FLANNEL-POSTRTG ! -s fd77::/48 -d fd77::/48 {masq} MASQUERADE --random-fully",
    ]
    assert world.run("iptables", "-S").splitlines()[3:] == [
        "-N FLANNEL-FWD",
        '-A FORWARD -m comment --comment "flanneld forward" -j FLANNEL-FWD',
        '-A FLANNEL-FWD -s 10.77.0.0/16 -m comment --comment "flanneld forward" -j ACCEPT',
        '-A FLANNEL-FWD -d 10.77.0.0/16 -m comment --comment "flanneld forward" -j ACCEPT',
    ]


@each_iptables
@pytest.mark.parametrize(
    "damage",
    [
        ("-F", "FLANNEL-POSTRTG"),
        ("-D", "FLANNEL-POSTRTG", "1"),
        ("-I", "FLANNEL-POSTRTG", "-j", "RETURN"),
        ("-F", "POSTROUTING"),
        ("-A", "POSTROUTING", "-m", "comment", "--comment", "flanneld masq", "-j", "FLANNEL-POSTRTG"),
    ],
    ids=" ".join,
)
def test_damage_in_iptables_is_repaired(world: World, kind: Kind, damage: tuple[str, ...]) -> None:
    firewall = kind.open()
    kind.apply(firewall)
    golden = world.run("iptables", "-t", "nat", "-S")
    world.run("iptables", "-t", "nat", *damage)
    assert kind.apply(firewall)
    assert world.run("iptables", "-t", "nat", "-S") == golden


@each_iptables
def test_forward_rules_open_a_host_whose_policy_is_drop(world: World, kind: Kind) -> None:
    world.run("iptables", "-P", "FORWARD", "DROP")
    with pytest.raises(TimeoutError):
        world.source_seen(world.pod, POD[0], world.away, REMOTE_POD[0], wait_s=0.5)
    kind.apply(kind.open())
    assert world.source_seen(world.pod, POD[0], world.away, REMOTE_POD[0]) == POD[0]


@nftables_only
@pytest.mark.parametrize(
    "damage",
    [
        "flush table ip flannel-ipv4",
        "delete table ip flannel-ipv4",
        "insert rule ip flannel-ipv4 postrtg return",
        "add chain ip flannel-ipv4 mine; add rule ip flannel-ipv4 mine drop",
        "add table ip flannel-ipv4 { flags dormant; }",
    ],
)
def test_damage_in_nftables_is_repaired(world: World, kind: Kind, damage: str) -> None:
    firewall = kind.open()
    kind.apply(firewall)
    golden = world.run("nft", "list", "table", "ip", "flannel-ipv4")
    world.run("nft", damage)
    assert kind.apply(firewall)
    assert world.run("nft", "list", "table", "ip", "flannel-ipv4") == golden


@nftables_only
def test_go_flannels_tables_are_taken_over(world: World, kind: Kind) -> None:
    chain = 'chain postrtg { comment "by flannel"; type nat hook postrouting priority srcnat; meta mark 0x4000 return; }'
    world.run("nft", f'table ip flannel-ipv4 {{ comment "rules for flannel-ipv4"; {chain}; }}')
    firewall = kind.open()
    assert kind.apply(firewall)
    assert "by flannel" not in world.rules()
    assert not kind.apply(firewall)


@each_kind
def test_the_other_kinds_leftovers_go_when_the_kind_changes(world: World, kind: Kind) -> None:
    other = IptablesFirewall if kind.make is NftablesFirewall else NftablesFirewall
    kind.apply(Kind(world, other).open())
    firewall = kind.open()
    kind.apply(firewall)
    world.wait_for(clear_other(firewall))
    assert ("flannel-ipv4" in world.rules()) == (kind.make is NftablesFirewall)
    assert ("FLANNEL-" in world.rules()) == (kind.make is IptablesFirewall)


def test_without_iptables_there_is_nftables_and_a_warning(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PATH", "")
    firewall = run_in(world.host, open_firewall, False)
    assert isinstance(firewall, NftablesFirewall)
    assert [record.getMessage() for record in caplog.records] == ["iptables is missing, using nftables"]
    world.wait_for(clear_other(firewall))


def test_without_libnftables_the_error_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nft, "LIBRARY", "libnftables.so.0")
    nft._load_library.cache_clear()
    with pytest.raises(FirewallMissing, match="libnftables1"):
        open_firewall(enable_nftables=True)


@nftables_only
def test_what_nftables_refuses_is_an_error_that_says_why(kind: Kind) -> None:
    firewall = kind.open()
    with pytest.raises(FirewallError, match=r"flannel-ipv4.*: "):
        kind.apply(firewall, (RuleSet(4, forward=(Rule(Verdict.MASQUERADE),)),))


@each_iptables
def test_what_iptables_refuses_is_an_error_that_says_why(kind: Kind) -> None:
    with pytest.raises(FirewallError, match="iptables-restore ended with status"):
        kind.apply(kind.open(), (RuleSet(4, forward=(Rule(Verdict.MASQUERADE),)),))
