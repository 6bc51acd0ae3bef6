"""One JSON object of the `Backend` config, read key by key: letter case does not matter; must not know any key.

Whatever is wrong raises ConfigError, which names the key's whole path (`Backend.Peers[0].Port`), the value and what was expected.
"""

from __future__ import annotations

import json
import reprlib
from collections.abc import Callable, Mapping, Sequence
from ipaddress import ip_address, ip_network
from typing import NoReturn, TypeVar

from flanneld.config import ConfigError
from flanneld.lease import IPAddress, IPNetwork

T = TypeVar("T")
D = TypeVar("D")
LONGEST_SHOWN = 60


class Section:
    """The object at `path`. Every key that is asked for is known; `finish` refuses the others."""

    def __init__(self, values: Mapping[str, object], path: str = "Backend") -> None:
        self.path = path
        self._values = {key.lower(): value for key, value in values.items() if value is not None}
        self._spelling = {key.lower(): key for key in values}
        self._asked: set[str] = set()

    def get(self, key: str) -> object:
        """The value as it is; None when there is none."""
        self._asked.add(key.lower())
        return self._values.get(key.lower())

    def at(self, key: str) -> str:
        """The key's whole path."""
        return f"{self.path}.{key}"

    def given(self, *keys: str) -> tuple[str, ...]:
        """Those of the keys that are there."""
        return tuple(key for key in keys if self.get(key) is not None)

    def number(self, key: str, low: int, high: int, default: D) -> int | D:
        """A whole number from `low` to `high`, both included."""
        value = self.get(key)
        if value is None:
            return default
        # bool is a kind of int in Python, but no number in JSON
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            self.wrong(key, f"a whole number from {low} to {high}")
        return value

    def flag(self, key: str, default: D) -> bool | D:
        value = self.get(key)
        if value is None:
            return default
        return value if isinstance(value, bool) else self.wrong(key, "true or false")

    def off(self, key: str) -> bool:
        """True for `false` where there else is a number or an object: not even the default."""
        return self.get(key) is False

    def parsed(self, key: str, parse: Callable[[str], T], expected: str, default: D) -> T | D:
        """The text as `parse` reads it, which raises ValueError."""
        value = self.get(key)
        return default if value is None else _parsed(self.at(key), value, parse, expected)

    def required(self, key: str, parse: Callable[[str], T], expected: str) -> T:
        """The same, of a key that must be there."""
        return _parsed(self.at(key), self.get(key), parse, expected)

    def listed(self, key: str, parse: Callable[[str], T], expected: str) -> tuple[T, ...]:
        """A list of texts as `parse` reads each, which raises ValueError; empty when there is none."""
        return tuple(_parsed(f"{self.at(key)}[{n}]", value, parse, expected) for n, value in enumerate(self._list(key)))

    def choice(self, key: str, words: Sequence[str]) -> str:
        """One of the words, the first when there is none; in lower case."""
        value = self.get(key)
        if value is None:
            return words[0]
        if not isinstance(value, str) or value.lower() not in words:
            self.wrong(key, " or ".join(f'"{word}"' for word in words))
        return value.lower()

    def section(self, key: str) -> Section | None:
        """The object there."""
        value = self.get(key)
        return None if value is None else _section(self.at(key), value)

    def sections(self, key: str) -> tuple[Section, ...]:
        """The list of objects there; empty when there is none."""
        return tuple(_section(f"{self.at(key)}[{n}]", value) for n, value in enumerate(self._list(key)))

    def wrong(self, key: str, expected: str) -> NoReturn:
        """Raise ConfigError about the value that is there."""
        refuse(self.at(key), expected, self.get(key))

    def finish(self) -> None:
        """Refuse the first key that nobody asked for."""
        for key in self._values:
            if key not in self._asked:
                raise ConfigError(self.at(self._spelling[key]), f"unknown key, got {shown(self._values[key])}")

    def _list(self, key: str) -> list[object]:
        value = self.get(key)
        if value is None:
            return []
        return value if isinstance(value, list) else self.wrong(key, "a list")


def refuse(path: str, expected: str, value: object) -> NoReturn:
    """Raise ConfigError about one value."""
    raise ConfigError(path, f"expected {expected}, got {shown(value)}")


def read_address(text: str) -> IPAddress:
    """An address of all hosts' world, without a scope; raises ValueError."""
    if "%" in text:
        raise ValueError(f"expected an address without a scope, got {text}")
    return ip_address(text)


def read_network(text: str) -> IPNetwork:
    """A network without host bits, without a scope; an address is the network of it alone. Raises ValueError."""
    if "%" in text:
        raise ValueError(f"expected a network without a scope, got {text}")
    return ip_network(text)


def shown(value: object) -> str:
    """The value on one line, short enough for a log: as JSON, a container as Python shows it, which stops at any depth."""
    if value is None:
        return "none"
    if isinstance(value, dict | list):
        return reprlib.repr(value)
    text = json.dumps(value)
    return text if len(text) <= LONGEST_SHOWN else f"{text[: LONGEST_SHOWN - 3]}..."


def _parsed(path: str, value: object, parse: Callable[[str], T], expected: str) -> T:
    try:
        if isinstance(value, str):
            return parse(value)
    except ValueError:
        pass
    refuse(path, expected, value)


def _section(path: str, value: object) -> Section:
    return Section(value, path) if isinstance(value, dict) else refuse(path, "an object", value)
