"""What the RIB's choices come to in the kernel."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_address, ip_network

from bgp.path import Path
from bgp.routes import OWN_METRIC, RoutePlanner, ends
from bgp_announcements import SUBNET, told
from flanneld.kernel import Hop, NextHop, Route, RouteKind
from flanneld.lease import IPNetwork
from memory_kernel import MemoryKernel

PODS = ip_network("10.244.0.0/16")
NET = ip_network(SUBNET)
DIRECT = NextHop(2, None)
ROUTED = NextHop(2, ip_address("10.0.0.254"))


def planner(**next_hops: NextHop) -> RoutePlanner:
    """Of a host that reaches 10.0.0.<n> as said by `n<n>`."""
    kernel = MemoryKernel()
    kernel.next_hops = {ip_address(f"10.0.0.{name[1:]}"): hop for name, hop in next_hops.items()}
    return RoutePlanner(kernel, lambda address: address in PODS)


def choices(*paths: Path) -> Mapping[IPNetwork, tuple[Path, ...]]:
    return {paths[0].prefix: paths}


def test_a_next_hop_on_the_link_is_the_gateway() -> None:
    assert planner(n2=DIRECT).routes(choices(told(2, SUBNET))) == {NET: Route(NET, 2, ip_address("10.0.0.2"))}


def test_a_next_hop_beyond_a_router_is_reached_as_the_kernel_reaches_it() -> None:
    found = planner(n2=ROUTED).routes(choices(told(2, SUBNET)))
    assert found == {NET: Route(NET, 2, ip_address("10.0.0.254"))}


def test_several_next_hops_are_one_route() -> None:
    found = planner(n2=DIRECT, n3=DIRECT).routes(choices(told(2, SUBNET), told(3, SUBNET)))
    assert found == {NET: Route.by(NET, [Hop(2, ip_address("10.0.0.2")), Hop(2, ip_address("10.0.0.3"))])}


def test_of_several_next_hops_those_count_that_can_be_reached() -> None:
    found = planner(n3=DIRECT).routes(choices(told(2, SUBNET), told(3, SUBNET)))
    assert found == {NET: Route(NET, 2, ip_address("10.0.0.3"))}


def test_to_what_nobody_can_be_sent_there_is_no_route() -> None:
    local = NextHop(1, None, local=True)
    assert planner(n3=local).routes(choices(told(2, SUBNET))) == {}
    assert planner(n3=local).routes(choices(told(3, SUBNET))) == {}


def test_an_address_of_a_pod_is_no_next_hop() -> None:
    pods = RoutePlanner(kernel := MemoryKernel(), lambda address: address in PODS)
    kernel.next_hops = {ip_address("10.244.9.1"): DIRECT}
    assert pods.routes(choices(told(2, SUBNET, via="10.244.9.1"))) == {}
    assert not pods.on_link(ip_address("10.244.9.1"))


def test_what_stays_as_it_was_is_the_same_object() -> None:
    plans, same = planner(n2=DIRECT), choices(told(2, SUBNET))
    assert plans.routes(same)[NET] is plans.routes(same)[NET]


def test_ways_are_looked_up_again_when_that_is_asked_for() -> None:
    plans, same = planner(n2=DIRECT), choices(told(2, SUBNET))
    plans.routes(same)
    assert not plans.refresh()
    assert isinstance(plans.kernel, MemoryKernel)
    plans.kernel.next_hops[ip_address("10.0.0.2")] = ROUTED
    assert plans.routes(same)[NET].gateway == ip_address("10.0.0.2")
    assert plans.refresh()
    assert plans.routes(same)[NET].gateway == ip_address("10.0.0.254")


def test_what_is_behind_a_router_is_on_no_link() -> None:
    plans = planner(n2=DIRECT, n3=ROUTED)
    assert [plans.on_link(ip_address(f"10.0.0.{n}")) for n in (2, 3, 4)] == [True, False, False]


def test_what_is_for_no_pod_of_ours_ends_behind_all_other_routes() -> None:
    (end,) = ends((NET,))
    assert (end.destination, end.kind, end.metric) == (NET, RouteKind.BLACKHOLE, OWN_METRIC)
