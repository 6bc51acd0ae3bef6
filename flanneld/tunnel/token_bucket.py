"""A token bucket: how ICMP errors are kept to a rate (RFC 1812 §4.3.2.8); must not know a clock, time is passed in."""

from __future__ import annotations


class TokenBucket:
    """`rate` takes per second on average, `burst` at once after a pause."""

    def __init__(self, rate: float, burst: float) -> None:
        self._rate = rate
        self._burst = burst
        self._tokens = burst
        self._filled_at = float("-inf")

    def take(self, now: float) -> bool:
        """Take one if there is one; `now` is in seconds of any clock that does not go back."""
        self._tokens = min(self._burst, self._tokens + (now - self._filled_at) * self._rate)
        self._filled_at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True
