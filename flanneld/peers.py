"""The control loop of the data path: whatever happens, bring the mesh to the present peers; must not know any backend.

Level, not edge: a lease change, a kernel notification, a failure and the first start all end in one `apply` of the whole set.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from types import MappingProxyType
from typing import Protocol

from flanneld import FlanneldError
from flanneld.backend import Refusal
from flanneld.config import NetworkConfig
from flanneld.kernel import count_kinds
from flanneld.lease import IPAddress, Judged, Lease, Leases, inside, overlap
from flanneld.log import Log, Once, Paced
from flanneld.program import Programmed
from flanneld.retry import Backoff
from flanneld.store import owns
from flanneld.tally import Histogram

log = Log(__name__)

BROADCAST = IPv4Address("255.255.255.255")
TRUST_S = 2.0
"""Once a store that was away or had forgotten us knows us again, others get so long to be known again too."""
MANY_REPAIRS, REPAIRS_S = 20, 10.0
"""More repairs than that in so many seconds: somebody else works against us, and we slow down."""


def eligible(network: NetworkConfig, own: Lease, leases: Leases) -> tuple[list[Lease], list[Refusal]]:
    """The peers among all leases, and those that must not be programmed: they would take packets that are not theirs."""
    return _parted((lease, verdict(network, own, lease)) for lease in leases.values())


def verdict(network: NetworkConfig, own: Lease, lease: Lease) -> Refusal | bool:
    """Whether a lease is a peer's, or why it must not be programmed."""
    if lease.subnets == own.subnets or owns(own.attrs, lease):
        return False  # ours, or a claim we held before
    if overlap(lease.subnets, own.subnets):
        return Refusal(lease, f"overlaps our own subnet {own}")
    if not all(any(inside(subnet, pool.network) for pool in network.pools) for subnet in lease.subnets):
        return Refusal(lease, "lies outside the pod network", foreign=True)
    if not all(map(is_one_host, lease.attrs.public_ips)):
        given = " ".join(map(str, lease.attrs.public_ips))
        return Refusal(lease, f"has the public IP {given}, expected one host's address", foreign=True)
    return True


def _parted(judged: Iterable[tuple[Lease, Refusal | bool]]) -> tuple[list[Lease], list[Refusal]]:
    peers, refused = [], []
    for lease, found in judged:
        if found is True:
            peers.append(lease)
        elif isinstance(found, Refusal):
            refused.append(found)
    return peers, refused


def is_one_host(address: IPAddress) -> bool:
    """True if packets sent to the address can arrive at another host, and at one only."""
    return not (address.is_multicast or address.is_unspecified or address.is_loopback or address == BROADCAST)


def believed(present: Leases, before: Leases) -> Leases:
    """What to go by while the store has lost its memory: what it says, and what it said before and nothing contradicts."""
    told = [subnet for subnets in present for subnet in subnets]
    kept = {subnets: lease for subnets, lease in before.items() if not overlap(subnets, told)}
    return MappingProxyType({**kept, **present})


@dataclass(slots=True)
class Rounds:
    """What the loop has done since it began, for those who report it."""

    duration: Histogram = field(default_factory=Histogram)
    failed: int = 0
    repairs: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Entries put back or taken out because of what happened in the kernel, by kind and cause."""
    peers: int = 0
    """Programmed in the last round that succeeded."""
    refused: int = 0
    wanted: Counter[str] = field(default_factory=Counter)
    """Entries that there should be, by kind."""
    missing: Counter[str] = field(default_factory=Counter)
    """How many of them are not there."""


class Reacher(Protocol):
    """Brings the kernel to a set of peers: the mesh."""

    async def reach(self, peers: Collection[Lease], *, disturbed: bool) -> Programmed:
        """See `mesh.Mesh.reach`."""


class PeerLoop:
    """Applies the latest leases to the mesh, as often as something asks for it, and again after a failure."""

    def __init__(
        self,
        network: NetworkConfig,
        mesh: Reacher,
        own: Lease,
        state: Callable[[str], None],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.rounds = Rounds()
        self._network = network
        self._mesh = mesh
        self._own = own
        self._state = state
        """Told what keeps peers from being programmed; "" when nothing does."""
        self._now = now
        self._verdicts = Judged(lambda lease: verdict(self._network, self._own, lease))
        self._leases: Leases | None = None
        self._before_loss: Leases | None = None
        """What the store said before it forgot us; None: it did not."""
        self._trust_at: float | None = None
        self._causes: set[str] = set()
        self._news = True
        """Leases or our own situation have changed since the last round that succeeded."""
        self._wanted = asyncio.Event()
        self._backoff = Backoff(first_s=0.1, cap_s=10)
        self._calm = Calm(now)
        self._refused: frozenset[str] = frozenset()
        self._ready = False
        self._said = Once(log)
        self._stands = Paced(log, "peers programmed")

    def leases(self, leases: Leases, *, relisted: bool = False) -> None:
        """Take the present leases; a store that was not heard for a while, or has forgotten us, may have forgotten others too."""
        known = self._own.subnets in leases
        forgotten = not known and self._leases is not None and self._own.subnets in self._leases
        if self._leases is not None and (forgotten or relisted):
            self._before_loss = believed(self._leases, self._before_loss or {})
            self._trust_at = None
        if known and self._before_loss is not None and self._trust_at is None:
            self._trust_at = self._now() + TRUST_S
        self._leases = leases
        self._news = True
        self._wanted.set()

    def settled(self, network: NetworkConfig, own: Lease) -> None:
        """From now on we are this host of that network."""
        self._network, self._own, self._news = network, own, True
        self._verdicts.forget()
        self._wanted.set()

    def news(self) -> None:
        """A method has heard of another way to peers."""
        self._news = True
        self._wanted.set()

    def disturbed(self, cause: str) -> None:
        """Something in the kernel may not be as we left it."""
        self._causes.add(cause)
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
                pause_s = await self._apply(self._present(self._leases))
                await asyncio.sleep(self._calm.pause_s())

    def _present(self, leases: Leases) -> Leases:
        """The leases to go by: a store without our own lease has forgotten more than that."""
        if self._before_loss is None:
            return leases
        if self._trust_at is not None and self._now() >= self._trust_at:
            self._before_loss = self._trust_at = None
            return leases
        return believed(leases, self._before_loss)

    async def _apply(self, leases: Leases) -> float | None:
        """One round; returns after how many seconds to look again, None when all is done."""
        causes, self._causes = self._causes, set()
        news, self._news = self._news, False
        peers, refused = _parted(self._verdicts.of(leases.values()))
        began = time.perf_counter()
        try:
            done = await self._mesh.reach(peers, disturbed=bool(causes))
        except FlanneldError as error:
            self.rounds.failed += 1
            self._causes |= causes
            self._news |= news
            self._said.warning("peers", "peers not programmed", why=error)
            self._state(str(error))
            return self._backoff.next()
        self.rounds.duration.observe(time.perf_counter() - began)
        if not news:
            self._say_repaired(done, causes)
        unreachable = self._say_refused((*refused, *done.refused))
        self._note(done, len(peers), len(refused))
        if not unreachable or self._ready:
            # A newcomer that cannot be reached is its own fault and its own unreadiness; it must not take ready hosts down.
            self._ready = True
            self._state("")
        else:
            self._state(unreachable[0])
        if unreachable:
            return self._backoff.next()
        self._backoff.reset()
        return None if self._trust_at is None else max(self._trust_at - self._now(), 0)

    def _note(self, done: Programmed, peers: int, refused: int) -> None:
        self.rounds.peers = peers - len(done.refused)
        self.rounds.refused = refused + len(done.refused)
        self.rounds.wanted, self.rounds.missing = done.wanted, done.missing
        if self._said.over("peers"):
            self._stands.forget()
        self._stands.info(peers=self.rounds.peers, refused=self.rounds.refused)

    def _say_repaired(self, done: Programmed, causes: Iterable[str]) -> None:
        """What was put right although nothing had changed but the kernel."""
        why = "+".join(sorted(causes))
        if not why or not done.report.changed:
            return
        changed = count_kinds((*done.report.added, *done.report.removed))
        for kind, count in changed.items():
            self.rounds.repairs[kind, why] += count
        if self._calm.repaired():
            log.warning("repaired", cause=why, **{f"{kind}s": count for kind, count in sorted(changed.items())})

    def _say_refused(self, refused: Iterable[Refusal]) -> list[str]:
        """Log each refusal when it is new; returns the words of those that count against readiness."""
        now = {str(refusal): refusal for refusal in refused}
        for words, refusal in now.items():
            if words not in self._refused and not refusal.pending:
                say = log.warning if refusal.foreign else log.error
                say("peer refused", peer=refusal.lease, why=refusal.why)
        self._refused = frozenset(words for words, refusal in now.items() if not refusal.pending)
        return [words for words, refusal in now.items() if not refusal.foreign]


class Calm:
    """Keeps two programs that undo each other's work from filling the log and the processor."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._at: deque[float] = deque(maxlen=MANY_REPAIRS)
        self._backoff = Backoff(first_s=0.1, cap_s=5)

    def repaired(self) -> bool:
        """Count one repair; true if it is worth a line in the log: the first of too many says so itself, the others do not."""
        crowded = self._crowded
        self._at.append(self._now())
        if self._crowded and not crowded:
            log.error("another program keeps changing what is ours", repairs=MANY_REPAIRS, within_s=REPAIRS_S)
        return not self._crowded

    def pause_s(self) -> float:
        """How long to leave things as they are before the next round."""
        if self._crowded:
            return self._backoff.next()
        self._backoff.reset()
        return 0.0

    @property
    def _crowded(self) -> bool:
        return len(self._at) == MANY_REPAIRS and self._now() - self._at[0] < REPAIRS_S
