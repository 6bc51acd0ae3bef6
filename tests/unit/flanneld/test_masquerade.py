"""The rules as values, and what each firewall makes of them as text; packets prove them in tests/contract/test_firewall.py."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from contextlib import suppress
from ipaddress import IPv4Address, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flanneld.firewall.iptables import TARGETS, Place, parse_save, render_rule, repair
from flanneld.firewall.nftables import render_table
from flanneld.lease import IPAddress
from flanneld.linux.message import MalformedMessage, Message, attribute, text
from flanneld.linux.nft import NftChange, decode_changes
from flanneld.masquerade import Chain, Policy, Rule, RuleSet, Side, Verdict, plan

NETWORK, OWN = ip_network("10.77.0.0/16"), ip_network("10.77.1.0/24")
NETWORK6, OWN6 = ip_network("fd77::/48"), ip_network("fd77:0:0:1::/64")
ALL = Policy(masquerade=True)
NAT = Place("nat", "POSTROUTING", "FLANNEL-POSTRTG", "flanneld masq")


def settle(rules: Sequence[Rule], source: str, destination: str, mark: int = 0) -> Verdict:
    """What the rules do with a packet; the end of the chain is a RETURN."""
    ends = ip_address(source), ip_address(destination)
    return next((rule.verdict for rule in rules if _matches(rule, *ends, mark)), Verdict.RETURN)


def _matches(rule: Rule, source: IPAddress, destination: IPAddress, mark: int) -> bool:
    sides: list[tuple[Side | None, IPAddress]] = [(rule.source, source), (rule.destination, destination)]
    return mark & rule.mark == rule.mark and all((address in side.network) == side.inside for side, address in sides if side)


@pytest.mark.parametrize(
    ("source", "destination", "mark", "masqueraded"),
    [
        ("10.77.1.2", "192.0.2.1", 0, True),
        ("10.77.1.2", "10.77.2.2", 0, False),
        ("10.77.2.2", "10.77.1.2", 0, False),
        ("192.0.2.1", "10.77.1.2", 0, False),
        ("192.0.2.1", "10.77.2.2", 0, True),
        ("192.0.2.1", "198.51.100.1", 0, False),
        ("10.77.1.2", "239.1.1.1", 0, False),
        ("10.77.1.2", "192.0.2.1", 0x4000, False),
        ("10.77.1.2", "192.0.2.1", 0xC000, False),
        ("10.77.1.2", "192.0.2.1", 0x8000, True),
    ],
)
def test_only_what_leaves_the_pod_network_or_enters_it_for_elsewhere_is_masqueraded(
    source: str, destination: str, mark: int, masqueraded: bool
) -> None:
    (rules,) = plan([NETWORK], (OWN,), ALL)
    expected = Verdict.MASQUERADE_FULLY_RANDOM if masqueraded else Verdict.RETURN
    assert settle(rules.postrouting, source, destination, mark) is expected


@given(st.ip_addresses(v=4), st.integers(0, 255), st.integers(0, 1 << 32))
def test_our_pods_always_see_who_called_them(source: IPv4Address, pod: int, mark: int) -> None:
    (rules,) = plan([NETWORK], (OWN,), ALL)
    assert settle(rules.postrouting, str(source), str(OWN[pod]), mark) is Verdict.RETURN


def test_both_families_get_the_same_rules() -> None:
    four, six = plan([NETWORK, NETWORK6], (OWN, OWN6), ALL)
    assert (four.family, six.family) == (4, 6)
    for v4, v6 in zip((*four.postrouting, *four.forward), (*six.postrouting, *six.forward), strict=True):
        assert (v4.verdict, v4.mark) == (v6.verdict, v6.mark)


def test_what_is_not_asked_for_has_no_rules() -> None:
    assert plan([NETWORK], (OWN,), Policy(masquerade=False, forward=False)) == (RuleSet(4),)
    (rules,) = plan([NETWORK], (OWN,), Policy(masquerade=True, forward=False, fully_random=False))
    assert not rules.forward
    assert Verdict.MASQUERADE_FULLY_RANDOM not in {rule.verdict for rule in rules.postrouting}


def golden() -> list[str]:
    """Go flannel's rules as its own end-to-end test expects them from `iptables -S`."""
    lines = (
        "-m mark --mark 0x4000/0x4000 {masq} -j RETURN",
        "-s 10.77.1.0/24 -d 10.77.0.0/16 {masq} -j RETURN",
        "-s 10.77.0.0/16 -d 10.77.1.0/24 {masq} -j RETURN",
        "! -s 10.77.0.0/16 -d 10.77.1.0/24 {masq} -j RETURN",
        "-s 10.77.0.0/16 ! -d 224.0.0.0/4 {masq} -j MASQUERADE --random-fully",
        "! -s 10.77.0.0/16 -d 10.77.0.0/16 {masq} -j MASQUERADE --random-fully",
    )
    return ["-A FLANNEL-POSTRTG " + line.format(masq='-m comment --comment "flanneld masq"') for line in lines]


def test_the_iptables_text_is_flannels() -> None:
    (rules,) = plan([NETWORK], (OWN,), ALL)
    assert [render_rule(NAT, rule, TARGETS[rule.verdict]) for rule in rules.postrouting] == golden()


def test_an_empty_table_gets_chain_jump_and_rules() -> None:
    assert repair([":POSTROUTING ACCEPT [0:0]"], NAT, golden()) == [":FLANNEL-POSTRTG - [0:0]", NAT.jump, *golden()]


def test_a_complete_table_is_left_alone_wherever_the_jump_stands() -> None:
    saved = [":POSTROUTING ACCEPT [9:9]", ":FLANNEL-POSTRTG - [0:0]", NAT.jump, "-A POSTROUTING -j DOCKER", *golden()]
    assert repair(saved, NAT, golden()) == []


def test_an_unwanted_chain_goes_with_every_jump_to_it() -> None:
    saved = [":FLANNEL-POSTRTG - [0:0]", NAT.jump, "-A POSTROUTING -o eth0 -j FLANNEL-POSTRTG", *golden()]
    removal = repair(saved, NAT, [])
    assert removal[0] == ":FLANNEL-POSTRTG - [0:0]"
    assert removal[1:-1] == ["-D" + NAT.jump[2:], "-D POSTROUTING -o eth0 -j FLANNEL-POSTRTG"]
    assert removal[-1] == "-X FLANNEL-POSTRTG"


def restored(saved: Sequence[str], given: Sequence[str]) -> list[str]:
    """What iptables-restore --noflush makes of a table, in short."""
    lines = list(saved)
    for line in given:
        if line.startswith(":"):
            chain = line.split()[0][1:]
            lines = [kept for kept in lines if not kept.startswith((f":{chain} ", f"-A {chain} "))] + [line]
        elif line.startswith("-D"):
            lines.remove("-A" + line[2:])
        elif line.startswith("-X"):
            lines.remove(f":{line[3:]} - [0:0]")
        else:
            lines.append(line)
    return lines


TABLE_LINES = st.lists(
    st.sampled_from([":POSTROUTING ACCEPT [0:0]", ":FLANNEL-POSTRTG - [0:0]", NAT.jump, "-A POSTROUTING -j KUBE", *golden()])
)


@given(TABLE_LINES, st.sampled_from([[], golden(), golden()[:3]]))
def test_from_any_table_repair_ends_at_the_rules_and_a_second_one_is_empty(lines: list[str], rules: list[str]) -> None:
    saved = [line for line in lines if "FLANNEL" not in line] if ":FLANNEL-POSTRTG - [0:0]" not in lines else lines
    once = restored(saved, repair(saved, NAT, rules))
    assert [line for line in once if line.startswith("-A FLANNEL-POSTRTG ")] == rules
    assert once.count(NAT.jump) == bool(rules)
    assert once.count("-A POSTROUTING -j KUBE") == saved.count("-A POSTROUTING -j KUBE")
    assert repair(once, NAT, rules) == []


def test_iptables_save_is_read_by_table() -> None:
    output = "# Generated by\n*nat\n:A - [0:0]\n-A A -j RETURN\nCOMMIT\n*filter\n:B ACCEPT [1:2]\nCOMMIT\n# Completed\n"
    assert parse_save(output) == {"nat": [":A - [0:0]", "-A A -j RETURN"], "filter": [":B ACCEPT [1:2]"]}


def test_an_nft_table_has_only_the_chains_with_rules() -> None:
    (rules,) = plan([NETWORK6], (OWN6,), Policy(masquerade=False))
    table, chain, *rest = render_table("flannel-ipv6", rules)
    assert table == {"table": {"family": "ip6", "name": "flannel-ipv6"}}
    assert chain["chain"]["name"] == "forward"
    assert [item["rule"]["comment"] for item in rest] == [Chain.FORWARD.value] * 2
    assert render_table("flannel-ipv6", RuleSet(6)) == []


def notice(kind: int, family: int, *attributes: bytes) -> bytes:
    return Message(10 << 8 | kind, struct.pack(">BBH", family, 0, 0) + b"".join(attributes)).encode(0)


def test_changes_of_tables_chains_and_rules_are_read_and_others_passed_over() -> None:
    flush = (
        notice(8, 2, text(1, "nat"), text(2, "FLANNEL-POSTRTG"))
        + notice(5, 10, text(1, "t"), text(3, "c"))
        + notice(0, 2, text(1, "t"))
    )
    generation, inet_table, set_element = (
        notice(15, 0, attribute(1, bytes(4))),
        notice(0, 1, text(1, "t")),
        notice(12, 2, text(1, "t")),
    )
    assert list(decode_changes(generation + flush + inet_table + set_element)) == [
        NftChange(4, "nat", "FLANNEL-POSTRTG", gone=True),
        NftChange(6, "t", "c", gone=True),
        NftChange(4, "t", "", gone=False),
    ]


@given(st.binary(max_size=64), st.binary(max_size=64))
def test_any_bytes_are_changes_or_malformed(body: bytes, rest: bytes) -> None:
    with suppress(MalformedMessage):
        list(decode_changes(Message(10 << 8 | 6, body).encode(0) + rest))
