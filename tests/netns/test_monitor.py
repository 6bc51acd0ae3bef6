"""flanneld.linux.netlink.Monitor on the real kernel."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address, ip_interface, ip_network

import pytest

from flanneld.kernel import FdbEntry, Link, Neighbour, Route, VxlanLink
from flanneld.linux import links, netns
from flanneld.linux.events import AddressEvent, Event, FdbEvent, LinkEvent, NeighbourEvent, Overrun, RouteEvent
from flanneld.linux.kernel import LinuxKernel
from flanneld.linux.netlink import RECEIVE_BUFFER, Group, Monitor, Netlink
from scratch_netns import ScratchNetns, scratch_netns

MAC = "02:00:00:00:00:0a"
SUBNET = ip_network("10.244.2.0/24")


@pytest.fixture
def scratch() -> Iterator[ScratchNetns]:
    with scratch_netns() as made:
        yield made


@pytest.fixture
def netlink(scratch: ScratchNetns) -> Iterator[Netlink]:
    with netns.netlink_in(scratch.path) as opened:
        yield opened


@pytest.fixture
def uplink(netlink: Netlink) -> Link:
    made = links.ensure_bridge(netlink, "eth0", mtu=1500)
    links.set_addresses(netlink, made.index, (ip_interface("10.0.0.1/24"),))
    return made


async def events_until(monitor: Monitor, last: Event) -> list[Event]:
    seen: list[Event] = []
    async with asyncio.timeout(10):
        while last not in seen:
            seen += await anext(monitor)
    return seen


def vxlan(uplink: Link, mtu: int = 1400) -> VxlanLink:
    address = ip_interface("10.244.1.0/32")
    return VxlanLink("flannel.1", 1, ip_address("10.0.0.1"), uplink.index, 8472, mtu, MAC, addresses=(address,))


async def test_a_strangers_change_is_told_and_ours_is_not(scratch: ScratchNetns, netlink: Netlink, uplink: Link) -> None:
    ours, theirs = (Route(SUBNET, uplink.index, ip_address(gateway)) for gateway in ("10.0.0.2", "10.0.0.3"))
    with netns.run_in(scratch.path, Monitor, ours={netlink.portid}) as monitor:
        LinuxKernel(netlink).add([ours])
        scratch.ip("route replace 10.244.2.0/24 via 10.0.0.3 proto 84")
        scratch.ip("route del 10.244.2.0/24")
        seen = await events_until(monitor, RouteEvent(theirs, deleted=True))
    assert [event for event in seen if isinstance(event, RouteEvent)] == [RouteEvent(theirs, False), RouteEvent(theirs, True)]


async def test_each_kind_of_change_is_told(scratch: ScratchNetns, netlink: Netlink, uplink: Link) -> None:
    with netns.run_in(scratch.path, Monitor) as monitor:
        device = LinuxKernel(netlink).ensure_link(vxlan(uplink))
        neighbour, fdb = Neighbour(device.index, SUBNET[0], MAC), FdbEntry(device.index, MAC, ip_address("10.0.0.2"))
        LinuxKernel(netlink).add([neighbour, fdb])
        LinuxKernel(netlink).remove([neighbour, fdb])
        seen = await events_until(monitor, FdbEvent(fdb, deleted=True))
    assert LinkEvent(device, deleted=False) in seen
    assert AddressEvent(device.index, ip_interface("10.244.1.0/32"), deleted=False) in seen
    assert NeighbourEvent(neighbour, deleted=False) in seen
    assert NeighbourEvent(Neighbour(device.index, SUBNET[0], ""), deleted=True) in seen
    assert FdbEvent(fdb, deleted=False) in seen


async def test_a_link_that_goes_down_or_away_is_told(scratch: ScratchNetns, netlink: Netlink, uplink: Link) -> None:
    device = LinuxKernel(netlink).ensure_link(vxlan(uplink))
    down = replace(device, up=False)
    with netns.run_in(scratch.path, Monitor, Group.LINKS) as monitor:
        scratch.ip("link set flannel.1 down")
        scratch.ip("link del flannel.1")
        seen = await events_until(monitor, LinkEvent(down, deleted=True))
    assert LinkEvent(down, deleted=False) in seen


async def test_ensuring_what_is_there_tells_nobody(scratch: ScratchNetns, netlink: Netlink, uplink: Link) -> None:
    kernel = LinuxKernel(netlink)
    kernel.ensure_link(vxlan(uplink))
    with netns.run_in(scratch.path, Monitor, Group.LINKS, Group.IPV4_ADDRESSES) as monitor:
        kernel.ensure_link(vxlan(uplink))
        links.ensure_bridge(netlink, "eth0", mtu=1500)
        links.set_addresses(netlink, uplink.index, (ip_interface("10.0.0.1/24"),))
        changed = kernel.ensure_link(vxlan(uplink, mtu=1300))
        seen = await events_until(monitor, LinkEvent(changed, deleted=False))
    assert seen == [LinkEvent(changed, deleted=False)] * len(seen)


async def test_lost_notifications_are_owned_up_to(scratch: ScratchNetns, netlink: Netlink, uplink: Link) -> None:
    routes = [Route(ip_network(f"10.{high}.{low}.0/24"), uplink.index) for high in range(128, 144) for low in range(250)]
    with netns.run_in(scratch.path, Monitor, Group.IPV4_ROUTES) as monitor:
        for _ in range(RECEIVE_BUFFER // 500_000):
            LinuxKernel(netlink).add(routes)
            LinuxKernel(netlink).remove(routes)
        await events_until(monitor, Overrun())
        LinuxKernel(netlink).add(routes[:1])
        await events_until(monitor, RouteEvent(routes[0], deleted=False))


async def test_a_cancelled_reader_leaves_a_monitor_that_can_be_closed(scratch: ScratchNetns) -> None:
    with netns.run_in(scratch.path, Monitor) as monitor, pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await anext(monitor)
