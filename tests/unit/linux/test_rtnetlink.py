"""flanneld.linux.rtnetlink and message: bytes to values and back, with pyroute2 as the second opinion on the bytes."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from ipaddress import ip_address, ip_interface, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyroute2.netlink.rtnl.ndmsg import ndmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from flanneld.kernel import Entry, FdbEntry, Neighbour, Route, RouteKind
from flanneld.linux import rtnetlink as rt
from flanneld.linux.events import AddressEvent, FdbEvent, NeighbourEvent, RouteEvent, decode_event
from flanneld.linux.message import (
    MalformedMessage,
    Message,
    attribute,
    attributes,
    integer,
    nested,
    split_messages,
    string,
    text,
    u32,
)
from kernel_entries import entries, routes

ROUTE = Route(ip_network("10.244.2.0/24"), 7, ip_address("10.244.2.0"), onlink=True)
BODIES = st.binary(max_size=200)
HEADERS = st.builds(
    lambda family, length, rest: bytes((family, length, 0, 0, rt.RT_TABLE_MAIN, 84, 0, 1)) + rest,
    st.sampled_from((0, 2, 7, 10)),
    st.integers(0, 255),
    st.sampled_from((b"", bytes(4), bytes((0x80, 0, 2, 1)), bytes(8))),
)
PLAUSIBLE_BODIES = st.builds(
    lambda header, found: header + b"".join(attribute(kind, value) for kind, value in found),
    HEADERS,
    st.lists(st.tuples(st.integers(0, 20), st.binary(max_size=20))),
)
"""The fixed headers of all kinds have 8, 12 or 16 bytes, with the family first."""


@given(routes((7, 8)))
def test_a_route_decodes_to_itself(route: Route) -> None:
    assert rt.decode_route(rt.encode_entry(route)) == route


@given(entries((7, 8), (9,)))
def test_an_event_about_an_entry_carries_the_entry(entry: Entry) -> None:
    here = rt.encode_entry(entry)
    for message, deleted in ((here, False), (Message(here.kind + 1, here.body), True)):
        event = decode_event(message)
        assert isinstance(event, RouteEvent | NeighbourEvent | FdbEvent)
        assert (event.entry, event.deleted) == (entry, deleted)


@given(entries((7, 8), (9,)))
def test_a_deletion_names_the_entry_but_never_one_hop_of_several(entry: Entry) -> None:
    event = decode_event(rt.encode_removal(entry))
    assert isinstance(event, RouteEvent | NeighbourEvent | FdbEvent)
    assert event.deleted
    assert event.entry == (replace(entry, hops=frozenset()) if isinstance(entry, Route) else entry)


@given(st.lists(st.builds(Message, st.integers(16, 2**16 - 1), BODIES)))
def test_messages_split_where_they_were_joined(given_messages: list[Message]) -> None:
    data = b"".join(message.encode(sequence) for sequence, message in enumerate(given_messages))
    assert [(m.kind, m.body, m.sequence) for m in split_messages(data)] == [
        (m.kind, m.body, sequence) for sequence, m in enumerate(given_messages)
    ]


@given(BODIES)
def test_any_bytes_split_into_messages_or_are_malformed(data: bytes) -> None:
    with suppress(MalformedMessage):
        assert all(len(message.body) <= len(data) for message in split_messages(data))


@given(kind=st.sampled_from((16, 17, 20, 24, 28, 99)), body=BODIES | PLAUSIBLE_BODIES)
def test_any_notification_decodes_or_is_malformed(kind: int, body: bytes) -> None:
    with suppress(MalformedMessage):
        decode_event(Message(kind, body))


def test_attributes_are_padded_but_say_their_own_length() -> None:
    body = text(3, "eth0") + u32(4, 1450) + nested(18, attribute(1, b"\1"))
    assert len(body) % 4 == 0
    found = attributes(body)
    assert (string(found[3]), integer(found[4]), attributes(found[18])) == ("eth0", 1450, {1: b"\1"})


def test_pyroute2_reads_our_route() -> None:
    read = rtmsg(rt.encode_entry(ROUTE).encode(1))
    read.decode()
    assert (read["family"], read["dst_len"], read["table"], read["proto"], read["flags"]) == (2, 24, 254, 84, rt.RTNH_F_ONLINK)
    assert dict(read["attrs"])["RTA_GATEWAY"] == dict(read["attrs"])["RTA_DST"] == "10.244.2.0"
    assert dict(read["attrs"])["RTA_OIF"] == 7


def test_pyroute2_reads_our_fdb_entry() -> None:
    read = ndmsg(rt.encode_entry(FdbEntry(9, "02:00:00:00:00:0a", ip_address("172.31.0.2"))).encode(1))
    read.decode()
    assert (read["family"], read["ifindex"], read["state"], read["flags"]) == (7, 9, 0xC0, 2)
    assert dict(read["attrs"])["NDA_LLADDR"] == "02:00:00:00:00:0a"


def test_ipv4_goes_through_an_ipv6_next_hop_as_rfc_8950_allows() -> None:
    route = Route(ip_network("10.244.2.0/24"), 7, ip_address("fe80::1"))
    assert rt.decode_route(rt.encode_entry(route)) == route


def test_ipv6_metric_1024_is_the_default() -> None:
    assert rt.decode_route(rt.encode_entry(Route(ip_network("fd44::/64"), 7, metric=1024))) == Route(ip_network("fd44::/64"), 7)


def test_an_ipv6_blackhole_has_no_device_although_the_kernel_names_lo() -> None:
    blackhole = Route(ip_network("fd44::/64"), kind=RouteKind.BLACKHOLE)
    message = rt.encode_entry(blackhole)
    assert rt.decode_route(Message(message.kind, message.body + u32(rt.RTA_OIF, 1))) == blackhole


@pytest.mark.parametrize(("place", "value"), [(4, 255), (7, 2), (7, 5)], ids=["local table", "local type", "multicast type"])
def test_routes_of_other_tables_and_types_are_not_ours_to_see(place: int, value: int) -> None:
    body = bytearray(rt.encode_entry(ROUTE).body)
    body[place] = value
    assert rt.decode_route(Message(rt.RTM_NEWROUTE, bytes(body))) is None


def test_a_learned_fdb_entry_is_none_of_ours() -> None:
    entry = FdbEntry(9, "02:00:00:00:00:0a", ip_address("172.31.0.2"))
    learned = rt.NDMSG.pack(rt.AF_BRIDGE, 9, 0x02, rt.NTF_SELF, 0) + rt.encode_entry(entry).body[rt.NDMSG.size :]
    assert decode_event(Message(rt.RTM_NEWNEIGH, learned)) is None


def test_a_neighbour_that_is_no_longer_permanent_counts_as_gone() -> None:
    failed = rt.NDMSG.pack(2, 7, 0x20, 0, 0) + attribute(rt.NDA_DST, bytes([10, 0, 0, 2]))
    gone = NeighbourEvent(Neighbour(7, ip_address("10.0.0.2"), ""), deleted=True)
    assert decode_event(Message(rt.RTM_NEWNEIGH, failed)) == gone


def test_on_a_point_to_point_link_our_address_is_the_local_one() -> None:
    body = rt.IFADDRMSG.pack(2, 32, 0x80, 0, 7) + attribute(rt.IFA_ADDRESS, bytes([10, 0, 0, 2]))
    body += attribute(rt.IFA_LOCAL, bytes([10, 0, 0, 1]))
    assert decode_event(Message(rt.RTM_NEWADDR, body)) == AddressEvent(7, ip_interface("10.0.0.1/32"), deleted=False)


def test_the_best_address_is_global_and_permanent() -> None:
    link_local, dynamic, privacy, deprecated, best = (
        rt.Address(7, ip_interface("fd00::1/64"), scope, flags)
        for scope, flags in ((253, 0x80), (0, 0), (0, 0x01), (0, 0xA0), (0, 0x80))
    )
    ranked = sorted([link_local, deprecated, privacy, dynamic, best], key=lambda address: address.rank)
    assert ranked == [best, dynamic, privacy, link_local, deprecated]
