"""What neighbours are told of us by EVPN, and the words in which exabgp is told so."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network

from bgp.evpn.announcement import EvpnAnnouncement
from bgp.evpn.communities import VXLAN, automatic_target, parse_target, router_mac
from bgp.evpn.exports import EvpnOrigination, OwnVtep, evpn_announcements
from bgp.evpn.routes import Key, MacIp, Multicast, Prefix, distinguisher
from bgp.neighbours import Neighbour
from bgp.path import GRACEFUL_SHUTDOWN, AsPath, Attributes
from bgp.peer import MaxPrefix
from bgp.policy import parse_rules
from bgp.speaker import commands
from bgp.topology import Role
from evpn_routes import OURS, VNI, at, session
from flanneld.backends.vtep import Vni

MAC, MAC6 = "02:00:00:00:00:01", "02:00:00:00:00:61"
SUBNET, SUBNET6 = ip_network("10.244.1.0/24"), ip_network("fd00:244:0:1::/64")
VTEP = OwnVtep(at(1), MAC, (SUBNET,))
VTEP6 = OwnVtep(ip_address("fd00:10::1"), MAC6, (SUBNET6,))
OWN = EvpnOrigination(VNI, "10.0.0.1", (VTEP,))
RD = distinguisher("10.0.0.1", 1)


def neighbour(asn: int = OURS, role: Role = Role.MESH, exports: object = ()) -> Neighbour:
    rules = parse_rules(list(exports), "Export") if isinstance(exports, tuple | list) else ()
    return Neighbour(session(2, asn), role, (), rules, MaxPrefix(100), None, frozenset({(64512, 7)}))


def told(own: EvpnOrigination, to: Neighbour | None = None) -> dict[Key, EvpnAnnouncement]:
    return evpn_announcements(to or neighbour(), own)


def test_a_host_tells_of_its_subnet_its_vtep_and_that_it_wants_what_is_for_everybody() -> None:
    assert set(told(OWN)) == {Prefix(RD, SUBNET), MacIp(RD, MAC, SUBNET.network_address), Multicast(RD, at(1))}
    assert {said.next_hop for said in told(OWN).values()} == {at(1)}
    assert {said.route.vni for said in told(OWN).values()} == {VNI, Vni(0)}


def test_each_has_the_route_target_and_vxlan_and_what_is_sent_to_has_the_mac() -> None:
    common = {automatic_target(OURS, VNI), VXLAN}
    found = {type(key): said.extended for key, said in told(OWN).items()}
    assert found == {Prefix: common | {router_mac(MAC)}, MacIp: common | {router_mac(MAC)}, Multicast: common}


def test_only_the_multicast_route_has_a_tunnel() -> None:
    assert {type(key): said.tunnel.hex() for key, said in told(OWN).items() if said.tunnel} == {Multicast: "00060000010a000001"}


def test_each_family_has_a_vtep_of_its_own() -> None:
    both = told(replace(OWN, vteps=(VTEP, VTEP6)))
    assert len(both) == 6
    assert both[Prefix(RD, SUBNET6)].next_hop == VTEP6.address
    assert router_mac(MAC6) in both[Prefix(RD, SUBNET6)].extended


def test_a_router_is_told_of_the_vtep_of_the_session_s_family() -> None:
    both = replace(OWN, vteps=(VTEP, VTEP6))
    assert told(both, neighbour(65101, Role.EXTERNAL)).keys() == told(OWN).keys()


def test_another_as_sees_our_number_and_no_preference() -> None:
    assert {said.attributes for said in told(OWN, neighbour(65101)).values()} == {
        Attributes(as_path=AsPath((OURS,)), communities=frozenset({(64512, 7)}))
    }


def test_who_is_draining_says_so_of_everything() -> None:
    said = {each.attributes for each in told(replace(OWN, draining=True)).values()}
    assert said == {Attributes(local_pref=0, communities=frozenset({(64512, 7), GRACEFUL_SHUTDOWN}))}


def test_what_no_rule_lets_out_is_not_told_and_neither_is_its_vtep() -> None:
    refusing = neighbour(exports=({"Match": {"Prefix": "10.244.0.0/16"}, "Action": "refuse"},))
    assert told(OWN, refusing) == {}
    besides = replace(OWN, vteps=(replace(VTEP, subnets=(SUBNET, ip_network("10.244.200.0/24"))),))
    partly = neighbour(exports=({"Match": {"Prefix": "10.244.200.0/24"}, "Action": "refuse"},))
    assert told(besides, partly).keys() == told(OWN).keys()


def test_a_rule_may_change_what_is_said_of_a_subnet() -> None:
    changing = neighbour(exports=({"Action": "accept", "Set": {"MED": 5}},))
    assert told(OWN, changing)[Prefix(RD, SUBNET)].attributes.med == 5


def test_targets_of_the_user_s_are_told_instead_of_the_automatic_one() -> None:
    target = parse_target("64512:77")
    said = told(replace(OWN, targets=frozenset({target})))
    assert all(target in each.extended and automatic_target(OURS, VNI) not in each.extended for each in said.values())


GOLDEN = [
    (
        "evpn announce 10.0.0.2 052200010a00000100010000000000000000000000000000180af4010000000000000001 next-hop 10.0.0.1"
        " origin igp local-preference 100 community [ 64512:7 ]"
        " extended-community [ 0x0002fc0000000001 0x030c000000000008 0x0603020000000001 ]"
    ),
    (
        "evpn announce 10.0.0.2 022500010a0000010001000000000000000000000000000030020000000001200af40100000001 next-hop 10.0.0.1"
        " origin igp local-preference 100 community [ 64512:7 ]"
        " extended-community [ 0x0002fc0000000001 0x030c000000000008 0x0603020000000001 ]"
    ),
    (
        "evpn announce 10.0.0.2 031100010a000001000100000000200a000001 next-hop 10.0.0.1 origin igp local-preference 100"
        " community [ 64512:7 ] extended-community [ 0x0002fc0000000001 0x030c000000000008 ]"
        " attribute [ 0x16 0xc0 0x00060000010a000001 ]"
    ),
]


def test_announcements_are_told_as_bytes_and_attributes() -> None:
    assert commands.announce_evpn(at(2), told(OWN).values()) == GOLDEN


def test_withdrawals_are_told_by_their_keys() -> None:
    assert commands.withdraw_evpn(at(2), [Multicast(RD, at(1))]) == [
        "evpn withdraw 10.0.0.2 031100010a000001000100000000200a000001"
    ]


def test_the_end_and_a_refresh_are_of_a_channel() -> None:
    assert commands.end_of_rib(at(2), "evpn") == "neighbor 10.0.0.2 announce eor l2vpn evpn"
    assert commands.refresh(at(2), "evpn") == "neighbor 10.0.0.2 announce route-refresh l2vpn evpn"


def test_a_session_of_evpn_alone_has_no_other_family() -> None:
    assert "family { l2vpn evpn; }" in commands.render_session(session(2))
    assert session(2).channels == ("evpn",)
    assert replace(session(2), families=(4, 6)).channels == (4, 6, "evpn")
