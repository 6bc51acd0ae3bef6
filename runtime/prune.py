"""Which containers are pruned, by the filters of `docker container prune`; must not know how one is removed."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from runtime import clock
from runtime.errors import InvalidParameter

_S = 1_000_000_000
_DURATION = re.compile(r"(?:[0-9]+(?:\.[0-9]+)?(?:h|ms|m|s))+")
_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)(h|ms|m|s)")
_UNITS_NS = {"h": 3600 * _S, "m": 60 * _S, "s": _S, "ms": _S // 1000}
_SECONDS = re.compile(r"[0-9]{1,12}(\.[0-9]{1,9})?")


@dataclass(frozen=True, slots=True)
class Pruned:
    """What went."""

    ids: list[str]
    bytes: int
    """Of the writable layers."""


@dataclass(frozen=True, slots=True)
class PruneFilter:
    """Which of the containers that do not run are pruned."""

    before_ns: int = 0
    """Created before that time only; 0: all."""
    labels: tuple[str, ...] = ()
    """"key" or "key=value", all of which it has."""
    without_labels: tuple[str, ...] = ()
    """None of which it has."""

    def takes(self, created: str, labels: Mapping[str, str]) -> bool:
        """Whether one created then, with these labels, is pruned."""
        if self.before_ns and clock.nanoseconds_of(created) >= self.before_ns:
            return False
        return all(_has(labels, label) for label in self.labels) and not any(_has(labels, label) for label in self.without_labels)


def _has(labels: Mapping[str, str], wanted: str) -> bool:
    key, equals, value = wanted.partition("=")
    return key in labels and (not equals or labels[key] == value)


def parse_prune(filters: Mapping[str, Sequence[str]], now_ns: int | None = None) -> PruneFilter:
    """The filters as values; raises InvalidParameter."""
    unknown = set(filters) - {"until", "label", "label!"}
    if unknown:
        raise InvalidParameter(f"invalid filter '{min(unknown)}'")
    until = filters.get("until", ())
    if len(until) > 1:
        raise InvalidParameter("more than one until filter specified")
    before = parse_until(until[0], time.time_ns() if now_ns is None else now_ns) if until else 0
    return PruneFilter(before, tuple(filters.get("label", ())), tuple(filters.get("label!", ())))


def parse_until(text: str, now_ns: int) -> int:
    """A duration before now (1h30m), seconds since 1970 or a date, as nanoseconds since 1970; raises InvalidParameter."""
    if _DURATION.fullmatch(text):
        return now_ns - sum(round(float(number) * _UNITS_NS[unit]) for number, unit in _PART.findall(text))
    if _SECONDS.fullmatch(text):
        seconds, _, rest = text.partition(".")
        return int(seconds) * _S + int(rest.ljust(9, "0") if rest else 0)
    try:
        return clock.nanoseconds_of(text)
    except ValueError as error:
        raise InvalidParameter(f'failed to parse value as time or duration: "{text}"') from error
