"""vxlan: a peer's pod subnet is reached through a VXLAN device, with flannel's kernel objects exactly; must not know netlink.

Per address family one device (flannel.<VNI>, flannel-v6.<VNI>) and per peer three entries: a route to the peer's VTEP address, the
VTEP address's MAC (Neighbour), that MAC's host (FdbEntry). RFC 7348. Go flannel's peers publish and program the same.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from ipaddress import ip_interface
from typing import ClassVar, NewType, Self

from flanneld.backend import BackendError, Network, Plan, Refusal, Uplink, Wanted, on_link
from flanneld.config import ConfigError, NetworkConfig, read_bool, read_choice, read_int
from flanneld.kernel import Entry, FdbEntry, Kernel, Neighbour, Owner, Route, VxlanLink
from flanneld.lease import Family, IPAddress, Judged, Lease, LeaseAttrs, family_of
from flanneld.log import Log
from flanneld.tunnel import AUTO, NATIVE, PYTHON

log = Log(__name__)

BACKEND_TYPE = "vxlan"
DEFAULT_PORT = 8472
"""The Linux kernel's own default, older than IANA's 4789; Go flannel leaves it to the kernel."""
OVERHEAD: Mapping[Family, int] = {4: 50, 6: 70}
"""Bytes of outer IP (20, 40), UDP (8), VXLAN (8) and inner Ethernet (14). Go flannel takes 50 for IPv6 too, and loses packets."""
LEAST_MTU: Mapping[Family, int] = {4: 68, 6: 1280}
"""Bytes that a link must carry (RFC 791 §3.2, RFC 8200 §5); with less Linux refuses the device, or takes IPv6 off it."""
DEVICE_NAME: Mapping[Family, str] = {4: "flannel.{vni}", 6: "flannel-v6.{vni}"}
KERNEL, USERSPACE = "kernel", "userspace"
LONGEST_NAME = 15
"""IFNAMSIZ of linux/if.h, less its NUL."""

Vni = NewType("Vni", int)


@dataclass(frozen=True, slots=True)
class Vtep:
    """Where one family's frames for a peer go: what a lease's BackendData says."""

    vni: Vni | None
    """None: an old flannel, which did not publish it."""
    mac: str

    def render(self) -> str:
        """The compact JSON that Go flannel publishes."""
        return json.dumps({"VNI": self.vni, "VtepMAC": self.mac}, separators=(",", ":"))


@lru_cache(maxsize=16384)
def parse_vtep(data: str) -> Vtep:
    """Read a peer's BackendData; raises ValueError saying what is wrong with it. Each round reads every peer's, as a rule again."""
    try:
        fields = json.loads(data or "null")
    except (ValueError, RecursionError):
        raise ValueError(f"published BackendData {data!r}, expected JSON") from None
    found = {str(key).lower(): value for key, value in fields.items()} if isinstance(fields, dict) else {}
    mac, vni = found.get("vtepmac"), found.get("vni")
    if not isinstance(mac, str) or not re.fullmatch(r"[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}", mac):
        raise ValueError(f"published VtepMAC {mac!r}, expected six octets as aa:bb:cc:dd:ee:ff")
    if int(mac[:2], 16) & 1 or not int(mac.replace(":", ""), 16):
        raise ValueError(f"published VtepMAC {mac!r}, expected one host's, not a group's and not zero")
    return Vtep(Vni(vni) if isinstance(vni, int) else None, mac.lower())


def vni_of(data: str) -> Vni | None:
    """The VNI that a peer's BackendData names; None when it names none that can be read."""
    try:
        return parse_vtep(data).vni
    except ValueError:
        return None


def vtep_mac(public_ip: IPAddress, vni: Vni) -> str:
    """A locally administered unicast MAC that is this host's for ever: a device made anew keeps what peers know."""
    octets = bytearray(hashlib.sha256(f"vtep {public_ip} {vni}".encode()).digest()[:6])
    octets[0] = octets[0] & 0xFC | 0x02
    return octets.hex(":")


def plan(peer: Lease, vni: Vni, devices: Mapping[Family, int], uplink: int, direct: Callable[[IPAddress], bool]) -> Plan:
    """What one peer needs: a plain route where `direct` says it is on the uplink's segment, else route, neighbour and FDB entry."""
    entries: list[Entry] = []
    for subnet in peer.subnets:
        family = family_of(subnet)
        address = peer.attrs.public_ip(family)
        if address is None:
            return Refusal(peer, f"has the subnet {subnet} but no public IPv{family} address")
        if direct(address):
            entries.append(Route(subnet, uplink, address))
            continue
        try:
            vtep = parse_vtep(peer.attrs.data(family))
        except ValueError as error:
            return Refusal(peer, str(error), foreign=True)
        if vtep.vni not in (None, vni):
            return Refusal(peer, f"is on VNI {vtep.vni}, ours is {vni}", foreign=True)
        device, gateway = devices[family], subnet.network_address
        entries += (
            Neighbour(device, gateway, vtep.mac),
            FdbEntry(device, vtep.mac, address),
            Route(subnet, device, gateway, onlink=True),
        )
    return tuple(entries)


@dataclass(frozen=True, slots=True)
class VxlanBackend:
    """flannel's vxlan settings."""

    KEYS: ClassVar[frozenset[str]] = frozenset({"vni", "port", "mtu", "gbp", "learning", "directrouting", "mode", "datapath"})

    vni: Vni
    port: int
    mtu: int
    """Of the underlay, in bytes, before the overhead comes off; 0: the uplink's own."""
    gbp: bool
    learning: bool
    direct_routing: bool
    mode: str = KERNEL
    """Who encapsulates: the kernel's device, or we (`vxlan_user`)."""
    data_path: str = AUTO
    """Then, what carries frames: see `tunnel.choice`."""

    @classmethod
    def parse(cls, config: Mapping[str, object]) -> Self:
        """Read flannel's keys: VNI, Port, MTU, GBP, Learning, DirectRouting; and, which flannel has not, Mode and DataPath."""
        return cls(
            vni=Vni(read_int(config, "VNI", 1, 1, (1 << 24) - 1)),
            port=read_int(config, "Port", 0, 0, 65535) or DEFAULT_PORT,
            mtu=read_int(config, "MTU", 0, 0, 65535),
            gbp=read_bool(config, "GBP", default=False),
            learning=read_bool(config, "Learning", default=False),
            direct_routing=read_bool(config, "DirectRouting", default=False),
            mode=read_choice(config, "Mode", (KERNEL, USERSPACE)),
            data_path=read_choice(config, "DataPath", (AUTO, PYTHON, NATIVE)),
        )

    def devices(self, network: NetworkConfig) -> tuple[str, ...]:
        """One per family, by flannel's names."""
        return tuple(DEVICE_NAME[pool.family].format(vni=self.vni) for pool in network.pools)

    @asynccontextmanager
    async def attach(self, uplink: Uplink, network: NetworkConfig, kernel: Kernel) -> AsyncIterator[Network]:
        """Make the devices, so that our lease can publish their MACs; they stay, unless no lease was ever got for them."""
        wanted = {pool.family: self._device(uplink, kernel, pool.family) for pool in network.pools}
        if self.mode == USERSPACE:
            from flanneld.backends.vxlan_user import user_attached  # and numpy, which is as large as all the rest

            planner = Planner(self, uplink, kernel, wanted)
            async with user_attached(planner, tuple(wanted.values()), uplink, network, kernel, self.data_path) as in_user_space:
                yield in_user_space
            return
        if any(present.kind == "tun" for present in map(kernel.link, self.devices(network)) if present is not None):
            from flanneld.backends.vxlan_user import forget_kept

            forget_kept()
        fresh = [link.name for link in wanted.values() if kernel.link(link.name) is None]
        attached = VxlanNetwork(self, uplink, network, kernel, wanted)
        try:
            attached.ensure_devices()
            yield attached
        finally:
            if not attached.adopted:
                for name in fresh:
                    kernel.remove_link(name)

    def _device(self, uplink: Uplink, kernel: Kernel, family: Family) -> VxlanLink:
        name = DEVICE_NAME[family].format(vni=self.vni)
        if len(name) > LONGEST_NAME:
            raise ConfigError("Backend.VNI", f"expected a device name of up to {LONGEST_NAME} characters, got {name}")
        address, public_ip = uplink.address(family), uplink.public_ip(family)
        if address is None or public_ip is None:
            raise BackendError(f"vxlan: {uplink} has no IPv{family} address to send from")
        present = kernel.link(name)
        # Not from the uplink's own address: behind different NATs two hosts may have the same.
        mac = present.mac if present is not None and present.kind == "vxlan" else vtep_mac(public_ip, self.vni)
        mtu = self._inner_mtu(uplink, family)
        return VxlanLink(name, self.vni, address.ip, uplink.index, self.port, mtu, mac, self.learning, self.gbp)

    def _inner_mtu(self, uplink: Uplink, family: Family) -> int:
        if self.mtu > uplink.mtu:
            log.warning("MTU of the network config is larger than the uplink's", mtu=self.mtu, uplink=uplink, uplink_mtu=uplink.mtu)
        underlay = min(self.mtu or uplink.mtu, uplink.mtu)
        least = LEAST_MTU[family] + OVERHEAD[family]
        if underlay < least:
            raise BackendError(f"vxlan: an underlay MTU of {underlay} is too small for IPv{family} pods, expected {least} or more")
        return underlay - OVERHEAD[family]


@dataclass(frozen=True, slots=True)
class Planner:
    """What is the same whoever encapsulates."""

    backend: VxlanBackend
    uplink: Uplink
    kernel: Kernel
    wanted: Mapping[Family, VxlanLink]

    def attrs(self) -> LeaseAttrs:
        """Our public IPs and the VTEP of each family."""
        data = tuple((family, Vtep(self.backend.vni, link.mac).render()) for family, link in self.wanted.items())
        return LeaseAttrs(self.uplink.public_ips, BACKEND_TYPE, data)

    def speaks(self, peer: Lease) -> bool:
        """Its lease names the method, and no VNI but ours."""
        if peer.attrs.backend_type != BACKEND_TYPE:
            return False
        spoken = {vni_of(data) for _, data in peer.attrs.backend_data} - {None}
        return not spoken or spoken == {self.backend.vni}

    def plan(self, peer: Lease, devices: Mapping[Family, int]) -> Plan:
        """What one peer needs, on these devices."""
        return plan(peer, self.backend.vni, devices, self.uplink.index, self._direct)

    def _direct(self, address: IPAddress) -> bool:
        return self.backend.direct_routing and on_link(self.uplink, self.kernel, address)


class VxlanNetwork:
    """Our devices and all peers' entries."""

    def __init__(
        self, backend: VxlanBackend, uplink: Uplink, network: NetworkConfig, kernel: Kernel, wanted: dict[Family, VxlanLink]
    ) -> None:
        self._planner = Planner(backend, uplink, kernel, wanted)
        self._pod_networks = tuple(pool.network for pool in network.pools)
        self._kernel = kernel
        self._wanted = wanted
        self._devices: dict[Family, int] = {}
        self._plans = Judged(lambda peer: self._planner.plan(peer, self._devices))
        self.adopted = False

    @property
    def attrs(self) -> LeaseAttrs:
        return self._planner.attrs()

    @property
    def mtu(self) -> int:
        """The smallest of the devices': one pod interface carries every family."""
        return min(link.mtu for link in self._wanted.values())

    @property
    def owner(self) -> Owner:
        """Our routes in the pod networks (direct ones are on the uplink), and all that is on our devices."""
        return Owner(self._pod_networks, frozenset(self._devices.values()))

    async def adopt(self, own: Lease) -> None:
        """Give each device its subnet's network address as a host address, as flannel does."""
        for subnet in own.subnets:
            family = family_of(subnet)
            address = ip_interface((subnet.network_address, subnet.max_prefixlen))
            self._wanted[family] = replace(self._wanted[family], addresses=(address,))
        self.ensure_devices()
        self.adopted = True

    def speaks(self, peer: Lease) -> bool:
        return self._planner.speaks(peer)

    async def reach(self, peers: Collection[Lease], *, disturbed: bool = True) -> Wanted:
        """Bring the devices back if need be, and lead every peer's subnets to its VTEP."""
        before = self._devices
        self.ensure_devices()
        if disturbed or self._devices != before:
            self._plans.forget()
        return Wanted([*self._plans.of(peers, again=Refusal)])

    async def run(self) -> None:
        """Nothing: the kernel forwards."""

    def remove(self) -> None:
        """Remove the devices, and all that is on them."""
        for link in self._wanted.values():
            self._kernel.remove_link(link.name)

    def ensure_devices(self) -> None:
        """Bring each family's device to what it should be; raises KernelError."""
        self._devices = {family: self._kernel.ensure_link(wanted).index for family, wanted in self._wanted.items()}
