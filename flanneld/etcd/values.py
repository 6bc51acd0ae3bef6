"""What etcd holds and what happens to it, as values; must not know who asks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from flanneld.etcd import rpc
from flanneld.etcd.endpoint import EtcdError


class Compacted(EtcdError):
    """The history that a watch was to start from is gone; list again."""


@dataclass(frozen=True, slots=True)
class KeyValue:
    """One key as it was read."""

    key: str
    value: bytes
    lease: int
    """The etcd lease that the key is attached to; 0: none, the key stays."""
    mod_revision: int
    create_revision: int


@dataclass(frozen=True, slots=True)
class Listing:
    """All keys of a prefix at one revision of the store."""

    revision: int
    keys: tuple[KeyValue, ...]


@dataclass(frozen=True, slots=True)
class Change:
    """One event of a watch."""

    key: str
    now: KeyValue | None
    """None: deleted."""


def key_value(kv: Any) -> KeyValue:
    """mvccpb.KeyValue."""
    # A key that is not UTF-8 is nobody's lease; it only has to be nameable.
    return KeyValue(kv.key.decode(errors="backslashreplace"), kv.value, kv.lease, kv.mod_revision, kv.create_revision)


def change(event: Any) -> Change:
    """mvccpb.Event."""
    now = key_value(event.kv)
    return Change(now.key, now if event.type == rpc.Event.PUT else None)
