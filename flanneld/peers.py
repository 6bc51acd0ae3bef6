"""The control loop of the data path: whatever happens, bring the attached network to the present peers; must not know any backend.

Level, not edge: a lease change, a kernel notification, a failure and the first start all end in one `apply` of the whole set.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from ipaddress import IPv4Address

from flanneld import FlanneldError
from flanneld.backend import Network, Refusal
from flanneld.config import NetworkConfig
from flanneld.lease import IPAddress, Lease, Leases, inside, overlap
from flanneld.log import Log, Once
from flanneld.retry import Backoff
from flanneld.store import owns

log = Log(__name__)

BROADCAST = IPv4Address("255.255.255.255")


def eligible(network: NetworkConfig, own: Lease, leases: Leases) -> tuple[list[Lease], list[Refusal]]:
    """The peers among all leases, and those that must not be programmed: they would take packets that are not theirs."""
    peers, refused = [], []
    for lease in leases.values():
        if lease.subnets == own.subnets or owns(own.attrs, lease):
            continue  # ours, or a claim we held before
        if overlap(lease.subnets, own.subnets):
            refused.append(Refusal(lease, f"overlaps our own subnet {own}"))
        elif not all(any(inside(subnet, pool.network) for pool in network.pools) for subnet in lease.subnets):
            refused.append(Refusal(lease, "lies outside the pod network", foreign=True))
        elif not all(map(is_one_host, lease.attrs.public_ips)):
            given = " ".join(map(str, lease.attrs.public_ips))
            refused.append(Refusal(lease, f"has the public IP {given}, expected one host's address", foreign=True))
        else:
            peers.append(lease)
    return peers, refused


def is_one_host(address: IPAddress) -> bool:
    """True if packets sent to the address can arrive at another host, and at one only."""
    return not (address.is_multicast or address.is_unspecified or address.is_loopback or address == BROADCAST)


class PeerLoop:
    """Applies the latest leases to one attached network, as often as something asks for it, and again after a failure."""

    def __init__(self, network: NetworkConfig, attached: Network, own: Lease, state: Callable[[str], None]) -> None:
        self._network = network
        self._attached = attached
        self._own = own
        self._state = state
        """Told what keeps peers from being programmed; "" when nothing does."""
        self._leases: Leases | None = None
        self._wanted = asyncio.Event()
        self._backoff = Backoff(first_s=0.1, cap_s=10)
        self._refused: frozenset[str] = frozenset()
        self._ready = False
        self._said = Once(log)

    def leases(self, leases: Leases) -> None:
        """Take the present leases."""
        self._leases = leases
        self._wanted.set()

    def disturbed(self) -> None:
        """Something in the kernel may not be as we left it."""
        self._wanted.set()

    async def run(self) -> None:
        """Apply for ever; errors are said once, kept as the state, and tried again."""
        pause_s: float | None = None
        while True:
            try:
                async with asyncio.timeout(pause_s):
                    await self._wanted.wait()
            except TimeoutError:
                pass
            self._wanted.clear()
            if self._leases is not None:
                pause_s = await self._apply(self._leases)

    async def _apply(self, leases: Leases) -> float | None:
        """One round; returns after how many seconds to try again, None when all is done."""
        peers, refused = eligible(self._network, self._own, leases)
        try:
            beyond = await self._attached.apply(peers)
        except FlanneldError as error:
            self._said.warning("peers", "peers not programmed", why=error)
            self._state(str(error))
            return self._backoff.next()
        unreachable = self._say_refused((*refused, *beyond))
        self._said.info("peers", "peers programmed", peers=len(peers) - len(beyond), refused=len(refused) + len(beyond))
        if not unreachable or self._ready:
            # A newcomer that cannot be reached is its own fault and its own unreadiness; it must not take ready hosts down.
            self._ready = True
            self._state("")
        else:
            self._state(unreachable[0])
        if unreachable:
            return self._backoff.next()
        self._backoff.reset()
        return None

    def _say_refused(self, refused: Iterable[Refusal]) -> list[str]:
        """Log each refusal when it is new; returns the words of those that count against readiness."""
        now = {str(refusal): refusal for refusal in refused}
        for words, refusal in now.items():
            if words not in self._refused:
                say = log.warning if refusal.foreign else log.error
                say("peer refused", peer=refusal.lease, why=refusal.why)
        self._refused = frozenset(now)
        return [words for words, refusal in now.items() if not refusal.foreign]
