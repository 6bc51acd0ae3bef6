"""Why a container has no process, for its client and its record; must not know how it was tried."""

from __future__ import annotations

import re
from dataclasses import dataclass

from runtime.containers.monitor import StartFailed
from runtime.errors import EngineError, InvalidParameter

NOT_FOUND, NOT_EXECUTABLE, UNKNOWN = 127, 126, 128
"""Exit codes, as shells have them."""
_NO_DIRECTORY = re.compile(r"container init: mkdir (\S+): not a directory")
"""What runc says of a working directory that is a file."""
_WRONG_KIND = ("not a directory", "is a directory")
_HINT = (
    ": Are you trying to mount a directory onto a file (or vice-versa)? "
    "Check if the specified host path exists and is the expected type"
)


@dataclass(frozen=True, slots=True)
class Failure:
    """The error for the client, and the exit code."""

    error: EngineError
    code: int


def failure_of(error: Exception) -> Failure:
    """What an attempt failed with. A program that is not there or cannot be run is the request's fault, all else is not."""
    if isinstance(error, StartFailed):
        words = str(error)
        if bad := _NO_DIRECTORY.search(words):
            return Failure(InvalidParameter(f"Cannot mkdir: {bad[1]} is not a directory"), NOT_EXECUTABLE)
        if any(known in words for known in _WRONG_KIND):
            return Failure(InvalidParameter(words + _HINT), NOT_EXECUTABLE)
        if error.code in (NOT_FOUND, NOT_EXECUTABLE):
            return Failure(InvalidParameter(words), error.code)
        return Failure(EngineError(words), UNKNOWN)
    if isinstance(error, EngineError):
        return Failure(error, UNKNOWN)
    return Failure(EngineError(str(error) or type(error).__name__), UNKNOWN)
