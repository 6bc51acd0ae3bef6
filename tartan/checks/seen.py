"""Methods whose packets pass through flanneld, as they can be seen from another process."""

from __future__ import annotations

from collections.abc import Collection

from flanneld.backend import BackendError, Plan, Refusal, Uplink, Wanted
from flanneld.backends.udp import backend as udp
from flanneld.backends.vxlan import VxlanBackend
from flanneld.config import NetworkConfig
from flanneld.kernel import FdbEntry, Kernel, Owner, Route
from flanneld.lease import Lease, LeaseAttrs
from flanneld.linux.links import links
from flanneld.linux.netlink import Netlink
from flanneld.tunnel.switch import OUTER_SIZE


class Seen:
    """What is the same for all."""

    async def adopt(self, own: Lease) -> None:
        """Nothing."""

    async def run(self) -> None:
        """Nothing."""

    def remove(self) -> None:
        """Nothing."""


class SeenUdp(Seen):
    """The udp backend as it can be seen from another process."""

    def __init__(self, nl: Netlink, config: NetworkConfig, uplink: Uplink) -> None:
        """Raises BackendError without its TUN."""
        tun = next((link for link in links(nl) if link.kind == "tun" and link.name.removeprefix("flannel").isdigit()), None)
        if tun is None:
            raise BackendError("udp: there is no TUN flannel0: it goes with flanneld's process")
        self.attrs = LeaseAttrs(uplink.public_ips)
        self.mtu = uplink.mtu - OUTER_SIZE
        self.owner = Owner(tuple(pool.network for pool in config.pools), frozenset({tun.index}))
        self._routes = tuple(Route(pool.network, tun.index) for pool in config.pools)

    def speaks(self, peer: Lease) -> bool:
        """Its lease names no method."""
        return not peer.attrs.backend_type

    async def reach(self, peers: Collection[Lease], *, disturbed: bool = True) -> Wanted:
        """The routes that lead to the process, which knows the peers."""
        judged = [(peer, udp.plan(peer, 0)) for peer in peers]
        return Wanted([(peer, found if isinstance(found, Refusal) else ()) for peer, found in judged], self._routes)


class SeenTap(Seen):
    """vxlan in user space."""

    def __init__(self, nl: Netlink, config: NetworkConfig, uplink: Uplink, kernel: Kernel) -> None:
        """Raises BackendError without its TAP."""
        self._planner = VxlanBackend.parse(config.backend).planner(uplink, config, kernel)
        (wanted,) = self._planner.wanted.values()
        tap = next((link for link in links(nl) if link.kind == "tun" and link.name == wanted.name), None)
        if tap is None:
            raise BackendError(f"vxlan in user space: there is no TAP {wanted.name}: it goes with flanneld's process")
        self.attrs, self.mtu, self._tap = self._planner.attrs(), wanted.mtu, tap.index
        self.owner = Owner(tuple(pool.network for pool in config.pools), frozenset({tap.index}))

    def speaks(self, peer: Lease) -> bool:
        """As the backend does."""
        return self._planner.speaks(peer)

    async def reach(self, peers: Collection[Lease], *, disturbed: bool = True) -> Wanted:
        """Routes and neighbours; the process knows the rest."""
        return Wanted([(peer, self._in_kernel(peer)) for peer in peers])

    def _in_kernel(self, peer: Lease) -> Plan:
        plan = self._planner.plan(peer, {4: self._tap})
        return plan if isinstance(plan, Refusal) else tuple(entry for entry in plan if not isinstance(entry, FdbEntry))
