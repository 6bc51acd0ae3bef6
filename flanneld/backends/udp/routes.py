"""A longest-prefix match table for IPv4 (RFC 1812 §5.2.4.3); must not know what its values mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from ipaddress import IPv4Network
from typing import Generic, TypeVar

V = TypeVar("V")


class PrefixTable(Generic[V]):
    """Prefixes and their values, never changed: a new set of peers is a new table."""

    def __init__(self, entries: Mapping[IPv4Network, V]) -> None:
        by_mask: dict[int, dict[int, V]] = {}
        for prefix, value in entries.items():
            by_mask.setdefault(int(prefix.netmask), {})[int(prefix.network_address)] = value
        self._levels = sorted(by_mask.items(), reverse=True)
        """Mask and the prefixes of that length by their number, longest first: as a rule one level, subnets being of one size."""

    @property
    def levels(self) -> Sequence[tuple[int, Mapping[int, V]]]:
        """Netmask and the prefixes of that length, longest first."""
        return self._levels

    def lookup(self, address: int) -> V | None:
        """The value of the longest prefix that holds the address, or None."""
        for mask, prefixes in self._levels:
            value = prefixes.get(address & mask)
            if value is not None:
                return value
        return None
