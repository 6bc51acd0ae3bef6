"""Several methods live at once: who is reached by which, and what becomes of those that nobody speaks any more."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from ipaddress import ip_address

import pytest

from flanneld.backend import BackendError, Refusal, Wanted
from flanneld.config import ConfigError, NetworkConfig
from flanneld.kernel import Neighbour, Route
from flanneld.lease import Family, Lease
from flanneld.mesh import LINGER_S, Mesh
from memory_kernel import MemoryKernel
from peers_of import FAMILIES, lease, network, uplink

VXLAN, VNI_7, HOST_GW = '{"Type": "vxlan"}', '{"Type": "vxlan", "VNI": 7}', '{"Type": "host-gw"}'


@dataclass
class World:
    """A mesh on a kernel in memory, and its clock."""

    mesh: Mesh
    kernel: MemoryKernel
    now_s: float = 0.0

    async def serve(self, backend: str, families: tuple[Family, ...] = (4,), former: Collection[NetworkConfig] = ()) -> None:
        await self.mesh.serve(network(backend, families), uplink(families), tuple(former))
        await self.mesh.adopt(lease(1, families=families))

    async def ways(self, *peers: Lease) -> dict[str, str]:
        """By which device each peer's subnet is reached, once they have been applied."""
        await self.mesh.reach(peers)
        names = {link.index: name for name, link in self.kernel.links.items()}
        routes = [entry for entry in self.kernel.present if isinstance(entry, Route)]
        return {str(route.destination): names.get(route.device, "eth0") for route in routes}


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with meshed() as made:
        yield made


@asynccontextmanager
async def meshed() -> AsyncIterator[World]:
    kernel = MemoryKernel()
    async with asyncio.TaskGroup() as tasks:
        made = World(Mesh(kernel, tasks), kernel)
        made.mesh.now = lambda: made.now_s
        yield made
        await made.mesh.close()


async def test_each_peer_is_reached_by_the_method_that_its_lease_names(world: World) -> None:
    await world.serve(VXLAN)
    await world.serve(HOST_GW)
    assert world.mesh.methods == ("host-gw", "vxlan")
    assert world.mesh.current.attrs.backend_type == "host-gw"
    assert await world.ways(lease(7), lease(8, "host-gw")) == {"10.244.7.0/24": "flannel.1", "10.244.8.0/24": "eth0"}
    assert await world.ways(lease(7, "host-gw"), lease(8, "host-gw")) == {"10.244.7.0/24": "eth0", "10.244.8.0/24": "eth0"}


@pytest.mark.parametrize("pending", [True, False])
async def test_a_peer_that_its_new_method_waits_for_is_reached_as_before(
    world: World, monkeypatch: pytest.MonkeyPatch, pending: bool
) -> None:
    """BGP takes a moment until a route is there."""

    async def not_yet(self: object, peers: Collection[Lease], *, disturbed: bool = True) -> Wanted:
        return Wanted([(peer, Refusal(peer, "has no route", pending=pending)) for peer in peers])

    await world.serve(VXLAN)
    await world.ways(lease(7), lease(8))
    before = frozenset(world.kernel.present)
    await world.serve(HOST_GW)
    with monkeypatch.context() as patched:
        patched.setattr(type(world.mesh.current), "reach", not_yet)
        for _ in range(3):
            done = await world.mesh.reach([lease(7, "host-gw"), lease(8)])
            assert [str(refusal.lease.subnets[0]) for refusal in done.refused] == ["10.244.7.0/24"]
            assert (world.kernel.present == before) is pending
    assert await world.ways(lease(7, "host-gw"), lease(8)) == {"10.244.7.0/24": "eth0", "10.244.8.0/24": "flannel.1"}


async def test_a_peer_that_changes_over_never_has_no_route(world: World) -> None:
    await world.serve(VXLAN)
    await world.ways(lease(7))
    await world.serve(HOST_GW)
    world.kernel.calls.clear()
    await world.ways(lease(7, "host-gw"))
    added = [place for place, (verb, entries) in enumerate(world.kernel.calls) if verb == "add" and any_route(entries)]
    removed = [place for place, (verb, entries) in enumerate(world.kernel.calls) if verb == "remove" and any_route(entries)]
    assert added
    assert not removed or min(removed) > max(added)


def any_route(entries: Collection[object]) -> bool:
    return any(isinstance(entry, Route) for entry in entries)


async def test_a_peer_that_speaks_none_of_them_is_refused_and_what_is_spoken_is_named(world: World) -> None:
    await world.serve(VXLAN)
    await world.serve(HOST_GW)
    done = await world.mesh.reach([lease(7, "ipip"), lease(8, "")])
    assert [(refusal.why, refusal.foreign) for refusal in done.refused] == [
        ("speaks ipip, not host-gw or vxlan", True),
        ("speaks udp or alloc, not host-gw or vxlan", True),
    ]


async def test_a_former_method_goes_when_nobody_has_spoken_it_for_a_while_and_takes_its_device_along(world: World) -> None:
    await world.serve(VXLAN)
    await world.serve(HOST_GW)
    await world.ways(lease(7))
    world.now_s = LINGER_S + 1
    await world.ways(lease(7), lease(8, "host-gw"))
    assert not await world.mesh.retire(), "a peer speaks it"
    await world.ways(lease(7, "host-gw"))
    assert not await world.mesh.retire(), "one spoke it just now"
    world.now_s += LINGER_S + 1
    assert await world.mesh.retire()
    assert (world.mesh.methods, world.kernel.links) == (("host-gw",), {})
    assert not await world.mesh.retire()


async def test_going_back_takes_the_former_method_up_again_with_its_device(world: World) -> None:
    await world.serve(VXLAN)
    before = world.kernel.links["flannel.1"]
    await world.serve(HOST_GW)
    await world.serve(VXLAN)
    assert (world.mesh.methods, world.kernel.links["flannel.1"]) == (("vxlan", "host-gw"), before)


async def test_another_vni_is_a_method_beside_the_other(world: World) -> None:
    await world.serve(VXLAN)
    await world.serve(VNI_7)
    on_7 = replace(lease(8), attrs=replace(lease(8).attrs, backend_data=((4, lease(8).attrs.data(4).replace(":1,", ":7,")),)))
    assert await world.ways(lease(7), on_7) == {"10.244.7.0/24": "flannel.1", "10.244.8.0/24": "flannel.7"}


async def test_another_setting_of_the_same_device_takes_its_place_without_losing_it(world: World) -> None:
    await world.serve(VXLAN)
    await world.ways(lease(7))
    before = world.kernel.links["flannel.1"]
    await world.serve('{"Type": "vxlan", "MTU": 1400}')
    after = world.kernel.links["flannel.1"]
    assert (after.index, after.mac, after.mtu, world.mesh.methods) == (before.index, before.mac, 1350, ("vxlan",))
    assert await world.ways(lease(7)) == {"10.244.7.0/24": "flannel.1"}


async def test_a_family_that_is_switched_off_takes_its_device_along(world: World) -> None:
    await world.serve(VXLAN, FAMILIES)
    assert set(world.kernel.links) == {"flannel.1", "flannel-v6.1"}
    await world.serve(VXLAN)
    assert set(world.kernel.links) == {"flannel.1"}


@pytest.mark.parametrize("backend", ['{"Type": "pigeon"}', '{"Type": "vxlan", "VNI": 0}', '{"Type": "vxlan", "MTU": 100}'])
async def test_what_cannot_be_served_leaves_everything_as_it_was(world: World, backend: str) -> None:
    await world.serve(VXLAN)
    before = await world.ways(lease(7))
    with pytest.raises((ConfigError, BackendError)):
        await world.serve(backend)
    assert world.mesh.methods == ("vxlan",)
    assert await world.ways(lease(7)) == before


async def test_what_is_remembered_from_the_last_run_is_served_again_if_it_is_in_nobodys_way(world: World) -> None:
    dual, vxlan = network(VNI_7, FAMILIES), network(VXLAN)
    await world.serve(HOST_GW, former=[network(HOST_GW), vxlan, dual, network('{"Type": "pigeon"}')])
    assert world.mesh.methods == ("host-gw", "vxlan")
    assert world.mesh.configs == (network(HOST_GW).text, vxlan.text)


async def test_another_uplink_is_followed_by_all_methods(world: World) -> None:
    await world.serve(VXLAN)
    await world.serve(HOST_GW)
    moved = replace(uplink(), index=9)
    await world.mesh.serve(network(HOST_GW), moved)
    await world.mesh.adopt(lease(1))
    assert world.mesh.methods == ("host-gw", "vxlan")
    assert world.kernel.vxlan["flannel.1"].parent == 9
    await world.mesh.reach([lease(8, "host-gw")])
    assert {entry.device for entry in world.kernel.present if isinstance(entry, Route)} == {9}


async def test_undisturbed_the_kernel_is_not_read_and_what_it_tells_of_our_own_doing_is_expected(world: World) -> None:
    await world.serve(VXLAN)
    await world.mesh.reach([lease(7)])
    (route,) = [entry for entry in world.kernel.present if isinstance(entry, Route)]
    assert world.mesh.expects(route, deleted=False)
    assert not world.mesh.expects(route, deleted=True)
    nobodys = Neighbour(route.device, ip_address("10.244.9.0"), "")
    assert world.mesh.expects(nobodys, deleted=True)
    assert not world.mesh.expects(nobodys, deleted=False)
    world.kernel.remove([route])
    assert not (await world.mesh.reach([lease(7)], disturbed=False)).report.changed
    assert (await world.mesh.reach([lease(7)])).report.added == {route}
