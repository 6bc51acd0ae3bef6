"""flannel's udp backend: a TUN device that takes the pod network, and a table of peers in user space (`forward`, `tunnel`).

It carries IPv4 only. One UDP datagram is one bare IPv4 packet, without header or authentication, as flannel's. Unlike the other
backends' its data path pauses while no daemon runs: TUN and socket are kept open (`linux.safe`), packets wait in them, and the next
daemon goes on. If none comes in time, they go.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from typing import ClassVar, NamedTuple, Self

from flanneld import FlanneldError
from flanneld.backend import BackendError, Network, Refusal, Uplink, Wanted
from flanneld.backends.udp.device import Device
from flanneld.backends.udp.ebpf.kernel_path import remove_leftovers
from flanneld.backends.udp.forward import Router
from flanneld.backends.udp.routes import PrefixTable, as_numbers
from flanneld.backends.udp.shortcut import Shortcut
from flanneld.config import ConfigError, NetworkConfig, read_bool, read_choice, read_int
from flanneld.kernel import Kernel, Owner
from flanneld.lease import Judged, Lease, LeaseAttrs
from flanneld.linux.netlink import Netlink
from flanneld.linux.safe import open_safe
from flanneld.linux.tun import TunDevice
from flanneld.tunnel import AUTO, NATIVE, PYTHON
from flanneld.tunnel.choice import chosen_plane, said
from flanneld.tunnel.kept import Kept
from flanneld.tunnel.sockets import offload, open_icmp
from flanneld.tunnel.switch import OUTER_SIZE, Endpoint

DEFAULT_PORT = 8285
DEVICE = "flannel%d"
"""The first free number, as flannel asks for: flannel0 unless another daemon is there."""

EBPF = "ebpf"
DATA_PATHS = (PYTHON, NATIVE, EBPF, AUTO)
"""In Python; the same with its loop in C; in the kernel, but for what is rare; the best that works on this host."""
QUEUE_S = 1.0
"""Longer than packets wait in the TUN's queue, on a busy machine too."""


class Row(NamedTuple):
    """One peer in the table."""

    subnet: IPv4Network
    numbers: tuple[int, int]
    """The subnet's: with thousands of peers it is worth while to work them out once."""
    host: IPv4Address
    endpoint: Endpoint


def plan(peer: Lease, port: int) -> Row | Refusal:
    """Whose packets the peer takes, and where it is; like flannel's, any backend type will do."""
    subnet, address = peer.subnet(4), peer.attrs.public_ip(4)
    if isinstance(subnet, IPv4Network) and isinstance(address, IPv4Address) and not address.is_unspecified:
        return Row(subnet, as_numbers(subnet), address, (str(address), port))
    return Refusal(peer, "has no IPv4 subnet or no IPv4 address")


@dataclass(frozen=True, slots=True)
class UdpBackend:
    """The method as configured."""

    KEYS: ClassVar[frozenset[str]] = frozenset({"port", "checksource", "datapath"})
    in_user_space: ClassVar[bool] = True

    port: int = DEFAULT_PORT
    """Ours, and every peer's: leases do not say."""
    check_source: bool = True
    """A peer's packets must come from its own subnet; flannel takes any."""
    data_path: str = PYTHON
    """What carries packets: one of DATA_PATHS."""

    @classmethod
    def parse(cls, config: Mapping[str, object]) -> Self:
        """Read `Backend`: `Port`; and, which flannel has not, `CheckSource` and `DataPath`."""
        return cls(
            port=read_int(config, "Port", DEFAULT_PORT, 1, 65535),
            check_source=read_bool(config, "CheckSource", default=True),
            data_path=read_choice(config, "DataPath", DATA_PATHS),
        )

    def devices(self, network: NetworkConfig) -> tuple[str, ...]:
        """None by name: the TUN takes the first number that is free."""
        return ()

    @asynccontextmanager
    async def attach(self, uplink: Uplink, network: NetworkConfig, kernel: Kernel) -> AsyncIterator[Network]:
        """Open the sockets and the TUN, or take up those of an earlier run; when the context ends they are kept for the next one.

        Raises ConfigError, BackendError, KernelError.
        """
        pool, address = network.pool(4), uplink.address(4)
        if network.pool(6) or not pool or not isinstance(pool.network, IPv4Network):
            raise ConfigError("Backend.Type", "udp carries IPv4 only, expected EnableIPv4 true and EnableIPv6 false")
        if not isinstance(address, IPv4Interface):
            raise BackendError(f"udp: interface {uplink.name} has no IPv4 address to send from")
        with ExitStack() as stack:
            # One for the host, whatever the config says now: what is kept under other settings would be in our way. A second udp
            # daemon on this host finds it in use, and has to do without.
            safe = open_safe("udp")
            if safe is not None:
                stack.callback(safe.close)
            kept = Kept(safe, DEVICE, tap=False, fragments=False)
            underlay = stack.enter_context(kept.underlay(address.ip, self.port))
            router = Router(stack.enter_context(open_icmp()), strict=self.check_source)
            netlink = stack.enter_context(Netlink())
            tun, mtu = kept.tun(netlink), uplink.mtu - OUTER_SIZE
            shortcut, why = self._shortcut(netlink, uplink, address.ip, tun)
            if shortcut is not None:
                stack.callback(shortcut.close)
            kind, chosen = chosen_plane(AUTO if shortcut else self.data_path, "udp")
            plane = stack.enter_context(kind(underlay, tun, router, offload(underlay, merging=shortcut is None), mtu))
            beside = {"path": EBPF, "beside": chosen["path"]} if shortcut else {**chosen, **why}
            path = {**beside, "device": plane.tun.name, **plane.facts()}
            said.info("data path", "data path", **path)
            device = Device(plane, router, netlink, kernel, pool.network, mtu, kept, shortcut)
            yield UdpNetwork(LeaseAttrs(uplink.public_ips), self.port, device, path)

    def _shortcut(
        self, netlink: Netlink, uplink: Uplink, address: IPv4Address, tun: TunDevice
    ) -> tuple[Shortcut | None, dict[str, str]]:
        """The kernel's part, if there is to be one; else what speaks against it. Raises FlanneldError when it must be."""
        if self.data_path not in {EBPF, AUTO}:
            remove_leftovers(netlink, uplink.index)  # of a run that had it, and was killed
            return None, {}
        shortcut = Shortcut(netlink, uplink.index, address, self.port, self.check_source)
        try:
            shortcut.follow(tun.index)
        except FlanneldError as error:
            if self.data_path == EBPF:
                tun.close()
                raise
            remove_leftovers(netlink, uplink.index)
            return None, {"why": f"not {EBPF}: {error}"}
        return shortcut, {}


class UdpNetwork:
    """The table of peers, and the device that packets for them come from."""

    def __init__(self, attrs: LeaseAttrs, port: int, device: Device, path: Mapping[str, object]) -> None:
        self.attrs = attrs
        self.path = path
        self.mtu = device.mtu
        self.plane, self.router = device.plane, device.router
        self._device = device
        self._reachable: dict[tuple[int, int], Endpoint] = {}
        """By subnet, as numbers."""
        self._left: dict[tuple[int, int], tuple[Endpoint, float]] = {}
        """Who is reachable no more, and since when."""
        self._rows = Judged(lambda peer: plan(peer, port))
        self._senders = Judged(lambda peer: plan(peer, port))
        self._reached = asyncio.Event()
        """Peers are known. Before that packets wait, from an earlier run too: there is nobody to send them to."""

    @property
    def owner(self) -> Owner:
        return self._device.owner

    async def adopt(self, own: Lease) -> None:
        """Address the TUN with our subnet's first address."""
        subnet = own.subnet(4)
        if not isinstance(subnet, IPv4Network):
            raise BackendError(f"udp: lease {own} has no IPv4 subnet")
        self.router.address = subnet.network_address
        self._device.restore()

    def speaks(self, peer: Lease) -> bool:
        """Its lease names no method, as flannel's udp does not."""
        return not peer.attrs.backend_type

    def hear(self, peers: Collection[Lease]) -> None:
        rows = [row for _, row in self._senders.of(peers) if isinstance(row, Row)]
        sources = PrefixTable.of_numbers({row.numbers: row.endpoint for row in rows})
        if sources.levels != self.router.sources.levels:
            self.router.sources = sources
            self.plane.refresh()
        if self._device.shortcut is not None:
            self._device.shortcut.hear({row.subnet: row.host for row in rows})

    def carried(self) -> tuple[Mapping[str, int], Mapping[str, int]]:
        done, dropped = self.plane.counters.told()
        return {**done, **(self._device.shortcut.counters() if self._device.shortcut else {})}, dropped

    async def reach(self, peers: Collection[Lease], *, disturbed: bool = True) -> Wanted:
        """Send by a table of these peers from the next packet on; who is gone from it still gets what is in the TUN's queue.

        It may be reached by another method from now on, to which the kernel leads what comes after.
        """
        judged = self._rows.of(peers)
        rows = [row for _, row in judged if isinstance(row, Row)]
        reachable = {row.numbers: row.endpoint for row in rows}
        loop = asyncio.get_running_loop()
        self._left |= {subnet: (peer, loop.time()) for subnet, peer in self._reachable.items() if subnet not in reachable}
        if self._left:
            loop.call_later(QUEUE_S, self._look_up)
        self._reachable = reachable
        self._look_up()
        self._reached.set()
        self._device.restore()
        if self._device.shortcut is not None:
            self._device.shortcut.reach({row.subnet: row.host for row in rows})
        return Wanted([(peer, row) for peer, row in judged if isinstance(row, Refusal)], (self._device.route,))

    def _look_up(self) -> None:
        """Have the data plane look things up in what is known now."""
        now = asyncio.get_running_loop().time()
        self._left = {subnet: (peer, since) for subnet, (peer, since) in self._left.items() if now < since + QUEUE_S}
        left = {subnet: peer for subnet, (peer, _) in self._left.items()}
        peers = PrefixTable.of_numbers({**left, **self._reachable})
        if peers.levels != self.router.peers.levels:
            self.router.peers = peers
            self.plane.refresh()

    async def run(self) -> None:
        """Carry packets until cancelled; a TUN that somebody deletes is made again."""
        await self._reached.wait()
        with ExitStack() as stack:
            if self._device.shortcut is not None:
                stack.callback(asyncio.create_task(self._device.shortcut.keep()).cancel)
            stack.enter_context(self.plane.running())
            await self.plane.keep(self._restore)

    async def _restore(self) -> None:
        self._device.restore()
        self._device.lead_there()

    def remove(self) -> None:
        """Keep nothing for a next run: the TUN goes when its context ends."""
        self._device.kept.forget()
