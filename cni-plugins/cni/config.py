"""A network configuration, read key by key as Go reads JSON: letter case does not matter, null is absence; must not know any key.

Every key that is asked for is known; `finish` refuses the others by name, so that no setting is silently without effect.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn, TypeVar

from cni.spec import IFNAME_BYTES, CniError, Code

T = TypeVar("T")
INT_MAX = 2**31 - 1


class Section:
    """One JSON object of a configuration; what is wrong in it raises CniError (7) that names the key's whole path."""

    def __init__(self, values: Mapping[str, Any], path: str = "") -> None:
        self.values = values
        self._path = path
        self._folded = {key.lower(): value for key, value in values.items() if value is not None}
        self._asked: set[str] = set()
        self._parts: list[Section] = []

    def get(self, key: str) -> Any:
        """The value as it is, None when there is none; of two spellings the exact one counts."""
        folded = key.lower()
        self._asked.add(folded)
        exact = self.values.get(key)
        return self._folded.get(folded) if exact is None else exact

    def text(self, key: str, default: str = "") -> str:
        """What can be a path or a name, so without NUL, nor anything else that has no bytes."""
        value = self._typed(key, str, "text") or default
        if "\0" in value or not (value.isascii() or _has_bytes(value)):
            self.wrong(key, value, "text without NUL and half characters")
        return value

    def interface(self, key: str, default: str) -> str:
        """An interface's name."""
        name = self.text(key, default)
        fits = len(name.encode()) <= IFNAME_BYTES and not any(character in "/:" or character.isspace() for character in name)
        return name if fits else self.wrong(key, name, f"an interface's name, of {IFNAME_BYTES} bytes at most")

    def flag(self, key: str, default: bool = False) -> bool:
        value = self.get(key)
        if value is None:
            return default
        return value if isinstance(value, bool) else self.wrong(key, value, "true or false")

    def number(self, key: str, low: int = 0, high: int = INT_MAX) -> int | None:
        """A whole number in a range; None when it is absent."""
        value = self.get(key)
        if value is None or (isinstance(value, int) and not isinstance(value, bool) and low <= value <= high):
            return value
        return self.wrong(key, value, f"a whole number from {low} to {high}")

    def choice(self, key: str, *words: str) -> str:
        """One of the words, the first when it is absent or empty."""
        value = self.text(key) or words[0]
        return value if value in words else self.wrong(key, value, f"one of {', '.join(words)}")

    def texts(self, key: str) -> tuple[str, ...]:
        found = self._list(key)
        return tuple(found) if all(isinstance(each, str) for each in found) else self.wrong(key, found, "a list of texts")

    def parsed(self, key: str, parse: Callable[[str], T], expected: str) -> T | None:
        """The text as `parse` reads it, which raises ValueError; None when it is absent or empty."""
        text = self.text(key)
        try:
            return parse(text) if text else None
        except ValueError:
            return self.wrong(key, text, expected)

    def section(self, key: str) -> Section:
        """The object there, whose keys are checked with ours; an empty one when it is absent."""
        part = self.part(key)
        self._parts.append(part)
        return part

    def part(self, key: str) -> Section:
        """The object there, whose keys are somebody else's to check; an empty one when it is absent."""
        return Section(self._typed(key, dict, "an object") or {}, f"{self._path}{key}.")

    def sections(self, key: str) -> tuple[Section, ...]:
        """The list of objects there."""
        return self._sections(key, self._list(key), f"{self._path}{key}")

    def section_lists(self, key: str) -> tuple[tuple[Section, ...], ...]:
        """The list of lists of objects there."""
        return tuple(
            self._sections(key, inner if isinstance(inner, list) else self.wrong(key, inner, "a list"), f"{self._path}{key}[{n}]")
            for n, inner in enumerate(self._list(key))
        )

    def ignore(self, *keys: str) -> None:
        """These are known and others' business."""
        self._asked |= {key.lower() for key in keys}

    def given(self, *keys: str) -> tuple[str, ...]:
        """Those of the keys that are present."""
        return tuple(key for key in keys if self.get(key) is not None)

    def finish(self) -> None:
        """Raise CniError (2) if there is a key that nobody asked for, here or in the sections taken from here."""
        if unknown := list(self.unknown()):
            raise CniError(Code.UNSUPPORTED_FIELD, f"unsupported field {', '.join(unknown)}")

    def wrong(self, key: str, value: object, expected: str) -> NoReturn:
        """Raise CniError (7) about the key's value."""
        shown = json.dumps(value, default=str)
        raise CniError(Code.INVALID_CONFIG, f"{self._path}{key}: got {shown}, expected {expected}")

    def unknown(self) -> Iterator[str]:
        """Whole paths of the keys that nobody asked for."""
        for name, value in self.values.items():
            if name.lower() not in self._asked and value is not None:
                yield f"{self._path}{name}"
        for part in self._parts:
            yield from part.unknown()

    def _typed(self, key: str, kind: type[T], expected: str) -> T | None:
        value = self.get(key)
        return value if value is None or isinstance(value, kind) else self.wrong(key, value, expected)

    def _list(self, key: str) -> list[Any]:
        return self._typed(key, list, "a list") or []

    def _sections(self, key: str, values: Sequence[object], path: str) -> tuple[Section, ...]:
        for value in values:
            if not isinstance(value, dict):
                self.wrong(key, value, "objects in the list")
        parts = tuple(Section(value, f"{path}[{n}].") for n, value in enumerate(values) if isinstance(value, dict))
        self._parts += parts
        return parts


def _has_bytes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a UTF-16 pair, which JSON can spell
        return False
    return True


def decode_config(stdin: bytes) -> dict[str, Any]:
    """The JSON object on a plugin's standard input; raises CniError (6)."""
    with _decoding():
        values = json.loads(stdin)
        if not isinstance(values, dict):
            raise ValueError(f"got a {type(values).__name__}, expected an object")
        return values


@contextmanager
def _decoding() -> Iterator[None]:
    try:
        yield
    except (ValueError, RecursionError) as error:  # JSON and UTF-8 errors are ValueErrors
        raise CniError(Code.DECODE, "failed to decode the network configuration", str(error)) from error
