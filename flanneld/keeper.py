"""Keeps our own lease: renews it in time, claims it again when it vanishes, publishes what changes, gives up when it is another's.

It must not know etcd. Whatever the store has against us for a while, the lease outlives it, and pods go on meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from enum import Enum

from flanneld.lease import Judged, Lease, LeaseAttrs, Leases, Subnets
from flanneld.log import Log, Once
from flanneld.retry import Backoff
from flanneld.store import LeaseLost, LeaseStore, StoreError, owns

log = Log(__name__)

LEAST_RENEWAL_S = 1.0
"""Between two renewals, so that an expiry in the past does not make a loop of them."""
LATE_S = 2.0
"""For so long after a publication the watch may still show what was published before; later it is a store that was restored."""
DISPUTE_S = 5.0
"""For how long another host's claim on our subnet is disputed: after the store was restored from an old snapshot, each host has to
find its own again and to give up what it held then."""


class LeaseState(Enum):
    """How it stands with our lease."""

    HELD = "held"
    MISSING = "missing"
    """The store does not show it, or shows it as another's; it is being claimed again."""
    EXPIRED = "expired"
    """By our clock: for too long the store has not confirmed it, and may have given it to another host."""
    LOST = "lost"
    """Another host has it."""


@dataclass(frozen=True, slots=True)
class Listener:
    """Who is told of the lease."""

    state: Callable[[str], None]
    """What is wrong with it, in words; "" when nothing is."""
    changed: Callable[[Lease], None]
    """The claim is another one now, on the same subnets."""


class LeaseKeeper:
    """Guards one lease until it is lost for good."""

    def __init__(
        self,
        store: LeaseStore,
        lease: Lease,
        margin_s: float,
        now: Callable[[], float],
        listener: Listener,
        published: Iterable[str] = (),
    ) -> None:
        """`published`: what this claim said in earlier runs, as fingerprints."""
        self.lease = lease
        """As the store has it, but for what is still to be published."""
        self.claimed_at = now()
        self.reclaims = 0
        """How often it had to be claimed again."""
        self.written_over = 0
        """How often somebody else had written into it."""
        self._store = store
        self._attrs = self._attrs_before = lease.attrs
        self._held_at = now()
        self._asked = lease.attrs
        """What the store was last asked to publish: it may publish another address, if a user says so."""
        self._margin_s = margin_s
        """Renew at least this long before the expiry (`--subnet-lease-renew-margin`)."""
        self._now = now
        self._listener = listener
        self._published = {*published, lease.attrs.fingerprint()}
        """All that this claim ever said by our hand: a store restored from an old snapshot shows some of it again."""
        self._missing = False
        self._written_over = False
        """The lease is ours, and says what we did not publish: peers would send to the wrong place."""
        self._owned = Judged(lambda lease: owns(self._attrs, lease))
        self._strays: frozenset[Subnets] = frozenset()
        """Other claims of ours, of an older time: they keep subnets from hosts that may have them now."""
        self._kept_strays: frozenset[Subnets] = frozenset()
        """Those that are not ours to give up: reservations."""
        self._lost = False
        self._wake = asyncio.Event()
        self._disputed_since: float | None = None
        self._said = Once(log)

    @property
    def state(self) -> LeaseState:
        if self._lost:
            return LeaseState.LOST
        if self.lease.expires_at is not None and self._now() > self.lease.expires_at:
            return LeaseState.EXPIRED
        return LeaseState.MISSING if self._missing else LeaseState.HELD

    def leases(self, leases: Leases) -> None:
        """Take the present leases: ours should be among them, and ours."""
        present = leases.get(self.lease.subnets)
        self._missing = present is None or not (owns(self.lease.attrs, present) or owns(self._attrs, present))
        if present is not None and not self._missing and present.created != self.lease.created:
            # The store was restored, and shows our claim of another time: by its number it is known, whatever is written into it.
            self.lease = replace(self.lease, created=present.created)
            self._listener.changed(self.lease)
        # What we have just published, or published before that, may be shown late.
        late = {self._attrs_before} if self._now() - self._held_at < LATE_S else set()
        self._written_over = present is not None and present.attrs not in {self.lease.attrs, self._attrs, *late}
        self._strays = frozenset(
            one.subnets for one, ours in self._owned.of(leases.values()) if ours and one.subnets != self.lease.subnets
        )
        if self._missing or self._unpublished or self._written_over or self._strays - self._kept_strays:
            self._wake.set()  # the store answers: no reason to wait any longer

    def publish(self, attrs: LeaseAttrs) -> None:
        """From now on our lease is to say this."""
        self._attrs = attrs
        self._owned.forget()
        self._wake.set()

    def replaced(self, lease: Lease) -> None:
        """We hold another lease now: the network has moved."""
        self.lease, self._attrs, self._asked, self._missing = lease, lease.attrs, lease.attrs, False
        self._published = {lease.attrs.fingerprint()}
        self._owned.forget()
        self._wake.set()

    def renewal_in(self) -> float | None:
        """Seconds until the next renewal: half the time left, or the margin if that is sooner; None for a reservation."""
        if self.lease.expires_at is None:
            return None
        left = self.lease.expires_at - self._now()
        return max(min(left / 2, left - self._margin_s), LEAST_RENEWAL_S)

    async def run(self) -> None:
        """Keep the lease; raises LeaseLost when another host holds the subnet and does not let go."""
        backoff = Backoff(first_s=0.1, cap_s=2)
        pause_s = self.renewal_in()
        while True:
            await self._woken(pause_s)
            written_over = self._written_over
            try:
                await self._step()
            except StoreError as error:
                self._said.warning("lease", "lease not extended", subnet=self.lease, why=error)
                self._tell(str(error) if self.state is LeaseState.EXPIRED else "")
                pause_s = backoff.next()
            except LeaseLost as error:
                self._dispute(error)
                pause_s = backoff.next()
            else:
                self._settled()
                backoff.reset()
                pause_s = self.renewal_in()
                if written_over:  # by a second host with our public IP, say: then it is a war, and not to be a quick one
                    await asyncio.sleep(LEAST_RENEWAL_S)

    @property
    def _unpublished(self) -> bool:
        return self._attrs != self._asked

    async def _woken(self, pause_s: float | None) -> None:
        """Wait until there is something to do, or so long."""
        try:
            async with asyncio.timeout(pause_s):
                await self._wake.wait()
        except TimeoutError:
            pass
        self._wake.clear()

    async def _step(self) -> None:
        """Bring the store to what we want it to say; raises StoreError, LeaseLost."""
        before, attrs = self.lease, self._attrs
        if self._missing:
            self._said.warning("missing", "lease missing", subnet=before)
        strays = self._strays - self._kept_strays
        if not (self._missing or self._unpublished or self._written_over or strays):
            try:
                self.lease = await self._store.renew(before)
            except LeaseLost:
                self._missing = True
        # As it was seen: while the store works, its watch may show already that all is well again.
        missing, written_over = self._missing, self._written_over
        if missing or written_over or strays or self._unpublished:
            self.lease, self._attrs_before = await self._store.hold(before, attrs, self._published), before.attrs
            self._asked, self._held_at = attrs, self._now()
            self._published |= {attrs.fingerprint(), self.lease.attrs.fingerprint()}
            self._kept_strays |= strays  # what is there still is to stay there
            if missing:
                self.reclaims, self.claimed_at = self.reclaims + 1, self._now()
                log.info("lease claimed again", subnet=self.lease)
            elif written_over:
                self.written_over += 1
                log.warning("lease was written over by somebody, and is published again", subnet=self.lease)
            self._missing = self._written_over = False
        if (self.lease.created, self.lease.attrs) != (before.created, before.attrs):
            self._listener.changed(self.lease)

    def _settled(self) -> None:
        self._disputed_since = None
        self._said.over("missing")
        if self._said.over("lease"):
            log.info("lease extended", subnet=self.lease)
        self._tell("")

    def _dispute(self, error: LeaseLost) -> None:
        """Another host has our subnet: raise `error` once it had the time to let go."""
        now = self._now()
        self._disputed_since = now if self._disputed_since is None else self._disputed_since
        self._said.warning("lease", "lease disputed", subnet=self.lease, why=error)
        self._tell(f"lost: {error}")
        if now - self._disputed_since > DISPUTE_S:
            self._lost = True
            raise error

    def _tell(self, why: str) -> None:
        self._listener.state(why)
