"""A table of a document, read key by key, so that errors name the whole path; must not know what it describes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

from lab import LabError

T = TypeVar("T")


class TopologyError(LabError):
    """A setting has a value it cannot have. `key` names it by its path in the file: `host[2].address`."""

    def __init__(self, key: str, why: str) -> None:
        super().__init__(f"{key}: {why}")
        self.key = key


class Table:
    """One table of the document, read key by key, so that errors name the whole path and what nobody reads is unknown."""

    def __init__(self, path: str, items: object) -> None:
        if not isinstance(items, Mapping):
            raise TopologyError(path, f"{items!r} is not a table")
        self._path = path
        self._items: dict[str, object] = dict(items)
        self._known: list[str] = []

    def error(self, key: str, why: str) -> TopologyError:
        return TopologyError(f"{self._path}.{key}" if self._path else key, why)

    def take(self, key: str, kind: type[T], default: T | None = None) -> T:
        self._known.append(key)
        value = self._items.pop(key, default)
        if value is None:
            raise self.error(key, "missing")
        if not isinstance(value, kind) or isinstance(value, bool) is not (kind is bool):
            raise self.error(key, f"{value!r} is not {_KINDS[kind]}")
        return value

    def parse(self, key: str, parse: Callable[[str], T]) -> T:
        """Take a text and read it; the parser's ValueError becomes ours."""
        text = self.take(key, str)
        try:
            return parse(text)
        except ValueError as error:
            raise self.error(key, str(error)) from error

    def has(self, key: str) -> bool:
        self._known.append(key)
        return key in self._items

    def finish(self) -> None:
        for key in self._items:
            raise self.error(key, f"unknown key, expected one of {', '.join(dict.fromkeys(self._known))}")


_KINDS: Mapping[type, str] = {str: "a string", int: "an integer", dict: "a table", list: "an array", bool: "true or false"}
