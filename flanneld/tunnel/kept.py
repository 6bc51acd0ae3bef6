"""TUN and underlay socket, kept open from one run of the daemon to the next (`linux.safe`); what waits in them is not lost."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from ipaddress import IPv4Address

from flanneld.linux.links import disable_autoconf
from flanneld.linux.netlink import Netlink
from flanneld.linux.safe import Safe
from flanneld.linux.tun import TunDevice, open_tun, recover_tun
from flanneld.tunnel.sockets import open_underlay, recover_underlay

TUN, UNDERLAY = "tun", "underlay"


@dataclass(frozen=True, slots=True)
class Kept:
    """A safe, or none, and what is to be in it."""

    safe: Safe | None
    device: str
    """The TUN's name."""
    tap: bool
    """Frames, not packets."""
    fragments: bool
    """The kernel may cut what the underlay socket sends."""

    def underlay(self, address: IPv4Address, port: int) -> socket.socket:
        """The socket that an earlier run left open, with all that has arrived since, or one opened anew. Raises BackendError."""
        left = self.safe.take(UNDERLAY) if self.safe is not None else None
        found = recover_underlay(left, address, port, fragments=self.fragments) if left is not None else None
        if found is not None:
            return found
        if self.safe is not None:
            self.safe.drop(UNDERLAY)  # before the port is asked for again: the copy in there has it
        opened = open_underlay(address, port, fragments=self.fragments)
        if self.safe is not None:
            self.safe.put(UNDERLAY, opened.fileno())
        return opened

    def tun(self, netlink: Netlink) -> TunDevice:
        """The TUN that an earlier run left open, with all that waits in it, or one made anew. Raises KernelError."""
        left = self.safe.take(TUN) if self.safe is not None else None
        found = recover_tun(left, tap=self.tap) if left is not None else None
        return found or self.new_tun(netlink)

    def new_tun(self, netlink: Netlink) -> TunDevice:
        """One made anew; raises KernelError."""
        if self.safe is not None:
            self.safe.drop(TUN)
        tun = open_tun(self.device, tap=self.tap)
        if self.safe is not None:
            self.safe.put(TUN, tun.fd)
        disable_autoconf(netlink, tun.index)  # router solicitations would be the only packets that nobody has asked for
        return tun

    def forget(self) -> None:
        """Keep nothing for a next run: the TUN goes when it is closed here."""
        if self.safe is not None:
            for key in (TUN, UNDERLAY):
                self.safe.drop(key)
