"""Times as Docker writes them: RFC 3339 in UTC with nanoseconds; must not know what happens at them."""

from __future__ import annotations

import time
from datetime import UTC, datetime

NEVER = "0001-01-01T00:00:00Z"
"""Go's zero time: has not happened."""
_S = 1_000_000_000


def now() -> str:
    """The present, as text."""
    return text_of(time.time_ns())


def text_of(nanoseconds: int) -> str:
    """A time since 1970 as text; nine digits always, so that texts sort as times do."""
    seconds, rest = divmod(nanoseconds, _S)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest:09}Z"


def nanoseconds_of(text: str) -> int:
    """A text with any precision or zone as nanoseconds since 1970; NEVER is 0. Raises ValueError."""
    if text == NEVER:
        return 0
    head, dot, tail = text.partition(".")
    if not dot:
        return int(datetime.fromisoformat(text).timestamp()) * _S
    digits = tail[: len(tail) - len(tail.lstrip("0123456789"))]
    zone = tail[len(digits) :]
    return int(datetime.fromisoformat(head + zone).timestamp()) * _S + int(digits[:9].ljust(9, "0"))
