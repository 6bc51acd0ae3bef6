"""Routes with several hops on the real kernel; iproute2 is the second opinion, and the stranger who meddles."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flanneld.kernel import Entry, Hop, Owner, Route, RouteKind, bring, reconcile
from flanneld.lease import IPNetwork
from flanneld.linux import netns
from flanneld.linux.events import Event, RouteEvent
from flanneld.linux.kernel import LinuxKernel
from flanneld.linux.netlink import Group, Monitor, Netlink
from kernel_entries import OTHERS_PROTOCOL, POD_NETWORKS
from scratch_netns import ScratchNetns, scratch_netns

DEVICES = {"eth0": 10, "eth1": 11, "eth2": 12}
OWNER = Owner(POD_NETWORKS)
ANYWHERE = (ip_network("0.0.0.0/0"), ip_network("::/0"))
SUBNET, SUBNET6 = ip_network("10.244.2.0/24"), ip_network("fd44:0:0:2::/64")
HOPS = {
    4: tuple(Hop(index, ip_address(f"10.0.{index}.2")) for index in DEVICES.values()),
    6: tuple(Hop(index, ip_address(f"fd00:{index}::2")) for index in DEVICES.values()),
}
families = pytest.mark.parametrize("network", [SUBNET, SUBNET6])


@dataclass(frozen=True)
class World:
    """Three uplinks, 10.0.<index>.1/24 and fd00:<index>::1/64, each with a cable in it."""

    scratch: ScratchNetns
    netlink: Netlink
    kernel: LinuxKernel

    def everything(self) -> frozenset[Entry]:
        owners = (Owner(ANYWHERE, protocol=protocol) for protocol in (84, OTHERS_PROTOCOL))
        return frozenset(entry for owner in owners for entry in self.kernel.entries(owner))

    def clear(self) -> None:
        for name, index in DEVICES.items():
            self.scratch.ip(f"link set {name} up")
            self.scratch.ip(f"addr replace 10.0.{index}.1/24 dev {name}")
            self.scratch.ip(f"addr replace fd00:{index}::1/64 dev {name} nodad")
        assert not self.kernel.remove(self.everything())
        assert not self.everything()

    def shown(self, network: IPNetwork) -> list[dict[str, Any]]:
        """What `ip route` shows for exactly that destination."""
        return self.scratch.read(f"ip -{network.version} route show exact {network}")


@pytest.fixture(scope="module")
def shared_world() -> Iterator[World]:
    with scratch_netns() as scratch, netns.netlink_in(scratch.path) as netlink:
        for name, index in DEVICES.items():
            scratch.ip(f"link add {name} index {index} type veth peer name cable-{name}")
            scratch.ip(f"link set cable-{name} up")
        yield World(scratch, netlink, LinuxKernel(netlink))


@pytest.fixture
def world(shared_world: World) -> World:
    shared_world.clear()
    return shared_world


def by(network: IPNetwork, *places: int, protocol: int = 84, metric: int = 0) -> Route:
    """The route by these of HOPS."""
    return Route.by(network, [HOPS[network.version][place] for place in places], protocol, metric)


def line(network: IPNetwork, *places: int, rest: str = "proto 84") -> str:
    """The same as iproute2 wants it said, in the order given."""
    hops = [HOPS[network.version][place] for place in places]
    names = {index: name for name, index in DEVICES.items()}
    return f"{network} {rest} " + " ".join(f"nexthop via {hop.gateway} dev {names[hop.device]}" for hop in hops)


def vias(shown: dict[str, Any]) -> set[tuple[str, str, int]]:
    return {(hop["gateway"], hop["dev"], hop["weight"]) for hop in shown["nexthops"]}


@families
def test_iproute2_reads_our_hops(world: World, network: IPNetwork) -> None:
    assert not world.kernel.add([by(network, 2, 0)])
    (read,) = world.shown(network)
    first, _, last = (str(hop.gateway) for hop in HOPS[network.version])
    assert vias(read) == {(first, "eth0", 1), (last, "eth2", 1)}
    assert world.everything() == {by(network, 0, 2)}


def test_ipv4_takes_hops_of_both_families_and_on_the_link() -> None:
    hops = [HOPS[4][0], Hop(11, ip_address("fe80::7")), Hop(12), Hop(12, ip_address("192.0.2.9"), onlink=True)]
    with scratch_netns() as scratch, netns.netlink_in(scratch.path) as netlink:
        for name, index in DEVICES.items():
            scratch.ip(f"link add {name} index {index} type bridge")
            scratch.ip(f"addr add 10.0.{index}.1/24 dev {name}")
            scratch.ip(f"link set {name} up")
        kernel, route = LinuxKernel(netlink), Route.by(SUBNET, hops)
        assert not reconcile(kernel, OWNER, [route]).refused
        assert kernel.entries(OWNER) == {route}
        (read,) = scratch.read(f"ip route show {SUBNET}")
    assert [hop["via"] for hop in read["nexthops"] if "via" in hop] == [{"family": "inet6", "host": "fe80::7"}]
    assert [hop["gateway"] for hop in read["nexthops"] if "onlink" in hop["flags"]] == ["192.0.2.9"]


def test_ipv6_takes_gateways_only_and_says_so(world: World) -> None:
    route = Route.by(SUBNET6, [HOPS[6][0], Hop(11)])
    (refusal,) = reconcile(world.kernel, OWNER, [route]).refused
    assert refusal.what == route
    assert not world.everything()


@families
@pytest.mark.parametrize("metric", [0, 50])
@pytest.mark.parametrize("known", [False, True])
def test_hops_come_and_go_and_nothing_else_does(world: World, network: IPNetwork, metric: int, known: bool) -> None:
    was = frozenset[Entry]()
    for places in ((0,), (0, 1), (0, 1, 2), (0, 1), (0,), (0, 2), (2,), (1, 2), (1,), (1, 2), (0, 1, 2), (2,), (0, 1), (0, 2)):
        now = frozenset[Entry]((by(network, *places, metric=metric),))
        assert not bring(world.kernel, now, was, known=known).refused
        assert world.everything() == now
        assert len(world.shown(network)) == 1
        was = now


@families
def test_hops_are_replaced_in_one_call(world: World, network: IPNetwork) -> None:
    for places in ((0, 1, 2), (1,), (1, 2), (0,), (0, 1)):
        assert not world.kernel.add([by(network, *places)])
        assert world.everything() == {by(network, *places)}


STEPS = st.lists(
    st.dictionaries(
        st.sampled_from((SUBNET, SUBNET6, ip_network("10.244.3.0/24"))),
        st.one_of(st.none(), st.lists(st.integers(0, 2), min_size=1, max_size=3, unique=True)),
    ),
    min_size=2,
    max_size=6,
)


@settings(max_examples=60, deadline=None)
@given(steps=STEPS, known=st.booleans())
def test_whatever_changes_into_whatever_nothing_else_is_left_or_lost(
    shared_world: World, steps: Sequence[dict[IPNetwork, list[int] | None]], known: bool
) -> None:
    shared_world.clear()
    was = frozenset[Entry]()
    for step in steps:
        routes = (by(to, *places) if places else Route(to, kind=RouteKind.BLACKHOLE) for to, places in step.items())
        now = frozenset[Entry](routes)
        assert not bring(shared_world.kernel, now - was, was - now, known=known).refused
        assert shared_world.everything() == now
        was = now


@families
def test_exactly_the_removed_route_goes(world: World, network: IPNetwork) -> None:
    gone = by(network, 0, 1)
    supernet: IPNetwork = network.supernet(1)
    stay = {by(network, 0, 1, metric=50), by(network, 0, metric=60), by(supernet, 0, 1)}
    stay |= {by(network, 0, 1, protocol=OTHERS_PROTOCOL, metric=70)}
    for known in (False, True):
        assert not world.kernel.add([gone, *stay])
        assert not world.kernel.remove([gone], known=known)
        assert world.everything() == stay


@families
def test_removing_a_route_with_other_hops_than_the_present_one_removes_nothing(world: World, network: IPNetwork) -> None:
    here = by(network, 0, 1)
    assert not world.kernel.add([here])
    assert not world.kernel.remove([by(network, 0), by(network, 0, 1, 2), by(network, 1, 2), by(network, 0, 1, protocol=4)])
    assert world.everything() == {here}


@pytest.mark.parametrize("wanted", [(0,), (0, 1), (0, 1, 2)])
@pytest.mark.parametrize("beside", [(0,), (0, 1), (1, 0), (0, 1, 2), (2, 1, 0)])
@pytest.mark.parametrize("first", [True, False])
def test_what_a_stranger_put_beside_ours_in_our_name_goes(
    world: World, wanted: tuple[int, ...], beside: tuple[int, ...], first: bool
) -> None:
    ours, foreign = by(SUBNET, *wanted), by(SUBNET, 2, 0, protocol=OTHERS_PROTOCOL)
    assert not world.kernel.add([ours])
    world.scratch.ip(f"route append {line(SUBNET, 2, 0, rest=f'proto {OTHERS_PROTOCOL}')}")
    if set(beside) != set(wanted):
        world.scratch.ip(f"route {'prepend' if first else 'append'} {line(SUBNET, *beside)}")
    reconcile(world.kernel, OWNER, [ours])
    assert world.everything() == {ours, foreign}
    assert not reconcile(world.kernel, OWNER, [ours]).changed


@families
@pytest.mark.parametrize("order", [(0, 1), (1, 0), (2, 1, 0)])
def test_a_strangers_route_with_several_hops_goes_whatever_their_order(
    world: World, network: IPNetwork, order: tuple[int, ...]
) -> None:
    world.scratch.ip(f"route add {line(network, *order)}")
    assert world.kernel.entries(OWNER) == {by(network, *order)}
    assert reconcile(world.kernel, OWNER, []).removed == {by(network, *order)}
    assert not world.shown(network)


@families
@pytest.mark.parametrize("spoilt", ["weight", "grown", "shrunk", "emptied"])
def test_what_a_stranger_did_to_our_hops_is_told_and_put_right(world: World, network: IPNetwork, spoilt: str) -> None:
    ours = by(network, 0, 1)
    commands = {
        "weight": f"route replace {line(network, 0)} weight 3 {line(network, 1).partition('proto 84 ')[2]}",
        "grown": f"route replace {line(network, 0, 1, 2)}",
        "shrunk": f"route replace {line(network, 1)}",
        "emptied": f"route del {line(network, 0, 1)}",
    }
    assert not world.kernel.add([ours])
    with netns.run_in(world.scratch.path, Monitor, ours={world.netlink.portid}) as monitor:
        world.scratch.ip(commands[spoilt])
        told = asyncio.run(events_of(monitor, network))
    assert all(OWNER.owns(event.entry) and event != RouteEvent(ours, deleted=False) for event in told)
    assert reconcile(world.kernel, OWNER, [ours]).added == {ours}
    assert world.everything() == {ours}


async def events_of(monitor: Monitor, network: IPNetwork, last: Event | None = None) -> list[RouteEvent]:
    """What is told of routes to that network, until `last` or, without one, until there is something."""
    seen: list[RouteEvent] = []
    async with asyncio.timeout(10):
        while not seen or (last is not None and last not in seen):
            batch = await anext(monitor)
            seen += [event for event in batch if isinstance(event, RouteEvent) and event.entry.destination == network]
    return seen


def test_ipv6_hops_that_strangers_add_or_take_out_one_by_one_are_told_and_put_right(world: World) -> None:
    ours = by(SUBNET6, 0, 1)
    for command in (
        f"append {SUBNET6} via fd00:12::2 proto 4",
        f"append {SUBNET6} via fd00:12::2 proto 84",
        f"del {SUBNET6} via fd00:10::2",
    ):
        assert not reconcile(world.kernel, OWNER, [ours]).refused
        with netns.run_in(world.scratch.path, Monitor) as monitor:
            world.scratch.ip(f"-6 route {command}")
            (told,) = asyncio.run(events_of(monitor, SUBNET6))
        assert told != RouteEvent(ours, deleted=False)
        assert reconcile(world.kernel, OWNER, [ours]).changed
        assert world.everything() == {ours}


@families
def test_the_echo_of_our_own_changes_is_what_we_did(world: World, network: IPNetwork) -> None:
    """Else the daemon would look again after each of its own rounds, for ever."""
    routes = [by(network, *places) for places in ((0, 1), (0, 1, 2), (1, 2), (2,), (2, 0))]
    with netns.run_in(world.scratch.path, Monitor, Group.IPV4_ROUTES, Group.IPV6_ROUTES) as monitor:
        for old, new in zip([None, *routes], routes, strict=False):
            bring(world.kernel, frozenset((new,)), frozenset((old,) if old else ()), known=True)
        world.kernel.remove(routes[-1:], known=True)
        told = asyncio.run(events_of(monitor, network, RouteEvent(routes[-1], deleted=True)))
    assert told == [*(RouteEvent(route, deleted=False) for route in routes), RouteEvent(routes[-1], deleted=True)]


@families
def test_our_own_changes_are_signed(world: World, network: IPNetwork) -> None:
    mark = Route(network.supernet(1), kind=RouteKind.BLACKHOLE, protocol=4)
    with netns.run_in(world.scratch.path, Monitor, ours={world.netlink.portid}) as monitor:
        for places in ((0, 1), (0, 1, 2), (2,)):
            assert not reconcile(world.kernel, OWNER, [by(network, *places)]).refused
        assert not reconcile(world.kernel, OWNER, [by(network, 0, 1)]).refused
        assert not reconcile(world.kernel, OWNER, []).refused
        world.scratch.ip(f"-{network.version} route add blackhole {mark.destination} proto 4")
        told = asyncio.run(all_until(monitor, RouteEvent(mark, deleted=False)))
    assert told == [RouteEvent(mark, deleted=False)]


async def all_until(monitor: Monitor, last: Event) -> list[Event]:
    seen: list[Event] = []
    async with asyncio.timeout(10):
        while last not in seen:
            seen += [event for event in await anext(monitor) if isinstance(event, RouteEvent)]
    return seen


@families
def test_a_hop_whose_device_is_down_stays_ours_and_is_used_again(world: World, network: IPNetwork) -> None:
    ours = by(network, 0, 1)
    assert not reconcile(world.kernel, OWNER, [ours]).refused
    world.scratch.ip("link set eth1 down")
    assert [sorted(hop["flags"]) for hop in world.shown(network)[0]["nexthops"]] == [[], ["dead", "linkdown"]]
    assert not reconcile(world.kernel, OWNER, [ours]).changed
    world.scratch.ip("link set eth1 up")
    assert not reconcile(world.kernel, OWNER, [ours]).refused
    assert world.everything() == {ours}
    assert not any("dead" in hop["flags"] for hop in world.shown(network)[0]["nexthops"])


@families
def test_a_route_all_of_whose_devices_were_down_comes_back_with_them(world: World, network: IPNetwork) -> None:
    ours = by(network, 0, 1)
    assert not reconcile(world.kernel, OWNER, [ours]).refused
    for name in ("eth0", "eth1"):
        world.scratch.ip(f"link set {name} down")
    assert not world.everything()
    (refusal,) = reconcile(world.kernel, OWNER, [ours]).refused
    assert refusal.what == ours
    for name, index in (("eth0", 10), ("eth1", 11)):
        world.scratch.ip(f"link set {name} up")
        world.scratch.ip(f"addr replace fd00:{index}::1/64 dev {name} nodad")
    assert not reconcile(world.kernel, OWNER, [ours]).refused
    assert world.everything() == {ours}


@families
def test_hops_that_changed_while_a_device_was_down_are_right_once_it_is_up(world: World, network: IPNetwork) -> None:
    both, one = by(network, 0, 1), by(network, 0)
    assert not reconcile(world.kernel, OWNER, [both]).refused
    world.scratch.ip("link set eth1 down")
    assert reconcile(world.kernel, OWNER, [one]).added == {one}
    assert world.everything() == {one}
    assert [refusal.what for refusal in reconcile(world.kernel, OWNER, [both]).refused] == [both]
    world.scratch.ip("link set eth1 up")
    world.scratch.ip("addr replace fd00:11::1/64 dev eth1 nodad")
    assert not reconcile(world.kernel, OWNER, [both]).refused
    assert world.everything() == {both}


@families
def test_a_hop_whose_device_is_gone_leaves_a_route_that_can_be_mended(network: IPNetwork) -> None:
    with scratch_netns() as scratch, netns.netlink_in(scratch.path) as netlink:
        world = World(scratch, netlink, LinuxKernel(netlink))
        for name, index in DEVICES.items():
            scratch.ip(f"link add {name} index {index} type bridge")
        world.clear()
        assert not reconcile(world.kernel, OWNER, [by(network, 0, 1, 2)]).refused
        scratch.ip("link del eth1")
        assert world.everything() == ({by(network, 0, 2)} if network.version == 6 else set())
        assert not reconcile(world.kernel, OWNER, [by(network, 0, 2)]).refused
        assert world.everything() == {by(network, 0, 2)}


@families
def test_one_unfit_hop_refuses_the_route_by_name_and_leaves_the_old_one(world: World, network: IPNetwork) -> None:
    old, good = by(network, 0, 1), by(network.supernet(1), 0, 1)
    unfit = Route.by(
        network, [*HOPS[network.version][:2], Hop(12, ip_address("203.0.113.1" if network.version == 4 else "2001:db8::1"))]
    )
    assert not reconcile(world.kernel, Owner(ANYWHERE), [old]).refused
    (refusal,) = world.kernel.add([unfit, good])
    assert refusal.what == unfit
    assert str(unfit) in str(refusal)
    assert world.everything() == {old, good}


def test_thousands_of_routes_with_many_hops(world: World) -> None:
    subnets = [ip_network(f"10.{high}.{low}.0/24") for high in range(128, 136) for low in range(250)]
    subnets += [ip_network(f"fd44:0:0:{number:x}::/64") for number in range(500)]
    gateways = {4: "10.0.{}.{}", 6: "fd00:{}::{}"}
    hops = {
        version: [Hop(index, ip_address(form.format(index, n))) for index in DEVICES.values() for n in range(2, 10)]
        for version, form in gateways.items()
    }
    wanted = [Route.by(subnet, hops[subnet.version]) for subnet in subnets]
    assert not world.kernel.add(wanted)
    assert world.everything() == set(wanted)
    less = [replace(route, hops=route.hops - {hops[route.destination.version][0]}) for route in wanted]
    assert not bring(world.kernel, frozenset(less), frozenset(wanted), known=True).refused
    assert world.everything() == set(less)
