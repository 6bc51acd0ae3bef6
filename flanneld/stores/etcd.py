"""Leases in etcd, where and as flannel keeps them, so that both can share one network; must not know gRPC (`flanneld.etcd` does).

`<prefix>/config` is the network config. Each lease is a key under `<prefix>/subnets/` (`stores.codec`) that is attached to an etcd
lease of 24 h; one that is attached to none is a reservation: its host uses it, and it never expires.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Coroutine
from dataclasses import replace
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from flanneld.config import NetworkConfig, parse_network
from flanneld.etcd import Compacted, EtcdClient, EtcdError, EtcdUnavailable, Listing, TlsFiles, Watch
from flanneld.flags import Options
from flanneld.lease import Lease, LeaseAttrs, Leases, Subnets, overlap
from flanneld.log import Log
from flanneld.retry import Backoff
from flanneld.store import (
    Claim,
    LeaseLost,
    NetworkNotConfigured,
    Snapshot,
    StoreError,
    StoreStatus,
    StoreUnavailable,
    choose_claim,
    choose_hold,
    fits,
    holder,
    owns,
)
from flanneld.stores.codec import encode_attrs, encode_key
from flanneld.stores.mirror import Held, LeaseReader, Mirror

P = ParamSpec("P")
T = TypeVar("T")

LEASE_TTL_S = 86400
"""As flannel's: a host may be away for a day and keep its subnet."""

log = Log(__name__)


def open_etcd_store(options: Options) -> EtcdLeaseStore:
    """The store that the flags describe; nothing is connected yet. Raises StoreError for a bad endpoint or TLS file."""
    tls = TlsFiles(options.etcd_cafile, options.etcd_certfile, options.etcd_keyfile)
    try:
        client = EtcdClient(options.etcd_endpoints, tls=tls, user=(options.etcd_username, options.etcd_password))
    except EtcdError as error:
        raise StoreError(str(error)) from error
    return EtcdLeaseStore(client, options.etcd_prefix)


def _in_store_terms(call: Callable[P, Awaitable[T]]) -> Callable[P, Coroutine[Any, Any, T]]:
    @wraps(call)
    async def translated(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return await call(*args, **kwargs)
        except EtcdUnavailable as error:
            raise StoreUnavailable(str(error)) from error
        except EtcdError as error:
            raise StoreError(str(error)) from error

    return translated


class EtcdLeaseStore:
    """A LeaseStore on one etcd cluster, which it closes."""

    def __init__(self, client: EtcdClient, prefix: str, now: Callable[[], float] = time.time) -> None:
        """`prefix` is flannel's `-etcd-prefix`."""
        self._client = client
        self._root = f"{prefix.rstrip('/')}/"
        self._config_key = f"{self._root}config"
        self._prefix = f"{self._root}subnets/"
        self._reader = LeaseReader(self._prefix)
        self._now = now
        self._status = StoreStatus()
        self._watch: Watch | None = None

    @property
    def status(self) -> StoreStatus:
        if self._watch is not None:
            self._status.heard_at = self._watch.heard_at
        return self._status

    def fits(self, network: NetworkConfig, subnets: Subnets) -> bool:
        return fits(network, subnets)

    def reconnect(self) -> None:
        self._client.reconnect()

    async def close(self) -> None:
        await self._client.close()

    @_in_store_terms
    async def network(self) -> NetworkConfig:
        found = await self._client.get(self._config_key)
        if found is None:
            raise NetworkNotConfigured(f"etcd has no network config: expected JSON under the key {self._config_key}")
        return parse_network(found.value.decode(errors="replace"))

    @_in_store_terms
    async def acquire(
        self, network: NetworkConfig, attrs: LeaseAttrs, former: Lease | None = None, published: Collection[str] = ()
    ) -> Lease:
        attempt = 0
        # It ends: a claim is lost only when somebody else's has just succeeded.
        while True:
            held = await self._held()
            claim = choose_claim(network, [one.lease for one in held.values()], attrs, former, published, attempt=attempt)
            lease = await self._write(claim, held, attrs)
            if lease is not None:
                return lease
            attempt += claim.ours is None

    @_in_store_terms
    async def hold(self, lease: Lease, attrs: LeaseAttrs, published: Collection[str] = ()) -> Lease:
        while True:
            held = await self._held()
            claim = choose_hold([one.lease for one in held.values()], lease, attrs, published)
            written = await self._write(claim, held, attrs)
            if written is not None:
                return written

    @_in_store_terms
    async def renew(self, lease: Lease) -> Lease:
        while True:
            held = await self._find(lease)
            if not held.key.lease:
                return replace(lease, expires_at=None, created=held.key.create_revision)
            asked_at = self._now()
            ttl_s = await self._client.keep_alive(held.key.lease)
            if ttl_s == 0:
                raise LeaseLost(f"lease {lease} has expired")
            # Keeping an etcd lease alive proves nothing about the key: another host may have written it meanwhile.
            if (await self._find(lease)).key.lease == held.key.lease:
                return replace(lease, expires_at=asked_at + ttl_s, created=held.key.create_revision)

    @_in_store_terms
    async def release(self, lease: Lease) -> None:
        released = False
        while not released:
            try:
                released = await self._drop(await self._find(lease))
            except LeaseLost:
                return

    @_in_store_terms
    async def leases(self) -> Leases:
        held = self._reader.readable((await self._client.get_prefix(self._prefix)).keys)
        attached = {one.key.lease for one in held if one.key.lease}
        asked_at = self._now()
        left_s = await asyncio.gather(*map(self._client.time_to_live, attached))
        expiries = {etcd_lease: asked_at + seconds for etcd_lease, seconds in zip(attached, left_s, strict=True)}
        return {one.lease.subnets: replace(one.lease, expires_at=expiries.get(one.key.lease)) for one in held}

    async def watch(self) -> AsyncGenerator[Snapshot, None]:
        """No request per lease, at the start or for an event; an error of any kind is waited out, as our own lease outlives it."""
        shown: Snapshot | None = None
        status = self._status
        backoff = Backoff(first_s=0.1, cap_s=2)
        while True:
            try:
                listing = await self._client.get_prefix(self._root)
                mirror = Mirror(self._reader, self._config_key, self._prefix, listing.keys)
                async with self._client.watch(self._root, listing.revision + 1) as watch:
                    if not status.reachable:
                        log.info("store is back")
                    status.reachable = True
                    status.watches += 1
                    self._watch = watch
                    relisted = shown is not None
                    while True:
                        present = mirror.snapshot()
                        if present != shown:
                            shown = present
                            yield replace(present, relisted=relisted)
                        relisted = False
                        mirror.apply(await watch.changes())
                        backoff.reset()
            except Compacted:
                status.compactions += 1  # we were too slow; the next list has everything
            except EtcdError as error:
                if status.reachable:
                    log.warning("store is unreachable", why=error)
                status.reachable = False
            await asyncio.sleep(backoff.next())

    async def _held(self) -> dict[Subnets, Held]:
        return self._reader.held((await self._client.get_prefix(self._prefix)).keys)

    async def _find(self, lease: Lease) -> Held:
        """The lease as it is now; raises LeaseLost unless it is still the same host's."""
        held = (await self._held()).get(lease.subnets)
        if held is None:
            raise LeaseLost(f"lease {lease} is gone")
        if not owns(lease.attrs, held.lease):
            raise LeaseLost(f"lease {lease} is held by {holder(held.lease)}")
        return held

    async def _write(self, claim: Claim, held: dict[Subnets, Held], attrs: LeaseAttrs) -> Lease | None:
        """Make the claim; None: somebody has been there since `held` was read."""
        for misfit in claim.misfits:
            await self._drop(held[misfit.subnets])
        claim.require_free()
        if claim.ours is not None:
            return await self._refresh(held[claim.subnets], attrs)
        return await self._create(claim.subnets, attrs)

    async def _create(self, subnets: Subnets, attrs: LeaseAttrs) -> Lease | None:
        """Claim subnets that looked free; None: somebody was faster."""
        asked_at = self._now()
        etcd_lease = await self._client.grant(LEASE_TTL_S)
        key = self._prefix + encode_key(subnets)
        listing = await self._client.create(key, encode_attrs(attrs), lease=etcd_lease, prefix=self._prefix)
        written = next((one for one in listing.keys if one.lease == etcd_lease), None) if listing is not None else None
        if listing is not None and written is not None:
            created = written.create_revision
            if not self._overlaps_earlier(subnets, attrs, listing, created):
                return Lease(subnets, attrs, asked_at + LEASE_TTL_S, created=created)
        # With its key, if that was written.
        await self._client.revoke(etcd_lease)
        return None

    def _overlaps_earlier(self, subnets: Subnets, attrs: LeaseAttrs, listing: Listing, created: int) -> bool:
        """True if another host already held part of `subnets`, under another key: that of one family only, or of another length."""
        earlier = (one.lease for one in self._reader.held(listing.keys).values() if one.lease.created < created)
        return any(overlap(subnets, other.subnets) for other in earlier if not owns(attrs, other))

    async def _refresh(self, held: Held, attrs: LeaseAttrs) -> Lease | None:
        """Write our present attributes over our own lease; None: it has changed meanwhile. A reservation stays one.

        Who wrote garbage over it has taken it off its etcd lease too, but did not mean to reserve it.
        """
        asked_at = self._now()
        reserved = not held.key.lease and held.lease.attrs.public_ips
        etcd_lease, ttl_s = (0, None) if reserved else await self._extend(held.key.lease)
        if not await self._client.replace(held.key, encode_attrs(attrs), lease=etcd_lease):
            return None
        expires_at = None if ttl_s is None else asked_at + ttl_s
        return Lease(held.lease.subnets, attrs, expires_at, created=held.key.create_revision)

    async def _extend(self, etcd_lease: int) -> tuple[int, int]:
        """The etcd lease with its time to live restored, or a new one in place of one that is gone or too short."""
        ttl_s = await self._client.keep_alive(etcd_lease) if etcd_lease else 0
        if ttl_s >= LEASE_TTL_S:
            return etcd_lease, ttl_s
        # The old one is left to lapse: revoking it could take somebody else's keys with it.
        return await self._client.grant(LEASE_TTL_S), LEASE_TTL_S

    async def _drop(self, held: Held) -> bool:
        """Delete a lease of ours as it was read, unless it is a reservation; False: it has changed meanwhile."""
        return not held.key.lease or await self._client.delete(held.key)
