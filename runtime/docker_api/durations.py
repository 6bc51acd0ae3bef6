"""How long ago, and how a container is, in Docker's words: "Up 3 minutes (healthy)"; must not know a clock."""

from __future__ import annotations

from runtime.clock import NEVER, nanoseconds_of
from runtime.containers.record import Life, State

_S = 1_000_000_000
_MINUTE, _HOUR, _DAY = 60, 3600, 24 * 3600


def duration_text(seconds: float) -> str:
    """A time span for people, in one unit."""
    whole = int(seconds)
    hours = int(seconds / _HOUR + 0.5)
    if whole < 1:
        return "Less than a second"
    if whole < _MINUTE:
        return "1 second" if whole == 1 else f"{whole} seconds"
    if whole < _HOUR:
        return "About a minute" if whole < 2 * _MINUTE else f"{whole // _MINUTE} minutes"
    if hours == 1:
        return "About an hour"
    for limit, unit, name in (
        (48, 1, "hours"),
        (24 * 14, 24, "days"),
        (24 * 60, 24 * 7, "weeks"),
        (24 * 365 * 2, 24 * 30, "months"),
    ):
        if hours < limit:
            return f"{hours // unit} {name}"
    return f"{whole // (365 * _DAY)} years"


def status_text(life: Life, now_ns: int) -> str:
    """The STATUS of `docker ps`."""
    match life.state:
        case State.RUNNING:
            return f"Up {_since(life.started_at, now_ns)}{_health_text(life)}"
        case State.PAUSED:
            return f"Up {_since(life.started_at, now_ns)} (Paused)"
        case State.RESTARTING:
            return f"Restarting ({life.exit_code}) {_since(life.finished_at, now_ns)} ago"
        case State.REMOVING:
            return "Removal In Progress"
        case State.DEAD:
            return "Dead"
        case State.CREATED:
            return "Created"
        case State.EXITED if life.finished_at == NEVER:
            return "Created"
        case State.EXITED:
            return f"Exited ({life.exit_code}) {_since(life.finished_at, now_ns)} ago"


def _since(moment: str, now_ns: int) -> str:
    return duration_text((now_ns - nanoseconds_of(moment)) / _S)


def _health_text(life: Life) -> str:
    if life.health is None or life.health.status == "none":
        return ""
    return f" (health: {life.health.status})" if life.health.status == "starting" else f" ({life.health.status})"
