"""What plugins ask of the packet filter, as elements: their words and their bytes."""

from __future__ import annotations

from ipaddress import IPv4Interface, IPv6Interface, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni.ledger import HeldElement
from cni.packet_elements import (
    bridge_apart,
    encode_held,
    guard_mac,
    hairpin,
    hairpin_all,
    isolate_port,
    masquerade,
    pass_forwarding,
    port_mapping,
)
from cni.packet_rules import BRIDGE, FIREWALL, PLACES, SHARED, STANDING, TRANSLATION
from cni.result import IPInterface
from flanneld.linux.nft_tables import key_size

POD4, POD6 = IPv4Interface("10.1.1.2/24"), IPv6Interface("fd00::2/64")
interfaces = st.one_of(
    st.ip_addresses(v=4).map(lambda ip: IPv4Interface((ip, 24))), st.ip_addresses(v=6).map(lambda ip: IPv6Interface((ip, 64)))
)


def test_a_port_of_the_host_leads_to_one_of_the_pod() -> None:
    held = port_mapping("tcp", None, 8080, POD4.ip, 80)
    assert held == HeldElement("ports4", "tcp . 8080", "10.1.1.2 . 80")
    table, element = encode_held(held)
    assert table is TRANSLATION
    assert (element.key.hex(), element.value.hex(), element.end) == ("060000001f900000", "0a01010200500000", b"")


def test_a_port_of_one_address_is_in_a_map_of_its_own() -> None:
    held = port_mapping("udp", ip_address("2001:db8::1"), 53, POD6.ip, 1053)
    assert held == HeldElement("ip_ports6", "2001:db8::1 . udp . 53", "fd00::2 . 1053")
    assert encode_held(held)[1].key.hex() == "20010db80000000000000000000000011100000000350000"


def test_what_is_near_is_a_range_for_each_end() -> None:
    near = masquerade(POD4)[1]
    assert near == HeldElement("near4", "10.1.1.0/24 . 10.1.1.0/24")
    element = encode_held(near)[1]
    assert (element.key.hex(), element.end.hex()) == ("0a0101000a010100", "0a0101ff0a0101ff")


def test_a_name_and_a_mac_side_by_side() -> None:
    port, mac = guard_mac("veth0", "02:00:00:00:00:0A")
    assert (port.key, mac.key) == ("veth0", "veth0 . 02:00:00:00:00:0a")
    assert encode_held(port)[1].key == b"veth0".ljust(16, b"\0")
    assert encode_held(mac)[1].key.hex() == b"veth0".ljust(16, b"\0").hex() + "02000000000a0000"
    assert encode_held(mac)[0] is BRIDGE


def test_a_name_may_have_dots_and_any_bytes() -> None:
    assert encode_held(isolate_port("a.b\udcff"))[1].key == b"a.b\xff".ljust(16, b"\0")


@pytest.mark.parametrize("within", [True, False])
def test_bridges_are_apart_and_may_be_open_within(*, within: bool) -> None:
    sets = [held.set for held in bridge_apart("cni0", within=within)]
    assert sets == ["bridges_apart", *(["bridges_within"] if within else [])]
    assert {encode_held(held)[0].name for held in bridge_apart("cni0", within=within)} == {FIREWALL.name}


@given(interfaces)
def test_whatever_a_plugin_asks_for_has_the_length_that_its_set_has(pod: IPInterface) -> None:
    asked = (
        *masquerade(pod),
        *hairpin(pod),
        *hairpin_all(pod),
        pass_forwarding(pod.ip),
        port_mapping("sctp", None, 65535, pod.ip, 1),
        port_mapping("tcp", pod.ip, 1, pod.ip, 65535),
    )
    for held in asked:
        table, element = encode_held(held)
        place = PLACES[held.set][1]
        assert place in table.sets
        assert len(element.key) == key_size(place.key)
        assert len(element.value) == (key_size(place.value) if place.value else 0)
        assert bool(element.end) == place.interval


@pytest.mark.parametrize(
    "held",
    [
        HeldElement("later", "x"),
        HeldElement("ports4", "tcp", "1.2.3.4 . 1"),
        HeldElement("ports4", "dccp . 1", "1.2.3.4 . 1"),
        HeldElement("masqueraded4", "x"),
    ],
)
def test_words_that_we_do_not_know_are_an_error_that_callers_expect(held: HeldElement) -> None:
    with pytest.raises((LookupError, ValueError, OSError)):
        encode_held(held)


def test_only_what_is_about_a_network_is_held_by_several() -> None:
    assert {"bridges_apart", "bridges_within"} == SHARED
    assert {"near4", "near6"} == STANDING
    assert PLACES.keys() > SHARED | STANDING
