"""Variables in a Dockerfile's words: $name, ${name} and its modifiers, quotes and escapes (Dockerfile reference, "Environment
replacement"; POSIX shell section 2.6.2 for the modifiers); must not know which instructions want it.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Mapping

from runtime.errors import InvalidParameter

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*|[0-9@*#?!$-]")


def expand(word: str, variables: Mapping[str, str], escape: str = "\\") -> str:
    """The word with its variables replaced and its quotes taken away; raises InvalidParameter."""
    return _Word(word, variables, escape).expanded()


def expand_words(word: str, variables: Mapping[str, str], escape: str = "\\") -> list[str]:
    """As `expand`, but white space that a variable brought, outside of quotes, separates words."""
    return _Word(word, variables, escape).words()


_BREAK = "\x00"
"""Stands for white space of a variable outside of quotes; no Dockerfile holds one."""


class _Word:
    """A word being read, from left to right."""

    def __init__(self, text: str, variables: Mapping[str, str], escape: str) -> None:
        self._text, self._variables, self._escape = text, variables, escape
        self._at = 0

    def expanded(self) -> str:
        self._split = False
        return self._whole()

    def words(self) -> list[str]:
        self._split = True
        return [word for word in self._whole().split(_BREAK) if word]

    def _whole(self) -> str:
        try:
            return self._read("")
        except RecursionError as error:
            raise InvalidParameter("variables are too deep in one another") from error

    def _read(self, end: str) -> str:
        """Up to one of the characters of `end`, which is not consumed, or to the end of the text."""
        result = ""
        while self._at < len(self._text):
            character = self._text[self._at]
            if character in end:
                break
            self._at += 1
            if character == "'":
                result += self._single()
            elif character == '"':
                result += self._double()
            elif character == "$":
                value = self._variable()
                result += re.sub(r"\s+", _BREAK, value) if self._split else value
            elif character == self._escape and self._at < len(self._text):
                result += self._text[self._at]
                self._at += 1
            elif character != self._escape:
                result += character
        return result

    def _single(self) -> str:
        close = self._text.find("'", self._at)
        if close < 0:
            raise InvalidParameter(f"unexpected end of statement while looking for matching single-quote in {self._text!r}")
        quoted, self._at = self._text[self._at : close], close + 1
        return quoted

    def _double(self) -> str:
        result = ""
        while self._at < len(self._text):
            character = self._text[self._at]
            self._at += 1
            if character == '"':
                return result
            if character == "$":
                result += self._variable()
            elif character == self._escape and self._text[self._at : self._at + 1] in ('"', "$", self._escape):
                result += self._text[self._at]
                self._at += 1
            else:
                result += character
        raise InvalidParameter(f"unexpected end of statement while looking for matching double-quote in {self._text!r}")

    def _variable(self) -> str:
        """What stands after a dollar sign."""
        if self._text[self._at : self._at + 1] == "{":
            self._at += 1
            return self._braced()
        match = _NAME.match(self._text, self._at)
        if not match:
            return "$"
        self._at = match.end()
        return self._variables.get(match[0], "")

    def _braced(self) -> str:
        match = _NAME.match(self._text, self._at)
        if not match:
            raise InvalidParameter(f"bad substitution in {self._text!r}")
        name, self._at = match[0], match.end()
        operator = self._operator()
        if operator == "}":
            return self._variables.get(name, "")
        if operator == "/" or operator == "//":
            pattern = self._read("/}")
            self._skip("/")
            argument = self._read("}")
            self._close()
            return _replaced(self._variables.get(name, ""), pattern, argument, every=operator == "//")
        argument = self._read("}")
        self._close()
        return _modified(name, self._variables.get(name), operator, argument)

    def _operator(self) -> str:
        for operator in ("}", ":-", ":+", ":?", "-", "+", "?", "##", "#", "%%", "%", "//", "/"):
            if self._text.startswith(operator, self._at):
                self._at += len(operator)
                return operator
        raise InvalidParameter(f"unsupported modifier ({self._text[self._at : self._at + 1]}) in substitution {self._text!r}")

    def _skip(self, character: str) -> None:
        if self._text[self._at : self._at + 1] == character:
            self._at += 1

    def _close(self) -> None:
        if self._text[self._at : self._at + 1] != "}":
            raise InvalidParameter(f"syntax error: missing '}}' in {self._text!r}")
        self._at += 1


def _modified(name: str, value: str | None, operator: str, argument: str) -> str:
    missing = value is None or (operator.startswith(":") and not value)
    match operator[-1]:
        case "-":
            return argument if missing else value or ""
        case "+":
            return "" if missing else argument
        case "?":
            if missing:
                raise InvalidParameter(f"{name}: {argument or 'not set'}")
            return value or ""
        case _:
            return _trimmed(value or "", operator, argument)


def _trimmed(value: str, operator: str, pattern: str) -> str:
    """# and ## take the shortest and longest beginning that matches away, % and %% the end."""
    matches = re.compile(fnmatch.translate(pattern)).match
    lengths = range(len(value) + 1) if len(operator) == 1 else range(len(value), -1, -1)
    for length in lengths:
        part = value[:length] if operator[0] == "#" else value[len(value) - length :]
        if matches(part):
            return value[length:] if operator[0] == "#" else value[: len(value) - length]
    return value


def _replaced(value: str, pattern: str, by: str, *, every: bool) -> str:
    found = re.compile(fnmatch.translate(pattern).removesuffix(r"\Z").replace(".*", ".*?") if pattern else r"\Z(?<!.)")
    return found.sub(lambda _: by, value, count=0 if every else 1)
