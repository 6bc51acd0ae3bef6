"""Waiting for something to come back: capped exponential back-off with jitter, and the one loop that uses it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from random import random as uniform
from typing import TypeVar

T = TypeVar("T")


class Backoff:
    """The delays between tries: each up to twice the one before, never above the cap."""

    def __init__(self, first_s: float, cap_s: float, random: Callable[[], float] = uniform) -> None:
        """`random` returns 0 <= x < 1."""
        self._first_s = first_s
        self._cap_s = cap_s
        self._random = random
        self._step_s = min(first_s, cap_s)

    def next(self) -> float:
        """Seconds to wait before the next try: between half and all of the present step."""
        step_s = self._step_s
        self._step_s = min(2 * step_s, self._cap_s)
        # Hosts that lost the store at one instant must not come back at one instant.
        return step_s * (1 + self._random()) / 2

    def reset(self) -> None:
        """Something worked: begin again with the first delay."""
        self._step_s = min(self._first_s, self._cap_s)


async def retry(
    call: Callable[[], Awaitable[T]],
    on: type[Exception] | tuple[type[Exception], ...],
    backoff: Backoff,
    *,
    failed: Callable[[Exception], None] = lambda error: None,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> T:
    """Repeat `call` until it does not raise `on`, and return its value; anything else it raises passes through.

    `failed` hears each reason once: not again until another reason has come between.
    """
    said = ""
    while True:
        try:
            return await call()
        except on as error:
            if str(error) != said:
                failed(error)
            said = str(error)
        await sleep(backoff.next())
