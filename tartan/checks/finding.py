"""What a check has to say: how bad it is, what it is, which command shows it, and what to do; must not know any check."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """How bad it is."""

    OK = "ok"
    WARNING = "warning"
    """May hurt, or hurts somebody else."""
    ERROR = "error"
    """Packets are lost now, or will be."""
    UNKNOWN = "unknown"
    """It could not be looked at."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    level: Level
    subject: str
    what: str
    """In words."""
    shown_by: str = ""
    """A command that shows it."""
    remedy: str = ""
    """What to do."""


def ok(subject: str, what: str) -> Finding:
    """All is well with it."""
    return Finding(Level.OK, subject, what)


def warning(subject: str, what: str, shown_by: str, remedy: str) -> Finding:
    """It may hurt."""
    return Finding(Level.WARNING, subject, what, shown_by, remedy)


def error(subject: str, what: str, shown_by: str, remedy: str) -> Finding:
    """It is wrong."""
    return Finding(Level.ERROR, subject, what, shown_by, remedy)


def unknown(subject: str, what: str, remedy: str = "") -> Finding:
    """It could not be looked at."""
    return Finding(Level.UNKNOWN, subject, what, remedy=remedy)


def counted(number: int, noun: str) -> str:
    """So many of them, in words."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def exit_code(findings: Iterable[Finding]) -> int:
    """0: nothing is wrong; 1: something is; 2: nothing was found, but not everything could be looked at."""
    levels = {finding.level for finding in findings}
    return 1 if Level.ERROR in levels else 2 if Level.UNKNOWN in levels else 0
