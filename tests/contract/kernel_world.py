"""A kernel for the backend contract, in memory or Linux's in a namespace: an uplink, and an eye on what is written."""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from ipaddress import ip_address, ip_network

from flanneld.kernel import Entry, Kernel, KernelError, Link, NextHop, Owner, Route, RouteKind, VxlanLink
from flanneld.lease import IPAddress
from flanneld.linux import netns
from flanneld.linux.kernel import LinuxKernel
from memory_kernel import MemoryKernel
from scratch_netns import scratch_netns

UPLINK = 2
DEVICES = ("flannel.1", "flannel-v6.1")
ANYWHERE = (ip_network("0.0.0.0/0"), ip_network("::/0"))
OUR_PROTOCOL, OTHERS_PROTOCOL = 84, 4


class WatchedKernel:
    """Passes everything on to a kernel, but for entries that are to be refused, and remembers what was written."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self.written: list[frozenset[Entry]] = []
        """What each `add` and `remove` that had something to do was given."""
        self.refused: set[Entry] = set()
        """`add` refuses these."""

    def entries(self, owner: Owner) -> frozenset[Entry]:
        return self._kernel.entries(owner)

    def add(self, entries: Iterable[Entry]) -> tuple[KernelError, ...]:
        given = self._written(entries)
        errors = [KernelError(errno.EINVAL, entry, "as the test wants it") for entry in given if entry in self.refused]
        return (*errors, *self._kernel.add(entry for entry in given if entry not in self.refused))

    def remove(self, entries: Iterable[Entry], *, known: bool = False) -> tuple[KernelError, ...]:
        return self._kernel.remove(self._written(entries), known=known)

    def link(self, name: str) -> Link | None:
        return self._kernel.link(name)

    def ensure_link(self, wanted: VxlanLink) -> Link:
        return self._kernel.ensure_link(wanted)

    def remove_link(self, name: str) -> None:
        self._kernel.remove_link(name)

    def next_hop(self, address: IPAddress) -> NextHop:
        return self._kernel.next_hop(address)

    def everything(self) -> frozenset[Entry]:
        """All entries but what the kernel itself made, and what ends a host's own subnet."""
        return frozenset(entry for entry in self._present() if not isinstance(entry, Route) or entry.kind is RouteKind.UNICAST)

    def _present(self) -> frozenset[Entry]:
        devices = frozenset(link.index for name in DEVICES if (link := self.link(name)) is not None)
        owners = (Owner(ANYWHERE, devices, protocol) for protocol in (OUR_PROTOCOL, OTHERS_PROTOCOL))
        return frozenset(entry for owner in owners for entry in self.entries(owner))

    def clear(self) -> None:
        """As on the first day."""
        self.refused.clear()
        assert not self.remove(self._present())
        for name in DEVICES:
            self.remove_link(name)
        self.written.clear()

    def _written(self, entries: Iterable[Entry]) -> list[Entry]:
        given = list(entries)
        if given:
            self.written.append(frozenset(given))
        return given


@contextmanager
def watched_kernel(kind: str) -> Iterator[WatchedKernel]:
    """`memory` or `linux`; the latter is a namespace whose uplink is that of `peers_of.uplink`."""
    if kind == "memory":
        kernel = MemoryKernel()
        kernel.next_hops |= {
            ip_address(f"{net}{n}"): NextHop(UPLINK, None) for net in ("10.0.0.", "fd00:10::") for n in range(2, 41)
        }
        yield WatchedKernel(kernel)
        return
    with scratch_netns() as scratch, netns.netlink_in(scratch.path) as netlink:
        scratch.ip(f"link add eth0 index {UPLINK} type bridge")
        scratch.ip("addr add 10.0.0.1/24 dev eth0")
        scratch.ip("addr add fd00:10::1/64 dev eth0 nodad")
        scratch.ip("link set eth0 up")
        yield WatchedKernel(LinuxKernel(netlink))
