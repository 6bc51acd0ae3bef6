"""Who may connect, and for what: a request is put down for a token, which is taken once and soon; must not know what it asks."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from runtime.errors import Unavailable

R = TypeVar("R")
LIFE_S = 60.0
"""A kubelet comes at once."""
MOST = 1000
"""Tokens at a time, as in Kubernetes' own server."""


@dataclass(frozen=True, slots=True)
class _Waiting(Generic[R]):
    request: R
    until: float


class Tokens(Generic[R]):
    """Requests that wait for their clients."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._waiting: dict[str, _Waiting[R]] = {}

    def put(self, request: R) -> str:
        """The token for a request; raises Unavailable when too many wait."""
        now = self._now()
        self._waiting = {token: each for token, each in self._waiting.items() if each.until > now}
        if len(self._waiting) >= MOST:
            raise Unavailable("maximum number of in-flight streaming requests exceeded")
        token = secrets.token_urlsafe(24)
        self._waiting[token] = _Waiting(request, now + LIFE_S)
        return token

    def take(self, token: str) -> R | None:
        """The request, once; None: there is none, or not any more."""
        found = self._waiting.pop(token, None)
        return found.request if found is not None and found.until > self._now() else None
