"""RTA_MULTIPATH of flanneld.linux.rtnetlink: a route's hops to bytes and back, with pyroute2 as the second opinion."""

from __future__ import annotations

import struct
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from flanneld.kernel import Hop, Route
from flanneld.lease import IPAddress
from flanneld.linux import rtnetlink as rt
from flanneld.linux.message import MalformedMessage, Message, attribute, u32

SUBNET, SUBNET6 = ip_network("10.244.2.0/24"), ip_network("fd44:0:0:2::/64")
A, B = Hop(7, ip_address("10.0.0.2")), Hop(8, ip_address("10.0.1.2"), onlink=True)
VIA_IPV6 = Hop(8, ip_address("fe80::1"))
DEAD, LINKDOWN = 1, 16
"""RTNH_F_DEAD, RTNH_F_LINKDOWN."""


def any_hops(version: int) -> st.SearchStrategy[frozenset[Hop]]:
    gateways: st.SearchStrategy[IPAddress | None] = st.ip_addresses(v=6)
    if version == 4:
        gateways = st.one_of(st.none(), st.ip_addresses(v=4), gateways)
    each = st.builds(Hop, st.integers(1, 2**31 - 1), gateways, st.booleans(), st.integers(1, 256))
    return st.frozensets(each, min_size=2, max_size=64)


def as_told(*hops: bytes) -> Message:
    """The kernel's message about a route with these hops."""
    head = rt.RTMSG.pack(2, 24, 0, 0, rt.RT_TABLE_MAIN, 84, 0, 1, 0) + attribute(rt.RTA_DST, SUBNET.network_address.packed)
    return Message(rt.RTM_NEWROUTE, head + attribute(rt.RTA_MULTIPATH, b"".join(hops)))


def hop_bytes(hop: Hop, flags: int = 0) -> bytes:
    via = b"" if hop.gateway is None else attribute(rt.RTA_GATEWAY, hop.gateway.packed)
    return struct.pack("=HBBI", 8 + len(via), flags, hop.weight - 1, hop.device) + via


@given(st.sampled_from((SUBNET, SUBNET6)).flatmap(lambda to: st.builds(Route.by, st.just(to), any_hops(to.version))))
def test_a_route_with_several_hops_decodes_to_itself(route: Route) -> None:
    assert rt.decode_route(rt.encode_entry(route)) == route


@given(st.permutations([hop_bytes(Hop(7, ip_address(f"10.0.0.{n}"))) for n in range(2, 7)]))
def test_the_order_in_which_the_kernel_tells_hops_does_not_matter(told: list[bytes]) -> None:
    assert rt.decode_route(as_told(*told)) == Route.by(SUBNET, [Hop(7, ip_address(f"10.0.0.{n}")) for n in range(2, 7)])


def test_hops_go_out_in_one_order_so_that_flows_keep_theirs() -> None:
    assert rt.encode_entry(Route.by(SUBNET, [A, B, VIA_IPV6])) == rt.encode_entry(Route.by(SUBNET, [VIA_IPV6, B, A]))


def test_a_route_by_one_hop_has_no_list_of_hops() -> None:
    assert rt.encode_entry(Route.by(SUBNET, [A])) == rt.encode_entry(Route(SUBNET, 7, ip_address("10.0.0.2")))


def test_a_hop_whose_device_is_down_is_the_same_hop() -> None:
    a, b = Hop(7, ip_address("10.0.0.2")), Hop(8, ip_address("10.0.1.2"))
    assert rt.decode_route(as_told(hop_bytes(a), hop_bytes(b, DEAD | LINKDOWN))) == Route.by(SUBNET, [a, b])


def test_a_strangers_weights_make_another_route() -> None:
    heavy = Hop(7, ip_address("10.0.0.2"), weight=3)
    b = Hop(8, ip_address("10.0.1.2"))
    assert rt.decode_route(as_told(hop_bytes(heavy), hop_bytes(b))) == Route.by(SUBNET, [heavy, b])
    assert rt.decode_route(as_told(hop_bytes(heavy), hop_bytes(b))) != Route.by(SUBNET, [A, b])


@pytest.mark.parametrize(("times", "weight"), [(2, 2), (300, 256)])
def test_a_hop_that_is_there_several_times_has_their_weight(times: int, weight: int) -> None:
    b = Hop(8, ip_address("10.0.1.2"))
    told = [hop_bytes(A)] * times + [hop_bytes(b)]
    assert rt.decode_route(as_told(*told)) == Route.by(SUBNET, [Hop(7, ip_address("10.0.0.2"), weight=weight), b])


@pytest.mark.parametrize("value", [b"", bytes(4), struct.pack("=HBBI", 4, 0, 0, 7), struct.pack("=HBBI", 99, 0, 0, 7)])
def test_hops_that_are_none_are_malformed(value: bytes) -> None:
    with pytest.raises(MalformedMessage, match="next hop"):
        rt.decode_route(as_told(value))


@given(st.lists(st.builds(lambda length, rest: struct.pack("=H", length) + rest, st.integers(0, 40), st.binary(max_size=40))))
def test_any_hops_decode_or_are_malformed(hops: list[bytes]) -> None:
    try:
        route = rt.decode_route(as_told(*hops))
    except MalformedMessage:
        return
    assert route is not None
    assert route.ways


def test_pyroute2_reads_our_hops() -> None:
    read = rtmsg(rt.encode_entry(Route.by(SUBNET, [A, B])).encode(1))
    read.decode()
    told = dict(read["attrs"])
    assert "RTA_OIF" not in told
    assert "RTA_GATEWAY" not in told
    found = [(hop["oif"], hop["flags"], hop["hops"], dict(hop["attrs"])["RTA_GATEWAY"]) for hop in told["RTA_MULTIPATH"]]
    assert found == [(7, 0, 0, "10.0.0.2"), (8, rt.RTNH_F_ONLINK, 0, "10.0.1.2")]


def test_a_destination_is_found_without_the_rest() -> None:
    everywhere = Message(rt.RTM_NEWROUTE, rt.RTMSG.pack(10, 0, 0, 0, rt.RT_TABLE_MAIN, 84, 0, 1, 0) + u32(rt.RTA_OIF, 7))
    assert rt.leads_to(rt.encode_entry(Route.by(SUBNET, [A, B])), {SUBNET.network_address.packed})
    assert not rt.leads_to(rt.encode_entry(Route.by(SUBNET, [A, B])), {bytes(4)})
    assert rt.leads_to(everywhere, {bytes(16)})
