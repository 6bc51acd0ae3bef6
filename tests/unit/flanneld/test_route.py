"""flanneld.kernel.Route with several hops, as a value, and whose it is."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flanneld.kernel import Hop, Link, Owner, Route, RouteKind
from flanneld.lease import IPNetwork
from kernel_entries import hops
from memory_kernel import MemoryKernel

SUBNET, SUBNET6 = ip_network("10.244.2.0/24"), ip_network("fd44:0:0:2::/64")
A, B, C = (Hop(device, ip_address(f"10.0.{device}.2")) for device in (7, 8, 9))


@given(hops((7, 8), 4).flatmap(lambda several: st.tuples(st.permutations(sorted(several, key=str)), st.just(several))))
def test_routes_by_the_same_hops_are_one_value_and_read_alike(orders: tuple[list[Hop], frozenset[Hop]]) -> None:
    one, other = (Route.by(SUBNET, order) for order in orders)
    assert (one, hash(one), str(one), one.ways) == (other, hash(other), str(other), other.ways)
    assert set(one.ways) == orders[1]


def test_a_route_by_one_hop_is_the_one_that_was_made_without_any() -> None:
    assert Route.by(SUBNET, [A, A]) == Route(SUBNET, 7, ip_address("10.0.7.2"))
    assert Route(SUBNET, 7, ip_address("10.0.7.2")).ways == (A,)


def test_a_blackhole_has_no_way() -> None:
    assert Route(SUBNET, kind=RouteKind.BLACKHOLE).ways == ()


def test_a_route_by_no_hop_is_refused() -> None:
    with pytest.raises(ValueError, match="not enough values"):
        Route.by(SUBNET, [])


def test_routes_in_one_slot_differ_by_their_hops() -> None:
    two, three = Route.by(SUBNET, [A, B]), Route.by(SUBNET, [A, B, C])
    assert two.slot == three.slot == Route.by(SUBNET, [A]).slot
    assert len({two, three, Route.by(SUBNET, [A]), replace(two, metric=5), Route.by(SUBNET, [A, replace(B, weight=2)])}) == 5


def test_a_route_is_told_with_all_its_hops() -> None:
    told = "unicast route 10.244.2.0/24 via 10.0.7.2 on device 7 and on device 8 weight 3"
    assert str(Route.by(SUBNET, [A, Hop(8, weight=3)])) == told
    assert str(Route.by(SUBNET, [A])) == "unicast route 10.244.2.0/24 via 10.0.7.2 on device 7"


def test_a_route_is_on_our_devices_if_all_of_it_is() -> None:
    owner = Owner(devices=frozenset((7, 8)))
    assert owner.owns(Route.by(SUBNET, [A, B], protocol=4))
    assert not owner.owns(Route.by(SUBNET, [A, C]))
    assert Owner((SUBNET,)).owns(Route.by(SUBNET, [A, C]))
    assert not Owner((SUBNET,)).owns(Route.by(SUBNET, [A, C], protocol=4))


@pytest.mark.parametrize(("network", "left"), [(SUBNET, []), (SUBNET6, [Route.by(SUBNET6, [C])])])
def test_with_a_device_ipv4_loses_the_route_and_ipv6_the_hop(network: IPNetwork, left: list[Route]) -> None:
    kernel = MemoryKernel(links=[Link(7, "flannel.1", 1450, "")])
    kernel.present = {Route.by(network, [A, C]), Route.by(ip_network("10.99.0.0/24"), [B, C])}
    kernel.remove_link("flannel.1")
    assert kernel.present == {*left, Route.by(ip_network("10.99.0.0/24"), [B, C])}
