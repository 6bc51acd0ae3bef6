"""What of udp's data path the kernel takes over (`ebpf`): made for each TUN, told the peers, kept attached; must not know leases.

It stands beside the data plane in user space, which gets whatever the kernel leaves to it; without it, all.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network

from flanneld import FlanneldError
from flanneld.backend import BackendError
from flanneld.backends.udp.ebpf.kernel_path import KernelPath
from flanneld.linux.netlink import Netlink
from flanneld.log import Log, Once

log = Log(__name__)

LOOK_S = 2.0
"""The kernel tells nobody that a program was detached; until it is seen, packets take the longer way."""


@dataclass(slots=True)
class Shortcut:
    """One host's, for one uplink and port."""

    netlink: Netlink
    uplink_index: int
    address: IPv4Address
    port: int
    strict: bool
    repaired: int = 0
    """How often somebody had detached it."""
    _path: KernelPath | None = None
    _tun: int = 0
    _targets: dict[IPv4Network, IPv4Address] = field(default_factory=dict)
    _sources: dict[IPv4Network, IPv4Address] = field(default_factory=dict)
    _reached: bool = False
    _said: Once = field(default_factory=lambda: Once(log))

    def follow(self, tun_index: int) -> None:
        """Work on this TUN; nothing happens if it does already. Raises BackendError, KernelError."""
        if tun_index == self._tun:
            return
        self.close()
        self._path = KernelPath(self.netlink, self.uplink_index, tun_index, self.address, self.port, self.strict)
        self._tun = tun_index
        if self._reached:
            self._path.reach(self._targets, self._sources)

    def hear(self, sources: Mapping[IPv4Network, IPv4Address]) -> None:
        """From the next `reach` on take inner sources from exactly these peers."""
        self._sources = dict(sources)

    def reach(self, targets: Mapping[IPv4Network, IPv4Address]) -> None:
        """Encapsulate to exactly these. Raises KernelError."""
        self._targets, self._reached = dict(targets), True
        if self._path is not None:
            self._path.reach(self._targets, self._sources)

    def counters(self) -> dict[str, int]:
        """What the kernel did, and how often it had to be put right."""
        found = self._path.counters() if self._path is not None else {}
        return {**{f"kernel_{what}": number for what, number in found.items()}, "kernel_repaired": self.repaired}

    async def keep(self) -> None:
        """Put back what somebody takes away, for ever."""
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                if self._path is not None and self._path.restore():
                    self.repaired += 1
                    log.warning("repaired", cause="program detached", programs=1)
                self._said.over("shortcut")
            except BackendError as error:  # for the kernel's way IPsec policies would be passed by
                log.warning("data path given up, packets go through user space", path="ebpf", why=error)
                self.close()
            except FlanneldError as error:
                self._said.warning("shortcut", "data path not restored", path="ebpf", why=error)

    def close(self) -> None:
        """Leave all to user space. May be repeated."""
        path, self._path, self._tun = self._path, None, 0
        if path is not None:
            path.close()
