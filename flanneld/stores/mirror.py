"""Keys of etcd as leases, and a prefix followed change by change; must not know how keys come or are written."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from types import MappingProxyType

from flanneld.etcd import Change, KeyValue
from flanneld.lease import Lease, LeaseAttrs, Subnets
from flanneld.log import Log
from flanneld.store import Snapshot
from flanneld.stores.codec import BadLease, decode_lease

log = Log(__name__)


@dataclass(frozen=True, slots=True)
class Held:
    """A lease and the key it was read from."""

    key: KeyValue
    lease: Lease


class LeaseReader:
    """Turns keys into leases, and names each one with garbage in it once."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._named: set[str] = set()

    def readable(self, keys: Iterable[KeyValue]) -> list[Held]:
        """Those that are leases."""
        read = [(key, self._read(key)) for key in keys]
        return [Held(key, lease) for key, lease in read if isinstance(lease, Lease)]

    def held(self, keys: Iterable[KeyValue]) -> dict[Subnets, Held]:
        """Every subnet that has a key, be its value readable or not: nobody else can create that key."""
        found: dict[Subnets, Held] = {}
        for key in keys:
            lease = self._read(key)
            if isinstance(lease, Lease):
                found[lease.subnets] = Held(key, lease)
            elif lease.subnets:
                found[lease.subnets] = Held(key, Lease(lease.subnets, LeaseAttrs(public_ips=()), created=key.create_revision))
        return found

    def forget(self, key: str) -> None:
        """The key is gone: whatever comes in its place is news."""
        self._named.discard(key)

    def _read(self, key: KeyValue) -> Lease | BadLease:
        try:
            lease = decode_lease(key.key.removeprefix(self._prefix), key.value)
        except BadLease as error:
            if key.key not in self._named:
                log.warning("lease ignored", key=key.key, why=error)
            self._named.add(key.key)
            return error
        self._named.discard(key.key)
        return replace(lease, created=key.create_revision)


class Mirror:
    """All that is under the prefix, followed change by change."""

    def __init__(self, reader: LeaseReader, config_key: str, prefix: str, keys: Iterable[KeyValue]) -> None:
        """`prefix` is that of the leases."""
        self._reader = reader
        self._config_key = config_key
        self._prefix = prefix
        self._config: str | None = None
        self._subnets: dict[str, Subnets] = {}
        """By key."""
        self._leases: dict[Subnets, Lease] = {}
        self.apply(Change(key.key, key) for key in keys)

    def apply(self, changes: Iterable[Change]) -> None:
        """Bring the mirror to what there is after the changes; what is neither config nor lease is nobody's business."""
        for change in changes:
            if change.key == self._config_key:
                self._config = None if change.now is None else change.now.value.decode(errors="replace")
            elif change.key.startswith(self._prefix):
                if (subnets := self._subnets.pop(change.key, None)) is not None:
                    self._leases.pop(subnets, None)
                if change.now is None:
                    self._reader.forget(change.key)
                for held in self._reader.readable((change.now,) if change.now is not None else ()):
                    self._subnets[change.key] = held.lease.subnets
                    self._leases[held.lease.subnets] = held.lease

    def snapshot(self) -> Snapshot:
        """What there is now; it does not change any more."""
        return Snapshot(MappingProxyType(dict(self._leases)), self._config)
