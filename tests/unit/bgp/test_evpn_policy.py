"""Which EVPN routes are taken, and as what."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, ip_address, ip_network

import pytest

from bgp.admission import Reason, Refusal
from bgp.evpn.announcement import EvpnAnnouncement
from bgp.evpn.communities import VXLAN, ExtendedCommunity, automatic_target, parse_target, router_mac
from bgp.evpn.paths import EvpnPath, EvpnPolicy, place, ways
from bgp.evpn.routes import EvpnRoute, MacIp, Multicast, Prefix, distinguisher
from bgp.path import Asn, AsPath, Attributes, Path
from evpn_routes import OURS, POLICY, VNI, at, extended, path, session, told, told_of_host
from flanneld.backends.vtep import Vni
from peers_of import vtep_mac

MPLS = ExtendedCommunity(0x030C_0000_0000_000A)
BEHIND = EvpnRoute(told(2).route.key, VNI, gateway=ip_address("10.244.9.9"))
KEY6 = Prefix(distinguisher("10.0.0.2", 1), ip_network("10.244.2.0/24"))
TARGET = automatic_target(OURS, VNI)


def verdict(said: EvpnAnnouncement, policy: EvpnPolicy = POLICY) -> str:
    """The reason, or that it is taken."""
    found = policy.admit(path(said), session(2))
    return found.reason.value if isinstance(found, Refusal) else "taken"


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (told(2), "taken"),
        (told(2, extended=frozenset({TARGET, router_mac(vtep_mac(2))})), "taken"),
        (told(2, extended=extended(vtep_mac(2), asn=65101)), "taken"),
        (told(2, route=EvpnRoute(told(2).route.key, Vni(2))), "vni"),
        (told(2, extended=extended(vtep_mac(2), vni=2)), "route-target"),
        (told(2, extended=frozenset({VXLAN, router_mac(vtep_mac(2))})), "route-target"),
        (told(2, extended=frozenset({TARGET, MPLS, router_mac(vtep_mac(2))})), "encapsulation"),
        (told(2, extended=extended(None)), "router-mac"),
        (told(2, extended=extended("01:00:5e:00:00:01")), "router-mac"),
        (told(2, extended=extended("00:00:00:00:00:00")), "router-mac"),
        (told(2, extended=extended(vtep_mac(1))), "router-mac"),
        (told(2, route=BEHIND), "gateway"),
        (told(2, next_hop=ip_address("10.0.0.1")), "next-hop-own"),
        (told(2, next_hop=ip_address("127.0.0.1")), "next-hop-martian"),
        (told(2, next_hop=ip_address("10.9.0.1")), "next-hop-off-link"),
        (told(2, "10.244.1.0/24"), "own-subnet"),
        (told(2, "10.244.1.128/25"), "own-subnet"),
        (told(2, "10.99.1.0/24"), "no-pool"),
        (told(2, "10.244.2.0/25"), "length"),
        (told(2, "0.0.0.0/0"), "default-route"),
        (told(2, "127.0.0.0/24"), "martian"),
        (told(2, attributes=Attributes(as_path=AsPath((OURS,)))), "as-loop"),
        (told(2, attributes=Attributes(originator_id=IPv4Address("10.0.0.1"))), "originator"),
        (told_of_host(2, "10.244.2.7", vtep_mac(9)), "length"),
    ],
)
def test_routes_are_taken_or_refused_for_a_reason(said: EvpnAnnouncement, expected: str) -> None:
    assert verdict(said) == expected


def test_an_ipv4_vtep_is_no_way_to_ipv6_pods() -> None:
    pool = replace(POLICY.pools[0], network=ip_network("fd00:244::/48"), subnet_len=64)
    said = told(2, "fd00:244:0:2::/64")
    assert verdict(said, replace(POLICY, pools=(pool,))) == "gateway"


def test_what_is_no_evpn_route_is_none_of_this_network() -> None:
    unicast = Path(ip_network("10.244.2.0/24"), at(2), at(2))
    found = POLICY.admit(unicast, session(2))
    assert isinstance(found, Refusal)
    assert found.reason is Reason.VNI


def test_with_targets_of_the_user_s_only_those_count() -> None:
    policy = replace(POLICY, imported=frozenset({parse_target("64512:77")}))
    theirs = told(2, extended=frozenset({parse_target("64512:77"), VXLAN, router_mac(vtep_mac(2))}))
    assert (verdict(theirs, policy), verdict(told(2), policy)) == ("taken", "route-target")


def test_single_hosts_are_taken_where_host_routes_are_allowed() -> None:
    policy = replace(POLICY, host_routes=True)
    said = told_of_host(2, "10.244.2.7", "02:00:00:00:00:07")
    assert verdict(said, policy) == "taken"
    assert path(said).mac == "02:00:00:00:00:07"


def test_a_prefix_route_is_a_way_to_its_prefix_by_the_router_s_mac() -> None:
    way = path(told(2))
    assert isinstance(way, EvpnPath)
    assert (way.prefix, way.next_hop, way.mac, way.vni) == (ip_network("10.244.2.0/24"), at(2), vtep_mac(2), VNI)


def test_bridges_routes_and_those_to_single_hosts_that_nobody_wants_are_no_ways() -> None:
    rd = distinguisher("10.0.0.2", 1)
    mac = replace(told(2), route=EvpnRoute(MacIp(rd, vtep_mac(2)), VNI))
    flood = replace(told(2), route=EvpnRoute(Multicast(rd, at(2))))
    assert list(ways(at(2), [mac, flood], hosts=True)) == []
    assert list(ways(at(2), [told_of_host(2, "10.244.2.7", vtep_mac(9))], hosts=False)) == []


def test_two_vteps_announcements_of_one_prefix_are_two_ways_in_one_session() -> None:
    one, other = (replace(told(2), route=EvpnRoute(Prefix(distinguisher(f"10.0.0.{n}", 1), KEY6.prefix), VNI)) for n in (2, 3))
    assert len({(way.prefix, way.path_id) for way in ways(at(9), [one, other], hosts=False)}) == 2
    assert place(one.route.key) == (path(one).prefix, path(one).path_id)


def test_of_another_as_the_path_must_begin_with_the_peer_s() -> None:
    outside = session(2, 65101)
    good = told(2, attributes=Attributes(as_path=AsPath((Asn(65101),))))
    assert isinstance(POLICY.admit(path(good), outside), EvpnPath)
    found = POLICY.admit(path(told(2)), outside)
    assert isinstance(found, Refusal)
    assert found.reason is Reason.FIRST_AS
