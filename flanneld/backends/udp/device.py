"""udp's device: the TUN and what belongs to it in the kernel, as they should be; must not know leases."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv4Network

from flanneld.backends.udp.forward import Router
from flanneld.backends.udp.shortcut import Shortcut
from flanneld.kernel import Kernel, Owner, Route
from flanneld.linux.links import adjust_link, link, present_link, set_addresses
from flanneld.linux.netlink import Netlink
from flanneld.tunnel.kept import Kept
from flanneld.tunnel.plane import Plane


@dataclass(frozen=True, slots=True)
class Device:
    """The TUN as it should be: up, with our subnet's first address as a /32, and the route to the pod network through it."""

    plane: Plane
    router: Router
    netlink: Netlink
    kernel: Kernel
    network: IPv4Network
    mtu: int
    kept: Kept
    shortcut: Shortcut | None

    @property
    def owner(self) -> Owner:
        """The TUN, and whatever another method left in the pod network: it would be the longer prefix."""
        return Owner((self.network,), frozenset({self.plane.tun.index}))

    @property
    def route(self) -> Route:
        """The pod network's, through the TUN."""
        return Route(self.network, self.plane.tun.index)

    def restore(self) -> None:
        """Bring device and address to what they should be; what is so already is left alone. Raises KernelError."""
        found = link(self.netlink, self.plane.tun.name)
        if found is None or found.index != self.plane.tun.index or self.plane.tun_lost:
            self.plane.use(self.kept.new_tun(self.netlink))
            found = present_link(self.netlink, self.plane.tun.name)
            if self.shortcut is not None:
                self.shortcut.follow(found.index)
        adjust_link(self.netlink, found, mtu=self.mtu)
        if self.router.address is None:
            return
        set_addresses(self.netlink, found.index, (IPv4Interface((self.router.address, 32)),))

    def lead_there(self) -> None:
        """The route, at once after the device was lost; else it is the mesh's to program. Raises KernelError."""
        for refused in self.kernel.add((self.route,)):
            raise refused
