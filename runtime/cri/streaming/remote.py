"""What a client of a command looks like, whatever it speaks: bytes and sizes that come, output and an outcome that go.

Must not know commands, nor how several streams share one connection.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from typing import Any, Protocol

MOST_WAITING = 1 << 20
"""Bytes of one stream that wait to be taken, before the whole connection is held up."""


class Remote(Protocol):
    """One client of one command."""

    @property
    def stdin(self) -> Inlet: ...
    @property
    def sizes(self) -> Inlet:
        """JSON documents {"Width": columns, "Height": rows}, one a read."""
        ...

    async def stdout(self, data: bytes) -> None:
        """Raises ConnectionError."""
        ...

    async def stderr(self, data: bytes) -> None:
        """Raises ConnectionError."""
        ...

    async def finish(self, outcome: dict[str, Any]) -> None:
        """The output is whole: end it and tell how it went, a `Status` of Kubernetes' meta/v1. Raises ConnectionError."""
        ...


class Inlet:
    """Bytes on their way from a connection to who reads them, in the pieces they came in."""

    def __init__(self) -> None:
        self._pieces: deque[bytes] = deque()
        self._waiting = 0
        self._ended = False
        self._changed = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()

    async def feed(self, data: bytes) -> None:
        """Take a piece; waits while too much is waiting. What comes after the end is dropped."""
        if self._ended or not data:
            return
        self._pieces.append(data)
        self._waiting += len(data)
        self._changed.set()
        if self._waiting > MOST_WAITING:
            self._room.clear()
            await self._room.wait()

    def end(self) -> None:
        """Nothing more comes."""
        self._ended = True
        self._changed.set()
        self._room.set()

    def drop(self) -> None:
        """Nobody reads any more."""
        self._pieces.clear()
        self.end()

    async def read(self) -> bytes:
        """The next piece, b"": the end. For one reader."""
        while not self._pieces:
            if self._ended:
                return b""
            self._changed.clear()
            await self._changed.wait()
        piece = self._pieces.popleft()
        self._waiting -= len(piece)
        if self._waiting <= MOST_WAITING:
            self._room.set()
        return piece


def succeeded() -> dict[str, Any]:
    """The outcome of a command that ended with 0."""
    return {"metadata": {}, "status": "Success"}


def ended_with(code: int) -> dict[str, Any]:
    """The outcome of a command, by its exit code."""
    if code == 0:
        return succeeded()
    return {
        "metadata": {},
        "status": "Failure",
        "message": f"command terminated with non-zero exit code: exit status {code}",
        "reason": "NonZeroExitCode",
        "details": {"causes": [{"reason": "ExitCode", "message": str(code)}]},
    }


def failed(why: str) -> dict[str, Any]:
    """The outcome of a command that could not be run."""
    return {"metadata": {}, "status": "Failure", "message": why, "reason": "InternalError", "code": 500}


def outcome_text(outcome: dict[str, Any], *, is_json: bool) -> bytes:
    """As it is sent: JSON since version 4 of the protocol, before that the message of a failure."""
    return json.dumps(outcome).encode() if is_json else str(outcome.get("message", "")).encode()
