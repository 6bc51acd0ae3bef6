"""Who a process in a container is, by the container's own /etc/passwd and /etc/group; must not know the host's users.

The files are an image's, and so anything at all: they are read beneath its root, and only when regular, and not for ever.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from runtime.errors import InvalidParameter
from runtime.linux.inroot import open_in, opened

LARGEST = (1 << 31) - 1
"""Of user and group ids."""
FILE_BYTES = 4 << 20
"""Of passwd and group; what is behind is not looked at."""
MERGE, STRICT = "merge", "strict"
_NUMBER = re.compile(r"-?[0-9]{1,20}")
_NAME = re.compile(r"[^\s:\x00-\x1f\x7f]+")


@dataclass(frozen=True, slots=True)
class User:
    """What a process is: its ids, its further groups (its own first), its home."""

    uid: int = 0
    gid: int = 0
    groups: tuple[int, ...] = (0,)
    home: str = "/"


@dataclass(frozen=True, slots=True)
class _Account:
    name: str
    uid: int
    gid: int
    home: str


@dataclass(frozen=True, slots=True)
class _Group:
    name: str
    gid: int
    members: tuple[str, ...]


def find_user(rootfs: Path, text: str, groups: Iterable[str] = (), rule: str = "") -> User:
    """The user "name|uid[:group|gid]" ("": root) of a container, in these groups besides; `rule`: as in `Record`.

    Raises InvalidParameter for a user or group that is none.
    """
    name, group = parse_user(text)
    accounts, known = _files(rootfs)
    account = _account(name, accounts)
    gid = _group(group, known) if group else account.gid
    is_merged = rule == MERGE or (not group and rule != STRICT)
    further = [entry.gid for entry in known if is_merged and account.name and account.name in entry.members]
    further += [_group(extra, known) for extra in groups]
    return User(account.uid, gid, tuple(dict.fromkeys((gid, *further))), account.home or "/")


def parse_user(text: str) -> tuple[str, str]:
    """Name or number of user and group, "" for what is left open; raises InvalidParameter."""
    parts = text.split(":")
    if len(parts) > 2 or not all(_NAME.fullmatch(part) for part in parts if part):
        raise InvalidParameter(f"invalid user: {text!r}, expected name|uid[:group|gid]")
    for part in parts:
        if _NUMBER.fullmatch(part):
            _in_range(int(part))
    return parts[0], parts[1] if len(parts) > 1 else ""


def _in_range(number: int) -> int:
    if not 0 <= number <= LARGEST:
        raise InvalidParameter(f"uids and gids must be in range 0-{LARGEST}")
    return number


def _account(name: str, accounts: Sequence[_Account]) -> _Account:
    """The first that has the name or, as a number, the id; a number need not be known."""
    number = int(name) if _NUMBER.fullmatch(name) else None
    if not name:
        number = 0
    for account in accounts:
        if account.name == name or account.uid == number:
            return account
    if number is None:
        raise InvalidParameter(f"unable to find user {name}: no matching entries in passwd file")
    return _Account("", number, 0, "")


def _group(name: str, groups: Sequence[_Group]) -> int:
    number = int(name) if _NUMBER.fullmatch(name) else None
    for group in groups:
        if group.name == name or group.gid == number:
            return group.gid
    if number is None:
        raise InvalidParameter(f"unable to find group {name}: no matching entries in group file")
    return _in_range(number)


def _files(rootfs: Path) -> tuple[list[_Account], list[_Group]]:
    with opened(rootfs) as root:
        passwd, group = _read(root, "etc/passwd"), _read(root, "etc/group")
    accounts = [
        _Account(fields[0], int(fields[2]), int(fields[3]), fields[5] if len(fields) > 5 else "")
        for fields in _entries(passwd)
        if len(fields) > 3 and _is_id(fields[2]) and _is_id(fields[3])
    ]
    groups = [
        _Group(fields[0], int(fields[2]), tuple(fields[3].split(",")) if len(fields) > 3 and fields[3] else ())
        for fields in _entries(group)
        if len(fields) > 2 and _is_id(fields[2])
    ]
    return accounts, groups


def _entries(text: str) -> Iterable[list[str]]:
    return (line.strip().split(":") for line in text.splitlines() if line.strip() and not line.startswith("#"))


def _is_id(text: str) -> bool:
    return bool(_NUMBER.fullmatch(text)) and 0 <= int(text) <= LARGEST


def _read(root: int, path: str) -> str:
    """What a regular file says, "" when there is none."""
    try:
        descriptor = open_in(root, path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError:
        return ""
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return ""
        with open(descriptor, "rb", closefd=False) as file:
            return file.read(FILE_BYTES).decode(errors="replace")
    finally:
        os.close(descriptor)
