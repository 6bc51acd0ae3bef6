"""Hosts as BGP sees them, and what they publish in their leases."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgp.config import parse
from bgp.hosts import BgpData, default_router_id, own_view, parse_data, peer_view, selectable
from bgp.path import Asn
from bgp.settings import is_asn
from peers_of import lease

DATA = BgpData(Asn(65001), "10.0.0.11", "h1", {"rack": "r1"}, 1790)


def test_a_host_publishes_compact_json() -> None:
    assert DATA.render() == '{"AS":65001,"RouterID":"10.0.0.11","Name":"h1","Labels":{"rack":"r1"},"Port":1790}'


def test_the_order_of_labels_makes_no_difference() -> None:
    one, other = (replace(DATA, labels=labels) for labels in ({"a": "1", "b": "2"}, {"b": "2", "a": "1"}))
    assert one.render() == other.render()


DATAS = st.builds(
    BgpData,
    st.integers(1, 4294967294).filter(is_asn).map(Asn),
    st.integers(1, 4294967295).map(lambda number: str(IPv4Address(number))),
    st.text(),
    st.dictionaries(st.text(), st.text(), max_size=3),
    st.integers(1, 65535),
)


@given(DATAS)
def test_what_is_published_is_read_back_as_it_was(data: BgpData) -> None:
    assert parse_data(data.render()) == data


def test_name_labels_and_port_may_be_left_out_and_unknown_keys_are_ignored() -> None:
    assert parse_data('{"as": 65001, "RouterID": "10.0.0.11", "VNI": 7, "Labels": null}') == BgpData(Asn(65001), "10.0.0.11")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"AS": None}, "published AS none, expected an AS number that is not reserved"),
        ({"AS": 65535}, "published AS 65535, expected an AS number that is not reserved"),
        ({"AS": True}, "published AS true"),
        ({"RouterID": None}, "published RouterID none, expected a dotted quad, not 0.0.0.0"),
        ({"RouterID": 167772171}, "published RouterID 167772171"),
        ({"RouterID": str(IPv4Address(0))}, 'published RouterID "0.0.0.0"'),
        ({"Name": 1}, "published Name 1, expected a string"),
        ({"Labels": ["rack"]}, "published Labels ['rack'], expected an object of strings"),
        ({"Labels": {"rack": 1}}, "published Labels {'rack': 1}, expected an object of strings"),
        ({"Port": 0}, "published Port 0, expected 1 to 65535"),
        ({"Port": "179"}, 'published Port "179", expected 1 to 65535'),
    ],
)
def test_garbage_of_a_peer_is_told_in_words(change: dict[str, object], why: str) -> None:
    with pytest.raises(ValueError, match="published") as error:
        parse_data(json.dumps(json.loads(DATA.render()) | change))
    assert str(error.value).startswith(why)


@pytest.mark.parametrize("text", ["", "null", "7", "[]", "{", "[" * 100_000, '{"AS": ' + "9" * 5000 + "}", '{"AS": NaN}'])
def test_what_is_no_object_is_told_on_one_short_line(text: str) -> None:
    with pytest.raises(ValueError, match=r"^published .{1,150}$"):
        parse_data(text)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=3,
)


@given(st.text() | st.dictionaries(st.sampled_from(["AS", "RouterID", "Name", "Labels", "Port"]), JSON).map(json.dumps))
def test_any_text_is_a_hosts_data_or_a_value_error(text: str) -> None:
    with suppress(ValueError):
        parse_data(text)


def test_a_peer_is_what_its_lease_says() -> None:
    plain = lease(7, "bgp", (4, 6))
    view = peer_view(replace(plain, attrs=replace(plain.attrs, backend_data=((4, DATA.render()), (6, DATA.render())))))
    assert (view.addresses, view.subnets, view.families) == (plain.attrs.public_ips, plain.subnets, (4, 6))
    assert view.data == DATA
    assert str(view) == "h1 (10.0.0.7, fd00:10::7)"


def test_a_lease_without_data_says_nothing_of_bgp() -> None:
    with pytest.raises(ValueError, match="published BackendData"):
        peer_view(lease(7, "host-gw"))


def test_this_host_is_what_the_config_has_for_it() -> None:
    config = parse({"port": 1790, "hosts": [{"Select": "name=h1,address in (10.0.0.0/24)", "AS": 65001, "RouterID": "1.1.1.1"}]})
    address, subnets = ip_address("10.0.0.1"), (ip_network("10.244.1.0/24"),)
    assert own_view(config, "h1", {"rack": "r1"}, (address,), subnets).data == BgpData(
        Asn(65001), "1.1.1.1", "h1", {"rack": "r1"}, 1790
    )
    assert own_view(config, "h2", {}, (address,), subnets).data == BgpData(Asn(64512), "10.0.0.1", "h2", {}, 1790)


def test_a_router_id_is_the_ipv4_address_or_follows_from_the_ipv6_address() -> None:
    v4, v6, other = ip_address("10.0.0.1"), ip_address("fd00::1"), ip_address("fd00::2")
    assert default_router_id((v4, v6)) == v4
    assert default_router_id((v6,)) == default_router_id((v6,)) != default_router_id((other,))


@given(st.integers(0, 2**128 - 1))
def test_a_router_id_is_never_zero(number: int) -> None:
    assert int(default_router_id((IPv6Address(number),)))


def test_name_and_address_are_labels_that_no_other_can_replace() -> None:
    labels = selectable("h1", {"name": "other", "rack": "r1"}, (ip_address("10.0.0.1"), ip_address("fd00::1")))
    assert labels == {"name": "h1", "address": "10.0.0.1,fd00::1", "rack": "r1"}
