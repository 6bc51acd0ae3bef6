"""What of a build context is left out: .dockerignore's patterns (Go's filepath.Match, `**`, `!`, the last match wins); must not
know where the files are.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Protocol

from runtime.errors import InvalidParameter

_STAR, _ANYTHING, _DIRECTORIES = "[^/]*", ".*", "(?:.*/)?"
_WILD = (_STAR, _ANYTHING, _DIRECTORIES)
_FEW = 2
"""Wildcards that a regular expression may have: the time it takes grows by the length of the path for each, to the power."""


class Pattern(Protocol):
    """What tells paths that match from others: a regular expression, or what takes its place."""

    def fullmatch(self, string: str, /) -> object | None: ...


class Ignored:
    """Patterns of one .dockerignore."""

    def __init__(self, patterns: Iterable[tuple[Pattern, bool]]) -> None:
        self._patterns = tuple(patterns)

    def __contains__(self, path: str) -> bool:
        """Whether a path, relative and without "./", is left out: it or a directory above it matched last."""
        ignored = False
        for pattern, keep in self._patterns:
            if ignored == keep and any(pattern.fullmatch(part) for part in _with_parents(path)):
                ignored = not keep
        return ignored


def parse_ignore(text: str) -> Ignored:
    """Read a .dockerignore; raises InvalidParameter naming a pattern that is none."""
    patterns = []
    for line in text.removeprefix("\ufeff").splitlines():
        if line.startswith("#") or not line.strip():
            continue
        pattern = line.strip()
        keep = pattern.startswith("!")
        cleaned = posixpath.normpath(pattern.removeprefix("!").strip()).lstrip("/")
        if cleaned and cleaned != ".":
            patterns.append((compile_pattern(cleaned, f"illegal pattern {line.strip()!r} in .dockerignore"), keep))
    return Ignored(patterns)


def _with_parents(path: str) -> Iterable[str]:
    parts = path.split("/")
    return ("/".join(parts[:count]) for count in range(1, len(parts) + 1))


def compile_pattern(pattern: str, refusal: str) -> Pattern:
    """A pattern of Go's filepath.Match, with `**` for any number of directories; raises InvalidParameter with that refusal."""
    steps = list(_steps(pattern, refusal))
    try:
        if sum(step in _WILD for step in steps) <= _FEW:
            return re.compile("".join(steps), re.DOTALL)
        return ManyWildcards(steps)
    except re.error as error:
        raise InvalidParameter(refusal) from error


class ManyWildcards:
    """A pattern with any number of wildcards, in time that grows with its length times the path's, and no faster: all places that
    the pattern so far can end at are followed at one time. Contexts are strangers'.
    """

    def __init__(self, steps: Iterable[str]) -> None:
        self._parts: list[tuple[str, re.Pattern[str] | None, int]] = []
        """A wildcard, or an expression and how many characters it matches."""
        for is_wild, run in groupby(steps, _WILD.__contains__):
            if is_wild:
                self._parts += [(step, None, 0) for step in run]
            else:
                plain = list(run)
                self._parts.append(("", re.compile("".join(plain), re.DOTALL), len(plain)))

    def fullmatch(self, path: str, /) -> bool | None:
        """True, or None as an expression says it."""
        places = {0}
        for wildcard, expression, width in self._parts:
            if not places:
                return None
            if expression is not None:
                places = {place + width for place in places if expression.match(path, place)}
            elif wildcard == _STAR:
                places = set(_within_segments(places, path))
            elif wildcard == _ANYTHING:
                places = set(range(min(places), len(path) + 1))
            else:
                first = min(places)
                places |= {place + 1 for place, character in enumerate(path) if character == "/" and place >= first}
        return True if len(path) in places else None


def _within_segments(places: Iterable[int], path: str) -> Iterator[int]:
    """Every place from these to the ends of their segments."""
    reached = -1
    for place in sorted(places):
        if place > reached:
            end = path.find("/", place)
            reached = len(path) if end < 0 else end
            yield from range(place, reached + 1)


def _steps(pattern: str, refusal: str) -> Iterator[str]:
    """The pattern as expressions, each of a wildcard or of one character."""
    place = 0
    while place < len(pattern):
        if pattern.startswith("**", place):
            is_directories = pattern.startswith("**/", place)
            place += 3 if is_directories else 2
            yield _DIRECTORIES if is_directories else _ANYTHING
            continue
        character = pattern[place]
        place += 1
        if character == "*":
            yield _STAR
        elif character == "?":
            yield "[^/]"
        elif character == "[":
            close = pattern.find("]", place + 1)
            if close < 0:
                raise InvalidParameter(refusal)
            inside = pattern[place:close].replace("\\", "\\\\")
            yield f"[{inside}]"
            place = close + 1
        elif character == "\\" and place < len(pattern):
            yield re.escape(pattern[place])
            place += 1
        else:
            yield re.escape(character)
