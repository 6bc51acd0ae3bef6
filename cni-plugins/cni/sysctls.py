"""Sysctls of a pod's network namespace, as the tuning plugin's configuration names them; must not know what else it does.

Reading and writing are for a thread in the pod's namespace, which is whose settings /proc/sys/net shows.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

from cni.config import Section
from cni.spec import CniError, Code

SYSCTL = Path("/proc/sys/net")
ALLOW_LIST = Path("/etc/cni/tuning/allowlist.conf")
"""A regular expression a line: what is found in none of the names cannot be set. Without the file all of net can."""


@dataclass(frozen=True, slots=True)
class Sysctl:
    """One setting and what it is to be."""

    name: str
    """As configured, with IFNAME in place of the interface's name."""
    path: str
    """Under /proc/sys/net."""
    value: str


def parse_sysctls(told: Section, ifname: str) -> tuple[Sysctl, ...]:
    """The `sysctl` object; raises CniError (7)."""
    return tuple(_parse(told, name, ifname) for name, value in told.values.items() if value is not None)


def _parse(told: Section, name: str, ifname: str) -> Sysctl:
    value = told.text(name)
    # As sysctl(8): the first separator is the one that separates, the other one is part of a name, as in eth0.7.
    slashes = "/" in name and "." not in name.partition("/")[0]
    parts = name.split("/") if slashes else [part.replace("/", ".") for part in name.split(".")]
    if parts[0] != "net" or len(parts) < 2 or any(part in ("", ".", "..") for part in parts):
        raise CniError(Code.INVALID_CONFIG, f"invalid net sysctl key: {name!r}", "expected a setting of net, as net.core.somaxconn")
    return Sysctl(name, "/".join(ifname if part == "IFNAME" else part for part in parts[1:]), value)


def check_allowed(sysctls: Collection[Sysctl]) -> None:
    """Raise CniError (7) if the administrator's list does not have them all."""
    try:
        lines = [line.strip() for line in ALLOW_LIST.read_text().splitlines()]
        allowed = [re.compile(line) for line in lines if line]
    except FileNotFoundError:
        return
    except re.error as error:
        raise CniError(Code.INVALID_CONFIG, f"{ALLOW_LIST}: {error}, expected a regular expression a line") from error
    for sysctl in sysctls:
        if not any(pattern.search(sysctl.name) for pattern in allowed):
            raise CniError(Code.INVALID_CONFIG, f"sysctl {sysctl.name} is not allowed", f"expected one of those in {ALLOW_LIST}")


def read_sysctl(sysctl: Sysctl) -> str:
    """What it is now; raises CniError, OSError."""
    try:
        return (SYSCTL / sysctl.path).read_text().strip()
    except FileNotFoundError as error:
        raise CniError(Code.INVALID_CONFIG, f"sysctl {sysctl.name}: there is no {SYSCTL / sysctl.path} in the pod") from error


def change_sysctl(sysctl: Sysctl) -> Sysctl:
    """Set it; returns what puts it back. Raises CniError, OSError."""
    former = replace(sysctl, value=read_sysctl(sysctl))
    try:
        (SYSCTL / sysctl.path).write_text(sysctl.value)
    except OSError as error:
        why = f"{error.strerror}, expected a value that the kernel accepts"
        raise CniError(Code.INVALID_CONFIG, f"sysctl {sysctl.name}: {sysctl.value!r} cannot be set", why) from error
    return former
