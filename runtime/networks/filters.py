"""Which networks a client asks about; must not know how the question came."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from typing import TypeAlias

from runtime import clock
from runtime.errors import InvalidParameter
from runtime.networks.network import Network

Filters: TypeAlias = Mapping[str, Collection[str]]
"""All keys must fit, of each key one of the values; of `label` all."""

KNOWN = ("dangling", "driver", "id", "label", "label!", "name", "scope", "type", "until")


def matches(network: Network, filters: Filters, in_use: Callable[[Network], bool]) -> bool:
    """Whether the filters let a network through; raises InvalidParameter for one that there is not."""
    for key, values in filters.items():
        if key not in KNOWN:
            raise InvalidParameter(f"invalid filter '{key}'")
        if not _fits(network, key, values, in_use):
            return False
    return True


def _fits(network: Network, key: str, values: Collection[str], in_use: Callable[[Network], bool]) -> bool:
    match key:
        case "name":
            return any(value in network.name or value in network.aliases for value in values)
        case "id":
            return any(network.id.startswith(value) for value in values)
        case "driver":
            return network.driver in values
        case "scope":
            return network.scope in values
        case "type":
            return _kind(network, values)
        case "dangling":
            return _dangling(network, values, in_use)
        case "until":
            return all(clock.nanoseconds_of(network.created) <= _moment(value) for value in values)
        case "label!":
            return not any(_labelled(network, value) for value in values)
        case _:
            return all(_labelled(network, value) for value in values)


def _kind(network: Network, values: Collection[str]) -> bool:
    if wrong := [value for value in values if value not in ("builtin", "custom")]:
        raise InvalidParameter(f"invalid filter: 'type'='{wrong[0]}'")
    return ("builtin" if network.is_predefined else "custom") in values


def _dangling(network: Network, values: Collection[str], in_use: Callable[[Network], bool]) -> bool:
    words = {value.lower() for value in values}
    if len(words) != 1 or not words <= {"1", "0", "true", "false", "t", "f"}:
        raise InvalidParameter(f"invalid value for filter 'dangling': {sorted(values)}")
    unused = not network.is_predefined and network.driver != "cni" and not in_use(network)
    return unused == (words <= {"1", "true", "t"})


def _labelled(network: Network, value: str) -> bool:
    key, equals, wanted = value.partition("=")
    return key in network.labels and (not equals or network.labels[key] == wanted)


def _moment(text: str) -> int:
    """A time, as seconds since 1970, as RFC 3339, or as how long ago: "10m", "1h30m"."""
    try:
        return int(float(text) * 1e9)
    except ValueError:
        pass
    try:
        return clock.nanoseconds_of(text)
    except ValueError:
        return time.time_ns() - _duration(text)


def _duration(text: str) -> int:
    units = {"h": 3600, "m": 60, "s": 1}
    total, digits = 0.0, ""
    for character in text:
        if character in units and digits:
            total, digits = total + float(digits) * units[character], ""
        elif character in "0123456789.":
            digits += character
        else:
            raise InvalidParameter(f"invalid value for filter 'until': {text!r}")
    if digits or not text:
        raise InvalidParameter(f"invalid value for filter 'until': {text!r}")
    return int(total * 1e9)
