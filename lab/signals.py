"""An orderly end by any signal that asks for one; must not know what is to be taken away."""

from __future__ import annotations

import signal
import sys
from typing import NoReturn

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def leave_by_exception() -> None:
    """From now on the first signal raises SystemExit, so that `finally` and `with` do their work; those after it are ignored."""
    for number in SIGNALS:
        signal.signal(number, _leave)


def _leave(number: int, _frame: object) -> NoReturn:
    for each in SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    sys.exit(128 + number)  # as a shell reports a signal
