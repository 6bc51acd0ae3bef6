"""vxlan without a VXLAN device: frames through a TAP and user space, for hosts whose kernel or rights forbid the device.

Leases, device name, routes and neighbours are vxlan's own, and so is what is on the wire: peers notice nothing. Only the FDB is in
user space. IPv4 underlay and pods.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv4Network

from flanneld.backend import BackendError, Refusal, Wanted
from flanneld.backends.vxlan import Planner
from flanneld.config import NetworkConfig
from flanneld.kernel import Entry, FdbEntry, Owner, VxlanLink
from flanneld.lease import Judged, Lease, LeaseAttrs
from flanneld.linux.links import adjust_link, link, present_link, set_addresses
from flanneld.linux.netlink import Netlink
from flanneld.linux.safe import open_safe
from flanneld.tunnel.choice import chosen_plane, said
from flanneld.tunnel.kept import Kept
from flanneld.tunnel.plane import Plane
from flanneld.tunnel.sockets import offload
from flanneld.tunnel.switch import Counters, Drop, Endpoint
from flanneld.wire.ethernet import HEADER_SIZE as ETHERNET_SIZE
from flanneld.wire.vxlan import HEADER_SIZE as VXLAN_SIZE
from flanneld.wire.vxlan import VxlanPacket

SAFE = "vxlan"
"""The safe's name."""


class VtepSwitch:
    """A `Switch` for VXLAN: a frame goes to the host of its destination's MAC address (RFC 7348 §4.1)."""

    link_size = ETHERNET_SIZE
    fragments = False
    strict = False
    """As in the kernel, whose VTEPs take frames from anybody who has the VNI."""

    def __init__(self, vni: int) -> None:
        self.prefix = VxlanPacket(vni).encode()
        self.hosts: Mapping[int, Endpoint] = {}
        """By MAC address as a number. Never changed, only exchanged: another thread looks things up in it."""

    def route(self, frame: memoryview) -> Endpoint | Drop:
        if len(frame) < ETHERNET_SIZE:
            return Drop.MALFORMED
        return self.hosts.get(int.from_bytes(frame[:6], "big"), Drop.NO_PEER)

    def admit(self, datagram: memoryview, sender: Endpoint) -> Drop | None:
        """Flags and VNI must be ours, reserved bits are ignored (RFC 7348 §5)."""
        prefix = self.prefix
        known = len(datagram) >= VXLAN_SIZE + ETHERNET_SIZE and datagram[0] == prefix[0] and datagram[4:7] == prefix[4:7]
        return None if known else Drop.MALFORMED

    def table(self) -> Sequence[tuple[int, Mapping[int, Endpoint]]]:
        return ((0, self.hosts),)

    def owners(self) -> Sequence[tuple[int, Mapping[int, Endpoint]]]:
        return ()

    def complain(self, why: Drop, frame: memoryview, next_hop_mtu: int, counters: Counters) -> None:
        """Nobody: a frame that has no destination is lost, as on any Ethernet."""


@dataclass(frozen=True, slots=True)
class Tap:
    """The TAP as it should be: vxlan's device in all that can be seen of it."""

    plane: Plane
    netlink: Netlink
    wanted: VxlanLink
    kept: Kept

    def restore(self, addresses: Sequence[IPv4Interface]) -> int:
        """Bring it to what it should be, with these addresses; returns its index. Raises KernelError."""
        plane, name = self.plane, self.wanted.name
        found = link(self.netlink, name)
        if found is None or found.index != plane.tun.index or plane.tun_lost:
            plane.use(self.kept.new_tun(self.netlink))
            found = present_link(self.netlink, name)
        adjust_link(self.netlink, found, mtu=self.wanted.mtu, mac=self.wanted.mac)
        if addresses:
            set_addresses(self.netlink, found.index, addresses)
        return found.index


@dataclass(frozen=True, slots=True)
class Split:
    """One peer's plan, by where it is kept."""

    entries: tuple[Entry, ...]
    """In the kernel."""
    hosts: Mapping[int, Endpoint]
    """Here: its FDB entries."""


class UserVxlanNetwork:
    """The TAP, peers' routes and neighbours, and the FDB here."""

    def __init__(
        self, planner: Planner, networks: Collection[IPv4Network], tap: Tap, switch: VtepSwitch, path: Mapping[str, object]
    ) -> None:
        self.news: Callable[[], None] = lambda: None
        self.mtu = tap.wanted.mtu
        self.path = path
        self.plane = tap.plane
        self.switch = switch
        self._planner, self._networks, self._tap = planner, tuple(networks), tap
        self._addresses: tuple[IPv4Interface, ...] = ()
        self._reached = asyncio.Event()
        self._device = 0
        self._plans = Judged(self._plan)

    @property
    def attrs(self) -> LeaseAttrs:
        return self._planner.attrs()

    @property
    def owner(self) -> Owner:
        return Owner(self._networks, frozenset({self.plane.tun.index}))

    async def adopt(self, own: Lease) -> None:
        """Address the TAP with our subnet's first address, as flannel does."""
        subnet = own.subnet(4)
        if not isinstance(subnet, IPv4Network):
            raise BackendError(f"vxlan in user space: lease {own} has no IPv4 subnet")
        self._addresses = (IPv4Interface((subnet.network_address, 32)),)
        self._tap.restore(self._addresses)

    def speaks(self, peer: Lease) -> bool:
        return self._planner.speaks(peer)

    def carried(self) -> tuple[Mapping[str, int], Mapping[str, int]]:
        return self.plane.counters.told()

    async def reach(self, peers: Collection[Lease], *, disturbed: bool = True) -> Wanted:
        """Bring the TAP back if need be; routes and neighbours are the kernel's, FDB entries ours."""
        device = self._tap.restore(self._addresses)
        if disturbed or device != self._device:
            self._plans.forget()
        self._device = device
        planned = self._plans.of(peers, again=Refusal)
        self.switch.hosts = {mac: host for _, plan in planned if not isinstance(plan, Refusal) for mac, host in plan.hosts.items()}
        self.plane.refresh()
        self._reached.set()
        return Wanted([(peer, plan if isinstance(plan, Refusal) else plan.entries) for peer, plan in planned])

    def _plan(self, peer: Lease) -> Split | Refusal:
        plan = self._planner.plan(peer, {4: self._device})
        if isinstance(plan, Refusal):
            return plan
        port = self._tap.wanted.port
        hosts = {
            int(entry.mac.replace(":", ""), 16): (str(entry.destination), port) for entry in plan if isinstance(entry, FdbEntry)
        }
        return Split(tuple(entry for entry in plan if not isinstance(entry, FdbEntry)), hosts)

    async def run(self) -> None:
        """Carry frames until cancelled; a TAP that somebody deletes is made again, and what led to it is with the next `reach`."""
        await self._reached.wait()
        with self.plane.running():
            await self.plane.keep(self._restore)

    async def _restore(self) -> None:
        self._tap.restore(self._addresses)
        self.news()  # whoever programs routes may have looked before, and found the device that is no more

    def remove(self) -> None:
        self._tap.kept.forget()


def forget_kept() -> None:
    """Let go of TAP and socket that are kept for a next run: the kernel's device is to have name and port."""
    if (safe := open_safe(SAFE)) is not None:
        Kept(safe, "", tap=True, fragments=True).forget()
        safe.close()


@asynccontextmanager
async def user_attached(planner: Planner, network: NetworkConfig) -> AsyncIterator[UserVxlanNetwork]:
    """Open TAP and socket, or take up those of an earlier run, in the device's place.

    Raises BackendError, KernelError.
    """
    address, kernel = planner.uplink.address(4), planner.kernel
    pools = [pool.network for pool in network.pools if isinstance(pool.network, IPv4Network)]
    if len(pools) != len(network.pools) or not isinstance(address, IPv4Interface):
        raise BackendError("vxlan in user space carries IPv4 only, expected EnableIPv6 false")
    (wanted,) = planner.wanted.values()
    present = kernel.link(wanted.name)
    if present is not None and present.kind == "vxlan":
        kernel.remove_link(wanted.name)
    with ExitStack() as stack:
        safe = open_safe(SAFE)
        if safe is not None:
            stack.callback(safe.close)
        kept = Kept(safe, wanted.name, tap=True, fragments=True)
        underlay = stack.enter_context(kept.underlay(address.ip, wanted.port))
        netlink = stack.enter_context(Netlink())
        switch = VtepSwitch(wanted.vni)
        kind, chosen = chosen_plane(planner.backend.data_path, "vxlan")
        plane = stack.enter_context(kind(underlay, kept.tun(netlink), switch, offload(underlay), wanted.mtu))
        path = {**chosen, "device": plane.tun.name, **plane.facts()}
        said.info("data path", "data path", **path)
        yield UserVxlanNetwork(planner, pools, Tap(plane, netlink, wanted, kept), switch, path)
