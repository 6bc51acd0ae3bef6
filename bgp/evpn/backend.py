"""vxlan with `"Control": "bgp-evpn"`: flannel's device, kernel objects and leases, and EVPN to say who is where (RFC 8365).

    devices    `flanneld.backends.vxlan`'s, whoever encapsulates
    sessions   as those of the bgp method (`bgp.neighbours`, `bgp.router`), which exchange EVPN and nothing else
    routes     type 5 for each host's subnet, and 2 and 3 for its VTEP; what comes in is planned as leases are

Hosts of the plain method, Go flannel's too, are peers by their leases, and this one is theirs: the data path is the same.

While exabgp is started again, which is not when the daemon is, other hosts keep its routes. FRR 8 does so for unicast routes only.
Beside a bgp method, as hosts change over from one to the other, it needs a `BGPPort` of its own.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import ClassVar, Self

from bgp.evpn.network import DIRECTORY, CarryingEvpnNetwork, EvpnNetwork
from bgp.evpn.settings import KEYS, EvpnSettings, parse_settings
from bgp.evpn.underlay import Underlay
from bgp.evpn.viewpoint import Viewpoint
from bgp.speaker.news import SpeakerError
from bgp.speaker.speaker import Speaker
from flanneld.backend import BackendError, Carrying, Identity, Network, Uplink, require_own_address
from flanneld.backends.vtep import parse_vtep
from flanneld.backends.vxlan import VxlanBackend
from flanneld.config import NetworkConfig
from flanneld.kernel import Kernel


@dataclass(frozen=True, slots=True)
class EvpnVxlanBackend:
    """The method, configured."""

    vxlan: VxlanBackend
    settings: EvpnSettings
    identity: Identity = field(default_factory=Identity)
    KEYS: ClassVar[frozenset[str]] = VxlanBackend.KEYS | KEYS

    @property
    def in_user_space(self) -> bool:
        return self.vxlan.in_user_space

    @classmethod
    def parse(cls, config: Mapping[str, object]) -> Self:
        """Read both methods' keys; see `bgp.evpn.settings`."""
        vxlan = VxlanBackend.parse(config)
        return cls(vxlan, parse_settings(config, vxlan.vni))

    def on_host(self, identity: Identity) -> Self:
        return type(self)(self.vxlan, self.settings, identity)

    def devices(self, network: NetworkConfig) -> tuple[str, ...]:
        """vxlan's."""
        return self.vxlan.devices(network)

    @asynccontextmanager
    async def attach(self, uplink: Uplink, network: NetworkConfig, kernel: Kernel) -> AsyncIterator[Network]:
        """Make the devices; exabgp is not started, nor asked anything, before the network runs."""
        require_own_address(uplink, "vxlan with bgp-evpn")
        listen = tuple(address.ip for address in uplink.addresses)
        try:
            speaker = Speaker(self.identity.directory / DIRECTORY, listen, self.settings.bgp.port)
        except SpeakerError as error:
            raise BackendError(f"bgp: {error}") from error
        underlay = Underlay(kernel, [pool.network for pool in network.pools])
        async with self.vxlan.attach(uplink, network, kernel) as inner:
            macs = {family: parse_vtep(data).mac for family, data in inner.attrs.backend_data}
            viewpoint = Viewpoint(self.settings, self.identity, uplink, network.pools, macs, underlay.has)
            kind = CarryingEvpnNetwork if isinstance(inner, Carrying) else EvpnNetwork
            yield kind(inner, viewpoint, kernel, speaker, underlay.relook)
