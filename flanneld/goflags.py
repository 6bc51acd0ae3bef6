"""Go's flag syntax (package `flag`) over a table of flags, and readers for their values; must not know any flag of ours.

`-x`, `--x`, `--x=v`, `--x v`; a boolean never takes the next word; `--` or a bare word ends the flags.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TypeVar

from flanneld import FlanneldError
from flanneld.lease import IPAddress

T = TypeVar("T")

BOOLEANS = dict.fromkeys(("1", "t", "T", "true", "TRUE", "True"), True) | dict.fromkeys(
    ("0", "f", "F", "false", "FALSE", "False"), False
)
"""What Go's strconv.ParseBool takes."""
LABEL_KEY = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_./]*[A-Za-z0-9])?")
LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?")
ENDPOINT = re.compile(r"https?://(?:\[(?P<ipv6>[^\s\]]+)\]|[^\s/:@?#\[\]]+):(?P<port>[0-9]{1,5})/?")


class UsageError(FlanneldError):
    """The command line or the environment cannot be followed."""


class UndefinedFlag(UsageError):
    """A flag that is not in the table, or no flag at all: the user needs to see the table."""


class HelpRequested(Exception):
    """`-h`, `-help`, unless the table has them."""


@dataclass(frozen=True, slots=True)
class Flag:
    """One row of the table."""

    read: Callable[[str], object]
    """Text to value; raises ValueError saying what was expected."""
    takes: str
    """Go's word for the value in the usage text: string, int, value; empty for a boolean."""
    usage: str
    """What it does, with unit and range."""
    repeats: bool = False
    """May be given several times, each an element of a tuple; an empty one counts as not given."""


def read_command_line(flags: Mapping[str, Flag], argv: Sequence[str]) -> dict[str, object]:
    """The value of each flag that was given; raises UsageError, HelpRequested."""
    given: dict[str, object] = {}
    for name, text in _words(flags, argv):
        _set(given, name, flags[name], text, f"flag -{name}")
    return given


def read_environment(flags: Mapping[str, Flag], prefix: str, environ: Mapping[str, str]) -> dict[str, object]:
    """The value of each flag whose variable (`PREFIX_SOME_FLAG`) is set and not empty; raises UsageError."""
    given: dict[str, object] = {}
    for name, flag in flags.items():
        variable = f"{prefix}_{name}".upper().replace("-", "_")
        if text := environ.get(variable):
            _set(given, name, flag, text, variable)
    return given


def _words(flags: Mapping[str, Flag], argv: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Each flag's name and text, in order."""
    words = iter(argv)
    for word in words:
        if word == "--" or word == "-" or not word.startswith("-"):
            extra = next(words, None) if word == "--" else word
            if extra is not None:
                raise UndefinedFlag(f"unexpected argument {extra!r}, expected only flags")
            return
        name, equals, value = word.removeprefix("-").removeprefix("-").partition("=")
        if not name or name.startswith("-"):
            raise UndefinedFlag(f"bad flag syntax: {word}")
        flag = flags.get(name)
        if flag is None:
            if name in ("h", "help"):
                raise HelpRequested
            raise UndefinedFlag(f"flag provided but not defined: -{name}")
        text = value if equals else "true" if not flag.takes else next(words, None)
        if text is None:
            raise UsageError(f"flag needs an argument: -{name}")
        yield name, text


def _set(given: dict[str, object], name: str, flag: Flag, text: str, source: str) -> None:
    try:
        text.encode()  # bytes of argv that are no UTF-8 come as surrogates (PEP 383), which no etcd key and no log line can carry
        value = flag.read(text)
    except UnicodeEncodeError:
        raise UsageError(f"invalid value {text!r} for {source}: expected UTF-8") from None
    except ValueError as error:
        raise UsageError(f"invalid value {text!r} for {source}: {error}") from error
    if not flag.repeats:
        given[name] = value
    elif text:
        before = given.get(name, ())
        given[name] = (*before, value) if isinstance(before, tuple) else (value,)


def describe(flags: Mapping[str, Flag], defaults: Mapping[str, object]) -> str:
    """The table as Go's PrintDefaults shows it: by name, with the defaults that are not zero values."""
    return "".join(
        f"  -{name}{' ' if flag.takes else ''}{flag.takes}\n    \t{flag.usage}{_default(defaults.get(name))}\n"
        for name, flag in sorted(flags.items())
    )


def _default(value: object) -> str:
    if not value:
        return ""
    if isinstance(value, bool | int):
        return f" (default {str(value).lower()})"
    return f' (default "{",".join(map(str, value)) if isinstance(value, tuple) else value}")'


def boolean(text: str) -> bool:
    """Read what Go's strconv.ParseBool takes."""
    if text not in BOOLEANS:
        raise ValueError("expected true or false")
    return BOOLEANS[text]


def labels(text: str) -> tuple[tuple[str, str], ...]:
    """Read `key=value,key=value`, as Kubernetes writes a node's labels."""
    found: dict[str, str] = {}
    for each in filter(None, text.split(",")):
        key, equals, value = each.strip().partition("=")
        if not equals or not LABEL_KEY.fullmatch(key) or not LABEL_VALUE.fullmatch(value):
            raise ValueError("expected a comma list of key=value, of letters, digits, -, _ and .")
        if found.setdefault(key, value) != value:
            raise ValueError(f"expected one value for {key}, got {found[key]} and {value}")
    return tuple(found.items())


def whole(low: int, high: int) -> Callable[[str], int]:
    """Read decimal and 0x numbers from `low` to `high`; not octal, which Go takes 010 for and people do not."""

    def read(text: str) -> int:
        # 18 digits: Python refuses to read some thousands of them, Go more than 64 bits
        if not re.fullmatch(r"[+-]?(0|[1-9][0-9]{0,17}|0[xX][0-9a-fA-F]{1,15})", text) or not low <= int(text, 0) <= high:
            raise ValueError(f"expected a number from {low} to {high}")
        return int(text, 0)

    return read


def one_of(*words: str) -> Callable[[str], str]:
    """Read one of a few words."""

    def read(text: str) -> str:
        if text not in words:
            raise ValueError(f"expected {' or '.join(words)}")
        return text

    return read


def ip(text: str) -> IPAddress:
    """Read an address of either family."""
    try:
        return ip_address(text)
    except ValueError:
        raise ValueError("expected an IP address") from None


def ipv4(text: str) -> IPv4Address:
    """Read an IPv4 address."""
    try:
        return IPv4Address(text)
    except ValueError:
        raise ValueError("expected an IPv4 address") from None


def ipv6(text: str) -> IPv6Address:
    """Read an IPv6 address."""
    try:
        return IPv6Address(text)
    except ValueError:
        raise ValueError("expected an IPv6 address") from None


def optional(read: Callable[[str], T]) -> Callable[[str], T | None]:
    """Read an empty text as None: manifests expand variables that are not set."""
    return lambda text: read(text) if text else None


def pattern(text: str) -> re.Pattern[str]:
    """Read a regular expression (Python's, a superset of what people write for Go's)."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of sets that a later Python may read otherwise
            return re.compile(text)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"expected a regular expression: {error}") from error


def endpoints(text: str) -> tuple[str, ...]:
    """Read a comma list of http(s)://host:port."""
    return tuple(_endpoint(word.strip()) for word in text.split(","))


def _endpoint(text: str) -> str:
    match = ENDPOINT.fullmatch(text)
    try:
        if match is None or not 1 <= int(match["port"]) <= 65535:
            raise ValueError
        if match["ipv6"]:
            IPv6Address(match["ipv6"])
    except ValueError:
        raise ValueError(f"expected http://host:port or https://host:port, got {text!r}") from None
    return text.rstrip("/")
