"""EVPN's routes and extended communities as bytes and numbers."""

from __future__ import annotations

from contextlib import suppress
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgp.evpn.communities import (
    VXLAN,
    ExtendedCommunity,
    automatic_target,
    by_vxlan,
    is_automatic_target,
    parse_target,
    render_target,
    replication_tunnel,
    router_mac,
    router_mac_of,
    targets,
)
from bgp.evpn.routes import EvpnRoute, Key, MacIp, Multicast, Prefix, Rd, RouteError, decode_route, distinguisher
from bgp.path import Asn
from flanneld.backends.vtep import Vni

RD = distinguisher("10.0.0.1", 1)
PREFIX = "0522 00010a0000010001 00000000000000000000 00000000 18 0af40100 00000000 000001"
MAC_IP = "0225 00010a0000010001 00000000000000000000 00000000 30 020000000001 20 0af40100 000001"
MULTICAST = "0311 00010a0000010001 00000000 20 0a000001"

rds = st.integers(0, (1 << 64) - 1).map(Rd)
tags = st.integers(0, (1 << 32) - 1)
macs = st.binary(min_size=6, max_size=6).map(lambda octets: octets.hex(":"))
networks: st.SearchStrategy[IPv4Network | IPv6Network] = st.one_of(
    st.ip_addresses(v=4).flatmap(lambda ip: st.integers(0, 32).map(lambda bits: IPv4Network((ip, bits), strict=False))),
    st.ip_addresses(v=6).flatmap(lambda ip: st.integers(0, 128).map(lambda bits: IPv6Network((ip, bits), strict=False))),
)
keys: st.SearchStrategy[Key] = st.one_of(
    st.builds(MacIp, rds, macs, st.none() | st.ip_addresses(), tags),
    st.builds(Multicast, rds, st.ip_addresses(), tags),
    st.builds(Prefix, rds, networks, tags),
)


@st.composite
def routes(draw: st.DrawFn) -> EvpnRoute:
    key = draw(keys)
    if isinstance(key, Multicast):
        return EvpnRoute(key)
    vni, segment = Vni(draw(st.integers(0, (1 << 24) - 1))), draw(st.binary(min_size=10, max_size=10))
    if isinstance(key, MacIp):
        return EvpnRoute(key, vni, segment=segment)
    gateway = draw(st.none() | st.ip_addresses(v=key.prefix.version).filter(int))
    return EvpnRoute(key, vni, gateway, segment)


@pytest.mark.parametrize(
    ("digits", "key"),
    [
        (PREFIX, Prefix(RD, ip_network("10.244.1.0/24"))),
        (MAC_IP, MacIp(RD, "02:00:00:00:00:01", ip_address("10.244.1.0"))),
        (MULTICAST, Multicast(RD, ip_address("10.0.0.1"))),
    ],
)
def test_routes_have_the_bytes_of_rfc_7432_and_9136(digits: str, key: Key) -> None:
    route = EvpnRoute(key) if isinstance(key, Multicast) else EvpnRoute(key, Vni(1))
    assert route.encode() == bytes.fromhex(digits)
    assert decode_route(bytes.fromhex(digits)) == route


@given(routes())
def test_what_was_encoded_is_decoded(route: EvpnRoute) -> None:
    assert decode_route(route.encode()) == route


@given(st.binary(max_size=70), st.sampled_from([2, 3, 5]), st.booleans())
def test_any_bytes_are_a_route_or_an_error(data: bytes, kind: int, whole: bool) -> None:
    with suppress(RouteError):
        decode_route(bytes([kind, len(data)]) + data if whole else data)


@pytest.mark.parametrize(
    "digits",
    [
        "",
        "05",
        "0521" + PREFIX[4:],
        PREFIX.replace(" 18 ", " 21 "),
        MAC_IP.replace(" 30 ", " 28 "),
        MAC_IP.replace(" 20 ", " 21 "),
        MULTICAST.replace(" 20 ", " 80 "),
        "0200",
        "0300",
        "0500",
    ],
)
def test_what_contradicts_itself_is_an_error(digits: str) -> None:
    with pytest.raises(RouteError):
        decode_route(bytes.fromhex(digits))


def test_types_that_say_nothing_here_are_none() -> None:
    assert [decode_route(bytes([kind, 2, 0, 0])) for kind in (1, 4, 6, 255)] == [None] * 4


def test_a_second_label_says_nothing_here() -> None:
    route = EvpnRoute(MacIp(RD, "02:00:00:00:00:01", ip_address("10.244.1.0")), Vni(1))
    assert decode_route(bytes.fromhex(MAC_IP.replace("0225", "0228") + "000007")) == route


def test_bits_behind_the_prefix_say_nothing() -> None:
    assert decode_route(bytes.fromhex(PREFIX.replace("0af40100", "0af401ff"))) == decode_route(bytes.fromhex(PREFIX))


def test_communities_have_the_numbers_of_their_rfcs() -> None:
    assert automatic_target(Asn(64512), Vni(1)) == 0x0002_FC00_0000_0001
    assert automatic_target(Asn(4200000001), Vni(100)) == 0x0002_EA01_0000_0064
    assert VXLAN == 0x030C_0000_0000_0008
    assert router_mac("02:00:00:00:00:0a") == 0x0603_0200_0000_000A
    assert replication_tunnel(ip_address("10.0.0.1"), Vni(1)).hex() == "00060000010a000001"


@pytest.mark.parametrize("text", ["64512:1", "1:4294967295", "4200000000:65535", "0:0"])
def test_a_route_target_is_read_as_it_is_written(text: str) -> None:
    assert render_target(parse_target(text)) == text


@pytest.mark.parametrize("text", ["", "1", "1:2:3", "65536:65536", "4294967296:1", "1:4294967296", "a:1", "-1:1", "10.0.0.1:1"])
def test_what_is_no_route_target_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no route target"):
        parse_target(text)


def test_an_automatic_target_is_known_by_its_vni_whatever_the_as() -> None:
    assert is_automatic_target(automatic_target(Asn(65101), Vni(7)), Vni(7))
    assert not is_automatic_target(automatic_target(Asn(65101), Vni(7)), Vni(8))
    assert not is_automatic_target(parse_target("4200000000:7"), Vni(7))


def test_the_router_s_mac_is_found_among_others() -> None:
    others = {VXLAN, parse_target("64512:1")}
    assert router_mac_of(others) is None
    assert router_mac_of({*others, router_mac("02:00:00:00:00:0b"), router_mac("02:00:00:00:00:0a")}) == "02:00:00:00:00:0a"
    assert targets({*others, router_mac("02:00:00:00:00:0a")}) == {parse_target("64512:1")}


def test_without_an_encapsulation_it_is_vxlan_and_of_several_vxlan_must_be_one() -> None:
    mpls = ExtendedCommunity(0x030C_0000_0000_000A)
    assert by_vxlan(())
    assert by_vxlan({VXLAN, mpls})
    assert not by_vxlan({mpls})
