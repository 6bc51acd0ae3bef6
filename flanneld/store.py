"""Where leases live: the contract every store keeps, and the choice of a subnet they share; must not know any store."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator, Collection, Iterable
from dataclasses import dataclass
from typing import Protocol

from flanneld import FlanneldError
from flanneld.config import NetworkConfig
from flanneld.lease import Lease, LeaseAttrs, Leases, Subnets, choose_subnet, overlap


class StoreError(FlanneldError):
    """The store cannot serve us and waiting will not change that: wrong certificate, wrong password, no permission."""


class StoreUnavailable(StoreError):
    """The store does not answer now; the same call may succeed later."""


class NetworkNotConfigured(StoreUnavailable):
    """Nobody has written the network config yet."""


class LeaseLost(FlanneldError):
    """The lease is gone or another host's; the caller must stop using the subnet."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All that a store holds, at one moment: who sees a lease sees the config that its host had seen."""

    leases: Leases
    config: str | None
    """The network config's text, unchecked; None: nobody has written one."""
    relisted: bool = False
    """The first after a time in which the store was not heard: what is missing may only be late, as after a restore."""


@dataclass(slots=True)
class StoreStatus:
    """How it goes with a store, for those who report it."""

    reachable: bool = True
    """The watch is open, or was when it was last looked."""
    heard_at: float = 0.0
    """When the store last said something to the watch, by the monotonic clock; 0: never."""
    watches: int = 0
    """How often a watch was opened: once, and again after each loss."""
    compactions: int = 0
    """How often history was gone that the watch still needed, so that all was listed again."""


class LeaseStore(Protocol):
    """Claims are atomic and owner-checked. The owner of a lease is the host whose public IPs it carries."""

    @property
    def status(self) -> StoreStatus:
        """As of now."""

    async def network(self) -> NetworkConfig:
        """The network config; raises NetworkNotConfigured, ConfigError, StoreUnavailable."""

    async def acquire(
        self, network: NetworkConfig, attrs: LeaseAttrs, former: Lease | None = None, published: Collection[str] = ()
    ) -> Lease:
        """Claim subnets: our own lease if it still fits, else the `former` one's if free, else free ones by `choose_subnet`.

        `former` is what we held when we last ran, and `published` what we said of it: see `is_ours`. A claim lost to another host
        at the same instant is tried again with the next choice, inside. Raises SubnetsExhausted, StoreUnavailable. Repeating it
        returns the same lease.
        """

    async def hold(self, lease: Lease, attrs: LeaseAttrs, published: Collection[str] = ()) -> Lease:
        """Claim exactly the subnets of this lease of ours, again or still, and publish these attributes.

        `published` is what we said of it so far: see `is_ours`. Other leases of ours are given up. Raises LeaseLost while another
        host holds any part, StoreUnavailable.
        """

    async def renew(self, lease: Lease) -> Lease:
        """Extend our claim and return it with its new expiry; raises LeaseLost unless it is still ours."""

    async def release(self, lease: Lease) -> None:
        """Give the claim up; nothing happens when it is not ours any more, or is a reservation: that is the administrator's."""

    async def leases(self) -> Leases:
        """The whole mapping, once, with every expiry."""

    def watch(self) -> AsyncGenerator[Snapshot]:
        """Yield all that there is at once and after each change. Never ends; compaction, reconnect, re-list stay inside.

        Changes that come while the consumer is busy are coalesced: what is yielded is the latest. Leases carry no expiry: it
        changes without anybody being told.
        """

    def fits(self, network: NetworkConfig, subnets: Subnets) -> bool:
        """True if a lease of these subnets may be held on under this config."""

    def reconnect(self) -> None:
        """This host has other addresses now: what is open from the old ones is dead, and would be waited for."""

    async def close(self) -> None:
        """Close connections; leases stay."""


@dataclass(frozen=True, slots=True)
class Claim:
    """What `acquire` should write."""

    subnets: Subnets
    ours: Lease | None
    """Our present lease on exactly these subnets, to be refreshed; None: nobody holds them, create."""
    misfits: tuple[Lease, ...]
    """Leases of ours that we have no use for any more, to be deleted."""
    rivals: tuple[Lease, ...] = ()
    """Other hosts' leases that are in the way: after our misfits are deleted, which may be in theirs, the claim cannot be made."""

    def require_free(self) -> None:
        """Raise LeaseLost, naming the rivals, if there are any."""
        if self.rivals:
            raise LeaseLost(f"lease {'+'.join(map(str, self.subnets))} is held by {' and '.join(map(holder, self.rivals))}")


def choose_claim(
    network: NetworkConfig,
    leases: Iterable[Lease],
    attrs: LeaseAttrs,
    former: Lease | None = None,
    published: Collection[str] = (),
    *,
    attempt: int = 0,
) -> Claim:
    """Decide what to claim, in flannel's order: our lease, the last known subnets, free ones; raises SubnetsExhausted.

    `attempt` moves the search on after a claim was lost to somebody whom the list did not show yet.
    """
    held = tuple(leases)
    prefer = former.subnets if former else ()
    mine = [lease for lease in held if is_ours(attrs, former, lease, published)]
    misfits = tuple(lease for lease in mine if not fits(network, lease.subnets))
    fitting = [lease for lease in mine if fits(network, lease.subnets)]
    if fitting:
        chosen = next((lease for lease in fitting if lease.subnets == prefer), fitting[0])
        return Claim(chosen.subnets, chosen, misfits)
    taken = [subnet for lease in held if lease not in misfits for subnet in lease.subnets]
    if fits(network, prefer) and not overlap(prefer, taken) and attempt == 0:
        return Claim(prefer, None, misfits)
    subnets = tuple(choose_subnet(pool, taken, _seed(attrs, attempt)) for pool in network.pools)
    return Claim(subnets, None, misfits)


def choose_hold(leases: Iterable[Lease], lease: Lease, attrs: LeaseAttrs, published: Collection[str] = ()) -> Claim:
    """Decide how to claim exactly the subnets of `lease`, of which we said what was `published`."""
    rivals, ours, misfits = [], None, []
    for one in leases:
        if one.subnets == lease.subnets and is_ours(attrs, lease, one, published):
            ours = one
        elif is_ours(attrs, lease, one):
            misfits.append(one)
        elif overlap(one.subnets, lease.subnets):
            rivals.append(one)
    return Claim(lease.subnets, ours, tuple(misfits), tuple(rivals))


def holder(lease: Lease) -> str:
    """Who holds the lease, in words."""
    return "+".join(map(str, lease.attrs.public_ips)) or "nobody who can be named"


def is_ours(attrs: LeaseAttrs, former: Lease | None, lease: Lease, published: Collection[str] = ()) -> bool:
    """True if the lease is the claim of the host with these attributes, or `former` itself: that host's public IP has changed.

    It is `former` when it is the very claim (by creation), and nobody else has written over it; or when it is of an older time
    and says what that host ever `published` (fingerprints): the store was restored from an old snapshot.
    """
    if owns(attrs, lease):
        return True
    if former is None or not former.created or former.subnets != lease.subnets:
        return False
    if lease.created == former.created and lease.attrs.public_ips in ((), former.attrs.public_ips):
        return True  # (): what is written there cannot be read
    return lease.created <= former.created and lease.attrs.fingerprint() in published


def owns(attrs: LeaseAttrs, lease: Lease) -> bool:
    """True if the lease is the claim of the host with these attributes: same public IP in the first family both have.

    Go flannel compares IPv4 only, so that IPv6-only hosts (all 0.0.0.0) would take each other's subnet.
    """
    for ip in attrs.public_ips:
        theirs = next((other for other in lease.attrs.public_ips if other.version == ip.version), None)
        if theirs is not None:
            return theirs == ip
    return False


def fits(network: NetworkConfig, subnets: Subnets) -> bool:
    """True if the network config could have handed out exactly these subnets."""
    return len(subnets) == len(network.pools) and all(subnet in pool for subnet, pool in zip(subnets, network.pools, strict=True))


def _seed(attrs: LeaseAttrs, attempt: int) -> int:
    text = f"{attempt} {' '.join(map(str, attrs.public_ips))}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
