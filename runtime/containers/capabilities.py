"""Which capabilities a container has, from what its creator added and dropped; must not know how a process gets them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from runtime.config import HostConfig
from runtime.errors import InvalidParameter
from runtime.linux.clamp import CAPABILITIES, Held

_DEFAULT = (
    "CHOWN DAC_OVERRIDE FSETID FOWNER MKNOD NET_RAW SETGID SETUID SETFCAP SETPCAP NET_BIND_SERVICE SYS_CHROOT KILL AUDIT_WRITE"
)
DEFAULT = frozenset(f"CAP_{name}" for name in _DEFAULT.split())
"""Docker's fourteen."""
ALL = "ALL"


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a container's processes may have at most, and what it asked for in vain."""

    granted: tuple[str, ...]
    """By number."""
    refused: tuple[str, ...]
    """Asked for by name, or by being privileged, but not held by the engine."""


def capabilities(host: HostConfig, held: Held) -> Capabilities:
    """Capabilities of a container; raises InvalidParameter for a name that is none."""
    added, dropped = _names(host.cap_add, "CapAdd"), _names(host.cap_drop, "CapDrop")
    wanted = _wanted(added, dropped, privileged=host.privileged)
    asked = (frozenset(CAPABILITIES) if host.privileged else added - {ALL}) & wanted
    return Capabilities(
        granted=tuple(name for name in CAPABILITIES if name in wanted & held.capabilities),
        refused=tuple(name for name in CAPABILITIES if name in asked - held.capabilities),
    )


def _wanted(added: frozenset[str], dropped: frozenset[str], *, privileged: bool) -> frozenset[str]:
    """Privileged is everything, whatever else is said; else what is named outweighs ALL, and dropped outweighs added."""
    if privileged:
        return frozenset(CAPABILITIES)
    if ALL in added:
        return frozenset(CAPABILITIES) - dropped
    if ALL in dropped:
        return added
    return DEFAULT - dropped | added - {ALL}


def _names(texts: Iterable[str], where: str) -> frozenset[str]:
    names = {_name(text) for text in texts}
    for name in sorted(names):
        if name != ALL and name not in CAPABILITIES:
            raise InvalidParameter(f'invalid {where}: unknown capability: "{name}"')
    return frozenset(names)


def _name(text: str) -> str:
    upper = text.upper()
    if upper in (ALL, "CAP_ALL"):
        return ALL
    return upper if upper.startswith("CAP_") else f"CAP_{upper}"
