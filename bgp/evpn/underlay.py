"""Which addresses VTEPs can have, as the kernel's routes are now; must not know who announces them.

A VTEP may be any number of routers away: encapsulated packets are routed as all others. With a default route there is a way to any
address, so a mistaken one costs the packets to its own prefix, as they would be lost anyway.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from flanneld.kernel import Kernel, KernelError
from flanneld.lease import IPAddress, IPNetwork


@dataclass(slots=True)
class Underlay:
    """Asks the kernel once, until it is to look again."""

    kernel: Kernel
    pods: Collection[IPNetwork]
    """Addresses in here are no host's."""
    _known: dict[IPAddress, bool] = field(default_factory=dict)

    def has(self, address: IPAddress) -> bool:
        """True if packets to it leave this host, and not into the pod network."""
        if address not in self._known:
            self._known[address] = self._leads_to(address)
        return self._known[address]

    def relook(self) -> bool:
        """Look again; true if anything is otherwise than before."""
        before, self._known = self._known, {address: self._leads_to(address) for address in self._known}
        return self._known != before

    def _leads_to(self, address: IPAddress) -> bool:
        if any(address in network for network in self.pods):
            return False
        try:
            return not self.kernel.next_hop(address).local
        except KernelError:
            return False
