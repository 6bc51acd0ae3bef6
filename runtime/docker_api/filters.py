"""The `filters` parameter of lists, prunes and events, and how each kind of filter matches; must not know what is filtered.

It is a JSON object {key: {value: true}}, or {key: [value]} of older clients.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from runtime.clock import nanoseconds_of
from runtime.config import decode
from runtime.errors import InvalidParameter

_S = 1_000_000_000
_SPAN = re.compile(r"(\d+(?:\.\d+)?)(h|ms|m|s|us|µs|ns)")
_UNITS = {"h": 3600 * _S, "m": 60 * _S, "s": _S, "ms": 1_000_000, "us": 1000, "µs": 1000, "ns": 1}
_TRUE = frozenset({"1", "true", "t", "True", "TRUE", "T"})
_FALSE = frozenset({"0", "false", "f", "False", "FALSE", "F"})


@dataclass(frozen=True, slots=True)
class Filters:
    """Values by key. An absent key lets everything pass; of several values one is enough, but labels must all match."""

    values: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __contains__(self, key: str) -> bool:
        return key in self.values

    def get(self, key: str) -> tuple[str, ...]:
        return self.values.get(key, ())

    def flag(self, key: str, default: bool) -> bool:
        """A filter that is true or false; raises InvalidParameter."""
        values = self.get(key)
        if not values:
            return default
        if set(values) <= _TRUE:
            return True
        if set(values) <= _FALSE:
            return False
        raise InvalidParameter(f"invalid filter '{key}=[{' '.join(values)}]'")

    def is_one(self, key: str, names: Iterable[str]) -> bool:
        """One of the values is one of the names."""
        return key not in self.values or any(name in self.values[key] for name in names)

    def begins(self, key: str, names: Iterable[str]) -> bool:
        """One of the names begins with one of the values."""
        return key not in self.values or any(name.startswith(self.values[key]) for name in names)

    def finds(self, key: str, names: Collection[str]) -> bool:
        """One of the values is found in one of the names, as text or as a regular expression."""
        return key not in self.values or any(_found(value, name) for value in self.values[key] for name in names)

    def labels(self, labels: Mapping[str, str]) -> bool:
        """Every `label` ("key" or "key=value") is there, no `label!` is."""
        wanted = all(_has_label(value, labels) for value in self.get("label"))
        return wanted and not any(_has_label(value, labels) for value in self.get("label!"))

    def moment(self, key: str, now_ns: int) -> int | None:
        """A filter that is a time, or how long ago ("1h30m"), in nanoseconds since 1970; raises InvalidParameter."""
        values = self.get(key)
        if not values:
            return None
        if len(values) > 1:
            raise InvalidParameter(f"more than one {key} filter specified")
        parts = _SPAN.findall(values[0])
        if parts and "".join(number + unit for number, unit in parts) == values[0]:
            return now_ns - sum(int(float(number) * _UNITS[unit]) for number, unit in parts)
        return parse_moment(values[0])


def _found(pattern: str, text: str) -> bool:
    try:
        return pattern == text or re.search(pattern, text) is not None
    except re.error:
        return False


def _has_label(wanted: str, labels: Mapping[str, str]) -> bool:
    key, equals, value = wanted.partition("=")
    return key in labels and (not equals or labels[key] == value)


def parse_filters(text: str, accepted: Collection[str]) -> Filters:
    """Read the parameter; raises InvalidParameter for what is not JSON of that shape, or another key than the accepted."""
    if not text:
        return Filters()
    found: dict[str, tuple[str, ...]] = {}
    document = decode(text, dict[str, dict[str, bool] | list[str]])
    for key, values in document.items():
        if key not in accepted:
            raise InvalidParameter(f"invalid filter '{key}'")
        if values:
            found[key] = tuple(values)
    return Filters(found)


def parse_moment(text: str) -> int:
    """Seconds since 1970 with up to nine decimals, or RFC 3339, as nanoseconds; raises InvalidParameter."""
    seconds, _, decimals = text.partition(".")
    if seconds.removeprefix("-").isdecimal() and (not decimals or decimals.isdecimal()):
        return int(seconds) * _S + int(decimals[:9].ljust(9, "0") or 0)
    try:
        return nanoseconds_of(text)
    except ValueError as error:
        raise InvalidParameter(f'invalid time "{text}": expected seconds since 1970 or RFC 3339') from error


def as_mapping(filters: Filters) -> dict[str, list[str]]:
    """For a part that filters by itself."""
    return {key: list(values) for key, values in filters.values.items()}
