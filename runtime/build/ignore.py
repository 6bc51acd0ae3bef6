"""What of a build context is left out: .dockerignore's patterns (Go's filepath.Match, `**`, `!`, the last match wins); must not
know where the files are.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable

from runtime.errors import InvalidParameter


class Ignored:
    """Patterns of one .dockerignore."""

    def __init__(self, patterns: Iterable[tuple[re.Pattern[str], bool]]) -> None:
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


def compile_pattern(pattern: str, refusal: str) -> re.Pattern[str]:
    """A pattern of Go's filepath.Match, with `**` for any number of directories; raises InvalidParameter with that refusal."""
    result, place = "", 0
    while place < len(pattern):
        if pattern.startswith("**", place):
            place += 2
            if pattern.startswith("/", place):
                place += 1
                result += "(?:.*/)?"
            else:
                result += ".*"
            continue
        character = pattern[place]
        place += 1
        if character == "*":
            result += "[^/]*"
        elif character == "?":
            result += "[^/]"
        elif character == "[":
            close = pattern.find("]", place + 1)
            if close < 0:
                raise InvalidParameter(refusal)
            inside = pattern[place:close].replace("\\", "\\\\")
            result += f"[{inside}]"
            place = close + 1
        elif character == "\\" and place < len(pattern):
            result += re.escape(pattern[place])
            place += 1
        else:
            result += re.escape(character)
    try:
        return re.compile(result, re.DOTALL)
    except re.error as error:
        raise InvalidParameter(refusal) from error
