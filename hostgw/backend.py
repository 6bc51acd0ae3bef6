"""host-gw: a peer's pod subnet is routed to the peer itself, over a layer-2 segment that both share; must not know netlink.

The whole backend contract in its smallest form: `plan` says what each peer needs, and the daemon brings the kernel there.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import ClassVar, Self

from flanneld.backend import Network, Plan, Refusal, Uplink, Wanted, on_link, require_own_address
from flanneld.config import NetworkConfig
from flanneld.kernel import Kernel, Owner, Route
from flanneld.lease import IPAddress, Judged, Lease, LeaseAttrs, family_of

BACKEND_TYPE = "host-gw"


def plan(peer: Lease, uplink: Uplink, direct: Callable[[IPAddress], bool]) -> tuple[Route, ...] | Refusal:
    """The routes to one peer, one per family; or why there can be none. `direct` tells if an address is on the uplink's segment."""
    routes = []
    for subnet in peer.subnets:
        gateway = peer.attrs.public_ip(family_of(subnet))
        if gateway is None:
            return Refusal(peer, f"has the subnet {subnet} but no public IPv{subnet.version} address")
        if not direct(gateway):
            return Refusal(peer, f"at {gateway} is not on the segment of {uplink}: host-gw needs it there, vxlan does not")
        routes.append(Route(subnet, uplink.index, gateway))
    return tuple(routes)


@dataclass(frozen=True, slots=True)
class HostGwBackend:
    """host-gw has no settings."""

    KEYS: ClassVar[frozenset[str]] = frozenset()
    in_user_space: ClassVar[bool] = False

    @classmethod
    def parse(cls, config: Mapping[str, object]) -> Self:
        """Read `Backend`: nothing is in it."""
        return cls()

    def devices(self, network: NetworkConfig) -> tuple[str, ...]:
        """None."""
        return ()

    @asynccontextmanager
    async def attach(self, uplink: Uplink, network: NetworkConfig, kernel: Kernel) -> AsyncIterator[Network]:
        """Nothing to open: the uplink is the device."""
        require_own_address(uplink, BACKEND_TYPE)
        yield HostGwNetwork(uplink, network, kernel)


class HostGwNetwork:
    """The routes to all peers."""

    def __init__(self, uplink: Uplink, network: NetworkConfig, kernel: Kernel) -> None:
        self.attrs = LeaseAttrs(uplink.public_ips, BACKEND_TYPE)
        self.mtu = uplink.mtu
        self.owner = Owner(tuple(pool.network for pool in network.pools))
        self._uplink = uplink
        self._kernel = kernel
        self._plans = Judged(self._plan)

    async def adopt(self, own: Lease) -> None:
        """Nothing: our own subnet is the pod bridge's business."""

    def speaks(self, peer: Lease) -> bool:
        """Its lease names the method."""
        return peer.attrs.backend_type == BACKEND_TYPE

    async def reach(self, peers: Collection[Lease], *, disturbed: bool = True) -> Wanted:
        """Route every peer's subnets to it."""
        if disturbed:
            self._plans.forget()
        return Wanted([*self._plans.of(peers, again=Refusal)])

    def _plan(self, peer: Lease) -> Plan:
        return plan(peer, self._uplink, lambda ip: on_link(self._uplink, self._kernel, ip))

    async def run(self) -> None:
        """Nothing: the kernel forwards."""

    def remove(self) -> None:
        """Nothing: there is no device."""
