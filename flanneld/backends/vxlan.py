"""vxlan: a peer's pod subnet is reached through a VXLAN device, with flannel's kernel objects exactly; must not know netlink.

Per address family one device (flannel.<VNI>, flannel-v6.<VNI>) and per peer three entries: a route to the peer's VTEP address, the
VTEP address's MAC (Neighbour), that MAC's host (FdbEntry). RFC 7348. Go flannel's peers publish and program the same.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from ipaddress import ip_interface
from typing import ClassVar, Self

from flanneld.backend import BackendError, Network, Plan, Refusal, Uplink, Wanted, on_link
from flanneld.backends.vtep import Vni, Vtep, checksum_trap, plan, vni_of, vtep_mac
from flanneld.config import ConfigError, NetworkConfig, read_bool, read_choice, read_int, read_switch
from flanneld.kernel import Kernel, Owner, VxlanLink
from flanneld.lease import Family, IPAddress, Judged, Lease, LeaseAttrs, family_of
from flanneld.linux.hardware import driver_of
from flanneld.log import Log, Once
from flanneld.tunnel import AUTO, NATIVE, PYTHON

log = Log(__name__)
said = Once(log)

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


@dataclass(frozen=True, slots=True)
class VxlanBackend:
    """flannel's vxlan settings."""

    KEYS: ClassVar[frozenset[str]] = frozenset(
        {"vni", "port", "mtu", "gbp", "learning", "directrouting", "mode", "datapath", "txchecksumoffload", "control"}
    )

    vni: Vni
    port: int
    mtu: int
    """Of the underlay, in bytes, before the overhead comes off; 0: the uplink's own."""
    gbp: bool
    learning: bool
    direct_routing: bool
    tx_checksum: bool | None = None
    """Inner checksums are left to hardware; None: unless that is known to break them."""
    mode: str = KERNEL
    """Who encapsulates: the kernel's device, or we (`vxlan_user`)."""
    data_path: str = AUTO
    """Then, what carries frames: see `tunnel.choice`."""

    @property
    def in_user_space(self) -> bool:
        return self.mode == USERSPACE

    @classmethod
    def parse(cls, config: Mapping[str, object]) -> Self:
        """Read flannel's keys: VNI, Port, MTU, GBP, Learning, DirectRouting; and, which flannel has not, TxChecksumOffload, Mode,
        DataPath.
        """  # fmt: skip
        return cls(
            vni=Vni(read_int(config, "VNI", 1, 1, (1 << 24) - 1)),
            port=read_int(config, "Port", 0, 0, 65535) or DEFAULT_PORT,
            mtu=read_int(config, "MTU", 0, 0, 65535),
            gbp=read_bool(config, "GBP", default=False),
            learning=read_bool(config, "Learning", default=False),
            direct_routing=read_bool(config, "DirectRouting", default=False),
            tx_checksum=read_switch(config, "TxChecksumOffload"),
            mode=read_choice(config, "Mode", (KERNEL, USERSPACE)),
            data_path=read_choice(config, "DataPath", (AUTO, PYTHON, NATIVE)),
        )

    def devices(self, network: NetworkConfig) -> tuple[str, ...]:
        """One per family, by flannel's names."""
        return tuple(DEVICE_NAME[pool.family].format(vni=self.vni) for pool in network.pools)

    @asynccontextmanager
    async def attach(self, uplink: Uplink, network: NetworkConfig, kernel: Kernel) -> AsyncIterator[Network]:
        """Make the devices, so that our lease can publish their MACs; they stay, unless no lease was ever got for them."""
        planner = self.planner(uplink, network, kernel)
        if self.in_user_space:
            from flanneld.backends.vxlan_user import user_attached  # and numpy, which is as large as all the rest

            async with user_attached(planner, network) as carrying:
                yield carrying
            return
        if any(present.kind == "tun" for present in map(kernel.link, self.devices(network)) if present is not None):
            from flanneld.backends.vxlan_user import forget_kept

            forget_kept()
        fresh = [link.name for link in planner.wanted.values() if kernel.link(link.name) is None]
        attached = VxlanNetwork(planner, network)
        try:
            attached.ensure_devices()
            yield attached
        finally:
            if not attached.adopted:
                for name in fresh:
                    kernel.remove_link(name)

    def planner(self, uplink: Uplink, network: NetworkConfig, kernel: Kernel) -> Planner:
        """What follows from the config, before anything is made. Raises ConfigError, BackendError."""
        return Planner(self, uplink, kernel, {pool.family: self._device(uplink, kernel, pool.family) for pool in network.pools})

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
        link = VxlanLink(name, self.vni, address.ip, uplink.index, self.port, mtu, mac, self.learning, self.gbp)
        return replace(link, tx_checksum=self._checksums(uplink))

    def _checksums(self, uplink: Uplink) -> bool | None:
        """Whether they are left to hardware; None: as the kernel has it."""
        if self.tx_checksum is not None:
            return self.tx_checksum
        if why := checksum_trap(driver_of(uplink.name), self.port):
            said.warning("checksums", "transmit checksum offload is off", why=why)
            return False
        return None

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

    def __init__(self, planner: Planner, network: NetworkConfig) -> None:
        self._planner, self._kernel = planner, planner.kernel
        self._pod_networks = tuple(pool.network for pool in network.pools)
        self._wanted = dict(planner.wanted)
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
