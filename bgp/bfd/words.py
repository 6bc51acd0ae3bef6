"""What the BFD process and the daemon say to each other, a JSON object a line; must not know why.

The daemon says what is to be, all of it, as often as it likes:

    {"follow": {"192.0.2.2": {"local": "192.0.2.1", "interval_ms": 300, "multiplier": 3, "device": ""}}}
    {"end": true}

The process names itself and tells how every session stands, then each change, and once a second that it is well:

    {"bfd": "1f0c..", "life": "9a7e.."}
    {"sessions": {"192.0.2.2": {"state": "up", "downs": 1, "why": "path down", "trouble": ""}}, "gone": [], "dropped": {}}
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from ipaddress import ip_address
from types import MappingProxyType
from typing import Any, TypeAlias

from bgp.bfd.packet import Drop, State
from bgp.bfd.service import BfdSettings
from flanneld.lease import IPAddress

LONGEST = 16 << 20
"""Bytes of a line: some hundred thousand sessions."""


class WordsError(ValueError):
    """The line is none of these."""


@dataclass(frozen=True, slots=True)
class Follow:
    """Watch exactly these neighbours."""

    wanted: Mapping[IPAddress, BfdSettings]


@dataclass(frozen=True, slots=True)
class End:
    """End all sessions, on purpose, and yourself."""


@dataclass(frozen=True, slots=True)
class Hello:
    """Who it is."""

    settings: str
    """Tells its settings, and its program, from others."""
    life: str
    """Tells this process from every other: what is counted begins anew with it."""


@dataclass(frozen=True, slots=True)
class Standing:
    """How one session stands."""

    state: State | None
    """None: it does not run, for it could not be opened yet."""
    downs: int = 0
    """So often it was up and then was not any more. Of two reports, a down in between shows though both say up."""
    why: str = ""
    """The diagnostic of the last of these."""
    trouble: str = ""
    """What keeps it from running, or from being heard."""


@dataclass(frozen=True, slots=True)
class Report:
    """What is to be known of sessions that were not known so; the first after a Hello has all."""

    sessions: Mapping[IPAddress, Standing] = field(default_factory=lambda: MappingProxyType({}))
    gone: frozenset[IPAddress] = frozenset()
    """They are not wanted any more."""
    dropped: Mapping[Drop, int] = field(default_factory=lambda: MappingProxyType({}))
    """Datagrams that were not taken, all since the process began; only reasons whose count is another now."""


Said: TypeAlias = Follow | End | Hello | Report


def encode(said: Said) -> bytes:
    """One line."""
    return json.dumps(_fields(said)).encode() + b"\n"


def _fields(said: Said) -> dict[str, object]:
    match said:
        case Follow(wanted):
            return {"follow": {str(peer): asdict(settings) | {"local": str(settings.local)} for peer, settings in wanted.items()}}
        case End():
            return {"end": True}
        case Hello(settings, life):
            return {"bfd": settings, "life": life}
        case Report(sessions, gone, dropped):
            return {
                "sessions": {str(peer): asdict(one) | {"state": _name(one.state)} for peer, one in sessions.items()},
                "gone": sorted(map(str, gone)),
                "dropped": {reason.value: count for reason, count in dropped.items()},
            }


def _name(state: State | None) -> str | None:
    return None if state is None else state.name.lower()


def decode(line: bytes) -> Said:
    """Read a line; raises WordsError."""
    try:
        return _said(json.loads(line))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise WordsError(f"expected words of the bfd process's, got {line[:80]!r}: {error}") from error


def _said(fields: Any) -> Said:
    match fields:
        case {"follow": wanted}:
            return Follow({ip_address(peer): _settings(**one) for peer, one in wanted.items()})
        case {"end": True}:
            return End()
        case {"bfd": str(settings), "life": str(life)}:
            return Hello(settings, life)
        case {"sessions": sessions, "gone": gone, "dropped": dropped}:
            return Report(
                {ip_address(peer): _standing(**one) for peer, one in sessions.items()},
                frozenset(map(ip_address, gone)),
                {Drop(reason): int(count) for reason, count in dropped.items()},
            )
    raise ValueError("it is none of those that there are")


def _settings(local: str, interval_ms: int, multiplier: int, device: str) -> BfdSettings:
    return BfdSettings(ip_address(local), interval_ms, multiplier, device)


def _standing(state: str | None, downs: int, why: str, trouble: str) -> Standing:
    return Standing(None if state is None else State[state.upper()], downs, why, trouble)
