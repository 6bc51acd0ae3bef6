"""What exabgp is told: the words, and that exabgp itself reads them as they are meant."""

from __future__ import annotations

import base64
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Network, ip_address, ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgp.path import Asn, AsPath, Attributes, Origin
from bgp.session import Session
from bgp.speaker import commands
from bgp.speaker.commands import Announcement
from bgp.speaker.news import SpeakerError

PEER, PEER6 = ip_address("192.0.2.2"), ip_address("2001:db8::2")
PLAIN = Session(PEER, ip_address("192.0.2.1"), Asn(64513), Asn(64512), "192.0.2.1")
PLAIN6 = Session(PEER6, ip_address("2001:db8::1"), Asn(64513), Asn(64512), "192.0.2.1", families=(4, 6))
PREFIX, PREFIX6 = ip_network("10.244.1.0/24"), ip_network("fd00:1::/64")

GOLDEN = """neighbor 192.0.2.2 {
router-id 192.0.2.1;
local-address 192.0.2.1;
local-as 64512;
peer-as 64513;
hold-time 9;
connect 179;
passive false;
manual-eor true;
adj-rib-in true;
adj-rib-out true;
group-updates true;
family { ipv4 unicast; }
capability { asn4 enable; route-refresh enable; extended-message enable; graceful-restart 120; }
api { processes [ relay ]; neighbor-changes; receive { parsed; open; update; } }
}
"""


pytestmark = pytest.mark.usefixtures("exabgp")


def parsed(session: Session) -> Any:
    """The neighbour that exabgp makes of it."""
    from bgp.speaker.launcher import stock

    program = "process relay { run /bin/true; encoder json; }\n"
    configuration = stock.Configuration([program + commands.render_session(session)], text=True)
    assert configuration.reload(), str(configuration.error)
    (neighbor,) = configuration.neighbors.values()
    return neighbor


def routes(line: str) -> dict[str, str]:
    """What exabgp makes of an announcement: the attributes of each prefix."""
    from bgp.speaker.launcher import stock

    command = line.split(" ", 2)[2]
    changes = stock.API(None).api_attributes(command, [])
    return {change.nlri.cidr.prefix(): f"next-hop {change.nlri.nexthop}{change.attributes}" for change in changes}


def test_a_session_is_rendered_so() -> None:
    assert commands.render_session(PLAIN) == GOLDEN


def test_exabgp_reads_a_session_as_it_is_meant() -> None:
    neighbor = parsed(PLAIN)
    said = {key: str(neighbor[key]) for key in ("peer-address", "local-address", "peer-as", "local-as", "router-id", "connect")}
    assert said == {
        "peer-address": "192.0.2.2",
        "local-address": "192.0.2.1",
        "peer-as": "64513",
        "local-as": "64512",
        "router-id": "192.0.2.1",
        "connect": "179",
    }
    assert (int(neighbor["hold-time"]), neighbor["passive"], neighbor["manual-eor"]) == (9, False, True)
    assert (neighbor["adj-rib-in"], neighbor["adj-rib-out"], neighbor["group-updates"]) == (True, True, True)
    assert (neighbor["incoming-ttl"], neighbor["outgoing-ttl"], neighbor["md5-password"]) == (None, None, None)
    assert neighbor["capability"]["graceful-restart"] == 120
    assert neighbor.api["receive-open"] == neighbor.api["receive-update"] == neighbor.api["neighbor-changes"] == ["relay"]


@pytest.mark.parametrize(
    ("changes", "key", "value"),
    [
        ({"port": 1790}, "connect", 1790),
        ({"passive": True}, "passive", True),
        ({"hold_time_s": 3}, "hold-time", 3),
        ({"ttl_security": 1}, "incoming-ttl", 255),
        ({"ttl_security": 3, "multihop": 3}, "incoming-ttl", 253),
        ({"ttl_security": 3, "multihop": 3}, "outgoing-ttl", None),
        ({"multihop": 5}, "outgoing-ttl", 5),
    ],
)
def test_exabgp_reads_what_differs_in_a_session(changes: dict[str, Any], key: str, value: object) -> None:
    assert parsed(replace(PLAIN, **changes))[key] == value


@pytest.mark.parametrize("seconds", [0, 1, 4095])
def test_graceful_restart_can_be_off(seconds: int) -> None:
    assert parsed(replace(PLAIN, graceful_restart_s=seconds))["capability"]["graceful-restart"] == (seconds or False)


def test_exabgp_reads_families() -> None:
    assert [f"{afi} {safi}" for afi, safi in parsed(PLAIN6).families()] == ["ipv4 unicast", "ipv6 unicast"]
    assert [f"{afi} {safi} {hop}" for afi, safi, hop in parsed(PLAIN6).nexthops()] == ["ipv4 unicast ipv6"]
    overlay = parsed(replace(PLAIN, evpn=True))
    assert [f"{afi} {safi}" for afi, safi in overlay.families()] == ["ipv4 unicast", "l2vpn evpn"]
    assert not overlay.nexthops()


@given(st.text(min_size=1, max_size=20).filter(lambda text: "\0" not in text))
def test_any_password_is_read_as_it_is(password: str) -> None:
    try:
        session = replace(PLAIN, password=password)
        neighbor = parsed(session)
    except UnicodeEncodeError:
        return  # a lone surrogate
    assert base64.b64decode(neighbor["md5-password"]).decode() == password
    assert neighbor["md5-base64"] is True


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"hold_time_s": 2}, "hold time of 2 s for 192.0.2.2: expected 3 or more"),
        ({"graceful_restart_s": 4096}, "graceful restart of 4096 s for 192.0.2.2: expected 0 to 4095"),
        ({"password": "é" * 41}, "password for 192.0.2.2: expected at most 80 bytes"),
        ({"families": ()}, "session with 192.0.2.2 has no family, expected one"),
        ({"local": PEER6}, "session of 2001:db8::2 with 192.0.2.2: expected addresses of one family"),
    ],
)
def test_a_session_that_cannot_be_is_refused(changes: dict[str, Any], why: str) -> None:
    with pytest.raises(SpeakerError, match=f"^{why}$"):
        commands.add(replace(PLAIN, **changes))


def test_sessions_that_differ_in_anything_have_other_fingerprints() -> None:
    others: list[dict[str, Any]] = [{"password": "x"}, {"passive": True}, {"families": (6,)}, {"port": 1}, {"evpn": True}]
    sessions = [PLAIN, *(replace(PLAIN, **changes) for changes in others)]
    assert len({commands.fingerprint(session) for session in sessions}) == len(sessions)
    assert commands.fingerprint(replace(PLAIN)) == commands.fingerprint(PLAIN)


def test_announcements_with_the_same_attributes_go_in_blocks() -> None:
    prefixes = [*IPv4Network("10.128.0.0/9").subnets(new_prefix=24)][:450]
    lines = commands.announce(PEER, [Announcement(prefix) for prefix in prefixes])
    assert [len(routes(line)) for line in lines] == [200, 200, 50]
    assert lines[2].startswith("neighbor 192.0.2.2 announce attributes next-hop self origin igp nlri 10.129.144.0/24 ")
    assert [prefix for line in lines for prefix in routes(line)] == [str(prefix) for prefix in prefixes]


def test_of_two_announcements_of_a_prefix_the_last_counts() -> None:
    (line,) = commands.announce(PEER, [Announcement(PREFIX, PEER), Announcement(PREFIX)])
    assert routes(line) == {"10.244.1.0/24": "next-hop self origin igp"}


def test_families_go_apart_and_the_other_one_needs_a_next_hop() -> None:
    lines = commands.announce(PEER, [Announcement(PREFIX), Announcement(PREFIX6, PEER6)])
    assert [routes(line) for line in lines] == [
        {"10.244.1.0/24": "next-hop self origin igp"},
        {"fd00:1::/64": "next-hop 2001:db8::2 origin igp"},
    ]
    for peer, prefix in ((PEER, PREFIX6), (PEER6, PREFIX)):
        with pytest.raises(SpeakerError, match=f"{prefix} for {peer} has no next hop, expected one of IPv{prefix.version}"):
            commands.announce(peer, [Announcement(prefix)])


def test_all_attributes_are_said() -> None:
    path = AsPath((Asn(7), Asn(4200000000)), (frozenset({Asn(9), Asn(8)}), frozenset({Asn(6)})))
    clusters = (IPv4Address("6.6.6.6"), IPv4Address("5.5.5.5"))
    communities = frozenset({(65535, 0), (65535, 65281), (1, 2)})
    told = Attributes(Origin.EGP, path, 200, 50, communities, IPv4Address("7.7.7.7"), clusters)
    (line,) = commands.announce(PEER, [Announcement(PREFIX, PEER, told)])
    assert " as-path [ 7 4200000000 ] ( 8 9 ) ( 6 ) " in line
    assert routes(line)["10.244.1.0/24"] == (  # exabgp shows paths with the other brackets than it reads
        "next-hop 192.0.2.2 origin egp as-path ( 7 4200000000 ) [ 8 9 ] [ 6 ] med 50 local-preference 200"
        " community [ 1:2 65535:0 no-export ] originator-id 7.7.7.7 cluster-list [ 6.6.6.6 5.5.5.5 ]"
    )


def test_withdrawals_go_by_family_in_blocks() -> None:
    prefixes = [*IPv4Network("10.128.0.0/9").subnets(new_prefix=24)][:201]
    lines = commands.withdraw(PEER, [PREFIX6, *prefixes, *prefixes])
    assert [len(routes(line)) for line in lines] == [200, 1, 1]
    assert lines[2] == "neighbor 192.0.2.2 withdraw attributes next-hop :: nlri fd00:1::/64"
    assert commands.withdraw(PEER, []) == commands.announce(PEER, []) == []


def test_exabgp_reads_for_whom_a_line_is() -> None:
    from exabgp.reactor.api.command.limit import extract_neighbors, match_neighbors  # type: ignore[import-untyped]

    others = [IPv4Address(f"192.0.2.{number}") for number in (20, 21, 2 + 100)]
    known = [f"neighbor {peer} local-ip 192.0.2.1 local-as 1 peer-as 1" for peer in (PEER, IPv4Address("192.0.2.200"), *others)]
    for (line,) in (commands.announce(PEER, [Announcement(PREFIX)], *others), commands.withdraw(PEER, [PREFIX], *others)):
        definitions, rest = extract_neighbors(line)
        assert match_neighbors(known, definitions) == [known[0], *known[2:]]
        assert rest.split()[0] in ("announce", "withdraw")


def test_the_other_commands_are_plain() -> None:
    assert commands.end_of_rib(PEER, 6) == "neighbor 192.0.2.2 announce eor ipv6 unicast"
    assert commands.refresh(PEER, 4) == "neighbor 192.0.2.2 announce route-refresh ipv4 unicast"
    assert commands.delete(PEER6) == "peer del 2001:db8::2"
    assert commands.teardown(PEER) == "peer renew 192.0.2.2"
    assert commands.list_all("token") == "peer list token"


def networks() -> st.SearchStrategy[IPv4Network | IPv6Network]:
    v4 = st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 32)).map(lambda value: IPv4Network(value, strict=False))
    v6 = st.tuples(st.integers(0, 2**128 - 1), st.integers(0, 128)).map(lambda value: IPv6Network(value, strict=False))
    return v4.filter(lambda net: not net.is_multicast) | v6.filter(lambda net: not net.is_multicast)


@given(st.lists(networks(), max_size=20))
def test_exabgp_reads_every_prefix(prefixes: list[IPv4Network | IPv6Network]) -> None:
    hops: dict[int, Any] = {4: PEER, 6: PEER6}
    lines = commands.announce(PEER, [Announcement(prefix, hops[prefix.version]) for prefix in prefixes])
    read = {ip_network(prefix) for line in [*lines, *commands.withdraw(PEER, prefixes)] for prefix in routes(line)}
    assert read == set(prefixes)
