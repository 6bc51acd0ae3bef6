"""flanneld.linux.kernel on the real kernel; iproute2 is the second opinion, and the stranger who meddles."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from dataclasses import dataclass, replace
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flanneld.kernel import Entry, FdbEntry, KernelError, Neighbour, NextHop, Owner, Route, RouteKind, reconcile
from flanneld.lease import IPNetwork
from flanneld.linux import netns
from flanneld.linux.kernel import LinuxKernel
from flanneld.linux.netlink import Netlink
from kernel_entries import OTHERS_PROTOCOL, POD_NETWORKS, desired, entries
from memory_kernel import MemoryKernel
from scratch_netns import ScratchNetns, scratch_netns

UPLINK, VTEP = 10, 11
"""Interface indexes, the same in every world, so that strategies may name them."""
OWNER = Owner(POD_NETWORKS, frozenset((VTEP,)))
ANYWHERE = (ip_network("0.0.0.0/0"), ip_network("::/0"))
ENTRIES = st.frozensets(entries((UPLINK, VTEP), (VTEP,)), max_size=12)
MAC = "02:00:00:00:00:0a"
SUBNET, SUBNET6 = ip_network("10.244.2.0/24"), ip_network("fd44:0:0:2::/64")
ROUTE = Route(SUBNET, UPLINK, ip_address("10.0.0.2"))


@dataclass(frozen=True)
class World:
    """An uplink that can reach 10.0.0.0/24 and fd00::/64, and a VXLAN device."""

    scratch: ScratchNetns
    netlink: Netlink
    kernel: LinuxKernel

    def everything(self) -> frozenset[Entry]:
        """All but what the kernel made."""
        devices = frozenset((UPLINK, VTEP))
        owners = (Owner(ANYWHERE, devices, protocol) for protocol in (84, OTHERS_PROTOCOL))
        return frozenset(entry for owner in owners for entry in self.kernel.entries(owner))

    def clear(self) -> None:
        assert not self.kernel.remove(self.everything())
        assert not self.everything()


@pytest.fixture(scope="module")
def shared_world() -> Iterator[World]:
    with scratch_netns() as scratch, netns.netlink_in(scratch.path) as netlink:
        scratch.ip(f"link add eth0 index {UPLINK} type bridge")
        scratch.ip("addr add 10.0.0.1/24 dev eth0")
        scratch.ip("addr add fd00::1/64 dev eth0 nodad")
        scratch.ip("link set eth0 up")
        scratch.ip(f"link add flannel.1 index {VTEP} type vxlan id 1 local 10.0.0.1 dev eth0 dstport 8472 nolearning")
        scratch.ip("link set flannel.1 up")
        yield World(scratch, netlink, LinuxKernel(netlink))


@pytest.fixture
def world(shared_world: World) -> World:
    shared_world.clear()
    return shared_world


@settings(max_examples=60, deadline=None)
@given(present=ENTRIES, wanted=ENTRIES)
def test_from_any_kernel_reconcile_ends_there(shared_world: World, present: frozenset[Entry], wanted: frozenset[Entry]) -> None:
    shared_world.clear()
    kernel, want = shared_world.kernel, desired(OWNER, wanted)
    assert not kernel.add(present)
    foreign = {entry for entry in shared_world.everything() if not OWNER.owns(entry)}
    assert not reconcile(kernel, OWNER, want).refused
    assert kernel.entries(OWNER) == want
    assert not reconcile(kernel, OWNER, want).changed
    taken = {entry.slot for entry in want}
    assert shared_world.everything() >= {entry for entry in foreign if entry.slot not in taken}


@settings(max_examples=60, deadline=None)
@given(calls=st.lists(st.tuples(st.booleans(), ENTRIES), max_size=5))
def test_the_kernel_in_memory_does_what_linux_does(shared_world: World, calls: list[tuple[bool, frozenset[Entry]]]) -> None:
    shared_world.clear()
    memory = MemoryKernel()
    for add, batch in calls:
        ordered = sorted(batch, key=repr)
        for kernel in (shared_world.kernel, memory):
            assert not (kernel.add(ordered) if add else kernel.remove(ordered))
        assert shared_world.everything() == memory.present


@pytest.mark.parametrize("metric", [0, 77])
@pytest.mark.parametrize("network", [SUBNET, SUBNET6])
def test_iproute2_reads_our_routes(world: World, network: IPNetwork, metric: int) -> None:
    gateway = network.network_address
    assert not world.kernel.add([Route(network, VTEP, gateway, onlink=True, metric=metric)])
    (read,) = world.scratch.read(f"ip -{network.version} route show proto 84")
    assert (read["dst"], read["gateway"], read["dev"], read["flags"]) == (str(network), str(gateway), "flannel.1", ["onlink"])
    assert read.get("metric", 0) == (metric or (1024 if network.version == 6 else 0))


def test_iproute2_reads_our_neighbours_and_fdb(world: World) -> None:
    vtep = ip_address("10.244.2.0")
    assert not world.kernel.add([Neighbour(VTEP, vtep, MAC), FdbEntry(VTEP, MAC, ip_address("10.0.0.2"))])
    (neighbour,) = world.scratch.read("ip -4 neigh show dev flannel.1 nud permanent")
    assert (neighbour["dst"], neighbour["lladdr"]) == ("10.244.2.0", MAC)
    (fdb,) = [entry for entry in world.scratch.read("bridge fdb show dev flannel.1") if entry["mac"] == MAC]
    assert (fdb["dst"], fdb["state"], fdb["flags"]) == ("10.0.0.2", "permanent", ["self"])


def test_what_iproute2_put_in_as_flannel_does_is_read_as_ours(world: World) -> None:
    world.scratch.ip("route replace 10.244.2.0/24 via 10.244.2.0 dev flannel.1 onlink proto boot")
    world.scratch.ip(f"neigh replace 10.244.2.0 lladdr {MAC} dev flannel.1 nud permanent")
    route = Route(SUBNET, VTEP, ip_address("10.244.2.0"), onlink=True, protocol=3)
    assert world.kernel.entries(OWNER) == {route, Neighbour(VTEP, ip_address("10.244.2.0"), MAC)}


def test_what_the_kernel_made_is_nobodys(world: World) -> None:
    assert world.scratch.read("ip -6 route show dev eth0")
    assert not world.kernel.entries(Owner(devices=frozenset((UPLINK,)), networks=ANYWHERE))
    assert not world.kernel.entries(Owner(devices=frozenset((UPLINK,)), networks=ANYWHERE, protocol=2))


def test_a_namespace_without_any_route_has_no_entries() -> None:
    with scratch_netns() as scratch, netns.netlink_in(scratch.path) as netlink:
        assert LinuxKernel(netlink).entries(Owner(ANYWHERE)) == frozenset()


def test_nothing_is_on_a_device_that_is_gone(world: World) -> None:
    assert world.kernel.entries(Owner(devices=frozenset((999,)))) == frozenset()
    assert world.kernel.remove([Neighbour(999, ip_address("10.0.0.2"), MAC), FdbEntry(999, MAC, ip_address("10.0.0.2"))]) == ()


@pytest.mark.parametrize("network", [SUBNET, SUBNET6])
def test_removing_an_absent_entry_takes_no_other_one(world: World, network: IPNetwork) -> None:
    gateway = network.network_address
    here: list[Entry] = [Route(network, VTEP, gateway, onlink=True, metric=50), Neighbour(VTEP, gateway, MAC)]
    assert not world.kernel.add(here)
    absent: list[Entry] = [Route(network, VTEP, gateway, onlink=True), Route(network, VTEP, metric=50)]
    assert not world.kernel.remove([*absent, Neighbour(VTEP, gateway, "02:00:00:00:00:0b")])
    assert world.everything() == set(here)


@pytest.mark.parametrize(("network", "gateways"), [(SUBNET, ("10.0.0.2", "10.0.0.3")), (SUBNET6, ("fd00::2", "fd00::3"))])
def test_a_multipath_route_in_our_name_is_replaced_and_removed(world: World, network: IPNetwork, gateways: tuple[str, str]) -> None:
    add = f"route add {network} proto 84" + "".join(f" nexthop via {gateway} dev eth0" for gateway in gateways)
    wanted = Route(network, UPLINK, ip_address(gateways[0]))
    for desired_now in ([wanted], []):
        world.clear()
        world.scratch.ip(add)
        assert reconcile(world.kernel, OWNER, desired_now).changed
        assert world.everything() == set(desired_now)
        assert len(world.scratch.read(f"ip -{network.version} route show {network}")) == len(desired_now)


def test_a_refusal_names_the_entry_and_the_kernels_words_and_stops_no_other(world: World) -> None:
    unreachable = replace(ROUTE, gateway=ip_address("203.0.113.1"), metric=5)
    (refusal,) = world.kernel.add([unreachable, ROUTE])
    assert (refusal.errno, refusal.what) == (errno.ENETUNREACH, unreachable)
    assert "Nexthop has invalid gateway" in str(refusal)
    assert world.everything() == {ROUTE}


def test_thousands_of_entries_and_thousands_of_refusals(world: World) -> None:
    subnets = [f"10.{high}.{low}.0/24" for high in range(128, 144) for low in range(250)]
    subnets += [f"fd44:0:0:{number:x}::/64" for number in range(4000)]
    wanted = [Route(subnet, VTEP, subnet.network_address, onlink=True) for subnet in map(ip_network, subnets)]
    assert not world.kernel.add(wanted)
    assert world.everything() == set(wanted)
    assert len(world.kernel.add([replace(route, onlink=False, metric=9) for route in wanted])) == len(wanted)
    assert not world.kernel.remove(wanted)
    assert not world.everything()


def test_next_hops_are_those_of_ip_route_get(world: World) -> None:
    assert not world.kernel.add([ROUTE, Route(SUBNET6, UPLINK, ip_address("fd00::2"))])
    expected = {
        "10.0.0.9": NextHop(UPLINK, None),
        "fd00::9": NextHop(UPLINK, None),
        "10.244.2.5": NextHop(UPLINK, ip_address("10.0.0.2")),
        "fd44:0:0:2::5": NextHop(UPLINK, ip_address("fd00::2")),
    }
    assert {address: world.kernel.next_hop(ip_address(address)) for address in expected} == expected
    assert world.kernel.next_hop(ip_address("10.0.0.1")).local
    assert world.kernel.next_hop(ip_address("fd00::1")).local


@pytest.mark.parametrize("address", ["203.0.113.1", "2001:db8::1"])
def test_no_route_is_an_error_that_says_so(world: World, address: str) -> None:
    with pytest.raises(KernelError, match=f"no route to {address}") as refused:
        world.kernel.next_hop(ip_address(address))
    assert refused.value.errno == errno.ENETUNREACH


@pytest.mark.parametrize("network", [SUBNET, SUBNET6])
def test_a_blackhole_gives_way_to_a_route_and_back(world: World, network: IPNetwork) -> None:
    blackhole, route = Route(network, kind=RouteKind.BLACKHOLE), Route(network, VTEP, network.network_address, onlink=True)
    for wanted in (blackhole, route, blackhole):
        reconcile(world.kernel, OWNER, [wanted])
        assert world.everything() == {wanted}
