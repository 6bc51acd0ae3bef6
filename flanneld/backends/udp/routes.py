"""A longest-prefix match table for IPv4 (RFC 1812 §5.2.4.3); must not know what its values mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from ipaddress import IPv4Network
from typing import Generic, Self, TypeVar

V = TypeVar("V")


def as_numbers(prefix: IPv4Network) -> tuple[int, int]:
    """Netmask and address."""
    return int(prefix.netmask), int(prefix.network_address)


class PrefixTable(Generic[V]):
    """Prefixes and their values, never changed: a new set of peers is a new table."""

    def __init__(self, entries: Mapping[IPv4Network, V]) -> None:
        self._set({as_numbers(prefix): value for prefix, value in entries.items()})

    @classmethod
    def of_numbers(cls, entries: Mapping[tuple[int, int], V]) -> Self:
        """The same of `as_numbers`: with thousands of prefixes it is worth while to work them out once."""
        made = cls({})
        made._set(entries)
        return made

    def _set(self, entries: Mapping[tuple[int, int], V]) -> None:
        by_mask: dict[int, dict[int, V]] = {}
        for (mask, number), value in entries.items():
            by_mask.setdefault(mask, {})[number] = value
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
