"""The CNI protocol as values: a call, its errors, its results in every version's shape; sans-IO, must not know any plugin.

Source: CNI spec 1.1.0 (sections 2 "Execution Protocol" and 5 "Result Types"), and SPEC.md of 0.1.0 to 1.0.0 for their shapes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import NoReturn

VERSIONS = ("0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
"""All that we speak, oldest first."""
OLDEST, NEWEST = VERSIONS[0], VERSIONS[-1]
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]*")
"""Of networks and containers (spec section 1 and 2)."""
IFNAME_BYTES = 15
"""IFNAMSIZ of linux/if.h, less the NUL."""


class Code(IntEnum):
    """What a runtime can do about an error (spec section 2 "Error")."""

    VERSION = 1
    UNSUPPORTED_FIELD = 2
    UNKNOWN_CONTAINER = 3
    ENVIRONMENT = 4
    IO = 5
    DECODE = 6
    INVALID_CONFIG = 7
    TRY_LATER = 11
    NOT_AVAILABLE = 50
    LIMITED = 51
    FAILED = 100
    """Ours for what the spec has no number for: the kernel refused, an address pool is empty, a delegate failed."""


class CniError(Exception):
    """An answer to a call: what was wrong, as code, one line, and what more there is to say."""

    def __init__(self, code: int, message: str, details: str = "") -> None:
        super().__init__(f"{message}: {details}" if details else message)
        self.code = code
        self.message = message
        self.details = details


class Command(StrEnum):
    """CNI_COMMAND."""

    ADD = "ADD"
    DEL = "DEL"
    CHECK = "CHECK"
    GC = "GC"
    STATUS = "STATUS"
    VERSION = "VERSION"


NEEDED: Mapping[Command, tuple[str, ...]] = {
    Command.ADD: ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"),
    Command.CHECK: ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"),
    Command.DEL: ("CNI_CONTAINERID", "CNI_IFNAME"),
    Command.GC: (),
    Command.STATUS: (),
    Command.VERSION: (),
}
SINCE: Mapping[Command, str] = {Command.CHECK: "0.4.0", Command.GC: "1.1.0", Command.STATUS: "1.1.0"}
"""The first version of the config with which a command may be called."""


def at_least(version: str, first: str) -> bool:
    """Whether a version that we speak is `first` or newer."""
    return VERSIONS.index(version) >= VERSIONS.index(first)


@dataclass(frozen=True, slots=True)
class Call:
    """What the environment says; of a command that needs no attachment, the attachment's fields are empty."""

    command: Command
    container_id: str = ""
    netns: str = ""
    """A path, which may lead nowhere any more when the command is DEL."""
    ifname: str = ""
    args: Mapping[str, str] | None = None
    """CNI_ARGS, taken apart."""
    path: tuple[str, ...] = ()
    """Where plugins are, first choice first."""
    netns_override: bool = False
    """The pod's namespace may be the host's own."""


def parse_call(environ: Mapping[str, str]) -> Call:
    """Check the environment; raises CniError (4) that names every variable that is missing or wrong."""
    word = environ.get("CNI_COMMAND", "")
    try:
        command = Command(word)
    except ValueError:
        _wrong("CNI_COMMAND", word, f"one of {', '.join(Command)}")
    missing = [name for name in NEEDED[command] if not environ.get(name)]
    if missing:
        raise CniError(Code.ENVIRONMENT, f"required env variables [{','.join(missing)}] missing")
    container_id, ifname = environ.get("CNI_CONTAINERID", ""), environ.get("CNI_IFNAME", "")
    if command in (Command.ADD, Command.CHECK, Command.DEL):
        check_container_id(container_id)
        check_ifname(ifname)
    return Call(
        command,
        container_id,
        environ.get("CNI_NETNS", ""),
        ifname,
        parse_args(environ.get("CNI_ARGS", "")),
        tuple(part for part in environ.get("CNI_PATH", "").split(":") if part),
        environ.get("CNI_NETNS_OVERRIDE", "").lower() in ("1", "true"),
    )


def check_container_id(text: str) -> None:
    """Raise CniError (4) unless it can be a container's id."""
    if not NAME.fullmatch(text):
        _wrong("CNI_CONTAINERID", text, "letters, digits, '_', '.' and '-', the first a letter or digit")


def check_ifname(text: str) -> None:
    """Raise CniError (4) unless it can be an interface's name."""
    if not 1 <= len(text.encode(errors="surrogateescape")) <= IFNAME_BYTES:
        _wrong("CNI_IFNAME", text, f"1 to {IFNAME_BYTES} bytes")
    if any("\ud800" <= character <= "\udfff" for character in text):  # no result, being JSON, could name it
        _wrong("CNI_IFNAME", text, "UTF-8")
    if text in (".", "..") or any(character in "/:" or character.isspace() for character in text):
        _wrong("CNI_IFNAME", text, "a name without '/', ':' and white space, not '.' or '..'")


def parse_args(text: str) -> dict[str, str]:
    """CNI_ARGS: K=V;K=V; raises CniError (4)."""
    found = {}
    for pair in text.split(";") if text else ():
        key, equals, value = pair.partition("=")
        if not equals or not key:
            _wrong("CNI_ARGS", pair, "KEY=VALUE pairs with ';' between")
        found[key] = value
    return found


def _wrong(variable: str, value: str, expected: str) -> NoReturn:
    raise CniError(Code.ENVIRONMENT, f"{variable}: got {value!r}, expected {expected}")


def check_version(version: str, command: Command) -> None:
    """Raise CniError (1) unless we speak it and it has the command."""
    if version not in VERSIONS:
        details = f"config is {version!r}, expected one of {', '.join(VERSIONS)}"
        raise CniError(Code.VERSION, "incompatible CNI versions", details)
    first = SINCE.get(command, OLDEST)
    if not at_least(version, first):
        details = f"config is {version!r}, expected {first} or newer"
        raise CniError(Code.VERSION, f"config version does not allow {command}", details)


def version_answer(asked: str) -> dict[str, object]:
    """The answer to VERSION."""
    return {"cniVersion": asked if asked in VERSIONS else NEWEST, "supportedVersions": list(VERSIONS)}


def error_answer(error: CniError, version: str) -> dict[str, object]:
    """The error as a plugin prints it, on stdout."""
    shown: dict[str, object] = {"cniVersion": version, "code": int(error.code), "msg": error.message}
    return shown | ({"details": error.details} if error.details else {})
