"""Signals as users write them: SIGTERM, term, 15, RTMIN+3; must not know who is signalled."""

from __future__ import annotations

import re
import signal

from runtime.errors import InvalidParameter

RTMIN, RTMAX = 34, 64
"""As libcs number them: the first two real-time signals are theirs."""
_MEMBERS = signal.Signals.__members__  # with what else a signal is called: SIGCLD, SIGPOLL, SIGIOT
_NUMBERS = {name.removeprefix("SIG"): int(number) for name, number in _MEMBERS.items()} | {"RTMIN": RTMIN, "RTMAX": RTMAX}
_NAMES = {int(number): number.name for number in signal.Signals} | {RTMIN: "SIGRTMIN", RTMAX: "SIGRTMAX"}
_REAL_TIME = re.compile(r"RT(MIN\+|MAX-)([0-9]{1,2})")


def parse_signal(text: str) -> int:
    """The number of a signal; raises InvalidParameter."""
    name = text.upper().removeprefix("SIG")
    number = _NUMBERS.get(name, 0)
    if name.isascii() and name.isdigit():
        number = int(name[:4])
    elif match := _REAL_TIME.fullmatch(name):
        number = RTMIN + int(match[2]) if match[1] == "MIN+" else RTMAX - int(match[2])
        number = number if number >= RTMIN else 0
    if not 0 < number <= RTMAX:
        raise InvalidParameter(f"invalid signal: {text}")
    return number


def signal_name(number: int) -> str:
    """Its name, or where it has none its number."""
    if RTMIN < number < RTMAX:
        return f"SIGRTMIN+{number - RTMIN}"
    return _NAMES.get(number, str(number))
