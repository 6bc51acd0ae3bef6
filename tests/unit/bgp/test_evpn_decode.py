"""EVPN as exabgp says it, in lines recorded in sessions with FRR 8.4."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from pathlib import Path as File

from bgp.events import EndOfRib, EvpnAnnounced, EvpnWithdrawn
from bgp.evpn.communities import by_vxlan, parse_target, router_mac_of, targets
from bgp.evpn.routes import EvpnRoute, MacIp, Multicast, Prefix, distinguisher
from bgp.path import Asn, AsPath, Attributes
from bgp.speaker.decode import Listing, Was, WasAnnounced, decode
from bgp.speaker.update import decode_update
from evpn_routes import at, told
from flanneld.backends.vtep import Vni

LINES = (File(__file__).with_name("speaker_lines") / "evpn.jsonl").read_text().splitlines()
LEAF, SPINE = ip_address("10.0.0.13"), ip_address("10.0.0.14")
LEAF_RD, SPINE_RD = distinguisher("10.0.0.13", 2), distinguisher("10.0.0.14", 1)
BRIDGED = "02:00:00:00:00:77"


def test_a_listing_has_what_neighbours_told_and_what_we_did() -> None:
    said = [decode(line) for line in LINES[:4]]
    assert isinstance(said[0], Listing)
    was = [event for each in said[1:3] if isinstance(each, Was) for event in each.events]
    assert [event.peer for event in was if isinstance(event, EvpnAnnounced)] == [SPINE, LEAF]
    assert isinstance(said[3], WasAnnounced)
    assert {type(key) for key in said[3].evpn} == {Prefix, MacIp, Multicast}


def test_a_prefix_route_of_frr_s_has_all_that_it_says() -> None:
    was = decode(LINES[1])
    assert isinstance(was, Was)
    (event,) = was.events
    assert isinstance(event, EvpnAnnounced)
    (said,) = event.routes
    assert said.route == EvpnRoute(Prefix(SPINE_RD, ip_network("10.244.150.0/24")), Vni(1))
    assert (said.next_hop, said.attributes) == (SPINE, Attributes(as_path=AsPath((Asn(65102),)), med=0))
    assert targets(said.extended) == {parse_target("65102:1")}
    assert by_vxlan(said.extended)
    assert router_mac_of(said.extended) == "f6:2a:43:32:4b:0f"


def test_bridged_macs_are_told_with_and_without_an_address_and_withdrawn_by_their_keys() -> None:
    events = [event for line in LINES[4:] if isinstance(said := decode(line), tuple) for event in said]
    keys = {MacIp(LEAF_RD, BRIDGED), MacIp(LEAF_RD, BRIDGED, ip_address("10.244.160.9"))}
    announced, first, second, end = events
    assert isinstance(announced, EvpnAnnounced)
    assert keys < {said.route.key for said in announced.routes}
    assert isinstance(first, EvpnWithdrawn)
    assert set(first.keys) == keys
    assert second == EvpnWithdrawn(SPINE, (Prefix(SPINE_RD, ip_network("10.244.150.0/24")),))
    assert isinstance(end, EndOfRib)
    assert end.family == "evpn"


def test_what_has_no_origin_is_as_good_as_withdrawn() -> None:
    nlri = {"code": 5, "raw": told(2).route.encode().hex()}
    update = {"attribute": {}, "announce": {"l2vpn evpn": {"10.0.0.2": [nlri]}}}
    assert decode_update(at(2), update) == (EvpnWithdrawn(at(2), (told(2).route.key,), error=True),)


def test_types_that_say_nothing_here_are_left_out() -> None:
    update = {"attribute": {"origin": "igp"}, "announce": {"l2vpn evpn": {"10.0.0.2": [{"code": 4, "raw": "04020000"}]}}}
    assert decode_update(at(2), update) == ()
