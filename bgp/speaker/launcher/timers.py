"""exabgp's timers by a clock that nobody sets, and a hold time that is no longer than it says; must not know sessions."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

from bgp.speaker.launcher import stock

CLOCK = SimpleNamespace(time=time.monotonic)
"""In the place of the `time` module, for modules that need no more of it."""


def mend() -> None:
    """Put them in place; it may be repeated.

    The stock timers go by the time of day: a clock that is set forward by the hold time ends every session, and one that is set
    back stops keepalives, so that the neighbours end them. See whether `timer` and `delay` still call `time.time`.
    """
    stock.timer.time = stock.delay.time = CLOCK
    stock.timer.ReceiveTimer.check_ka_timer = check_ka_timer


def check_ka_timer(self: Any, message: Any = stock.NOP, ignore: int = stock.NOP.TYPE) -> bool:
    """Take a message, or `ignore`, which is none; raises Notify when the neighbour was silent for the hold time (RFC 4271 §6.5).

    The stock one counts whole seconds, and waits for one more than the hold time has. Returns false for a KEEPALIVE where there is
    no hold time, and none should come. See whether `check_ka_timer` still rounds.
    """
    if self.holdtime == 0:
        return bool(message.TYPE != stock.KeepAlive.TYPE)
    now = CLOCK.time()
    if ignore != message.TYPE:
        self.last_read = now
    if now - self.last_read >= self.holdtime:
        raise stock.Notify(self.code, self.subcode, self.message)
    return True
