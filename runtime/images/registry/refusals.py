"""What registries say when they will not, and what Docker's users are told then (distribution-spec, "Error codes"; RFC 6750 §3.1);
must not know how they were asked.

What a registry writes is shown to people: its texts are cut, and are without control characters.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from contextlib import suppress
from http import HTTPStatus

from runtime.errors import EngineError, Forbidden, NotFound, Unauthorized, Unavailable
from runtime.images.reference import Reference

MAX_MESSAGE = 500
"""Characters of a registry's text."""
DENIED = "requested access to the resource is denied"
_BY_STATUS = {
    401: ("UNAUTHORIZED", "authentication required"),
    403: ("DENIED", DENIED),
    404: ("NOT_FOUND", "not found"),
    405: ("UNSUPPORTED", "the operation is unsupported"),
    429: ("TOOMANYREQUESTS", "too many requests"),
}
_BY_BEARER = {"invalid_token": ("UNAUTHORIZED", "authentication required"), "insufficient_scope": ("DENIED", DENIED)}
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f]+")


class Refusal(EngineError):
    """A registry's answer that is an error."""

    def __init__(self, status: int, code: str, message: str) -> None:
        self.status = status
        self.code = code
        self.message = printable(message)
        super().__init__(f"{printable(code).replace('_', ' ').lower()}: {self.message}")


class Transient(Unavailable):
    """It may work in a moment: the registry is overloaded, or the connection broke."""

    def __init__(self, message: str, after_s: float = 0.0) -> None:
        super().__init__(message)
        self.after_s = after_s
        """Seconds that the registry asks for."""


class Unreachable(Unavailable):
    """Nobody answers there, or not in the language that was tried."""


class Protocol(EngineError):
    """A registry answers what no registry may."""


def printable(text: str) -> str:
    """A stranger's text, fit for a terminal."""
    return _UNPRINTABLE.sub(" ", text)[:MAX_MESSAGE]


def read_refusal(status: int, body: bytes, bearer_errors: Iterable[str] = ()) -> Refusal:
    """Understand an error: `bearer_errors` are those named by WWW-Authenticate, which say more than the body."""
    for error in bearer_errors:
        if error in _BY_BEARER:
            return Refusal(status, *_BY_BEARER[error])
    code, message = _BY_STATUS.get(status, ("UNKNOWN", f"received unexpected HTTP status: {_status_line(status)}"))
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return Refusal(status, code, message)
    if isinstance(document, dict):
        errors = document.get("errors")
        if isinstance(errors, list) and errors and isinstance(errors[0], dict):
            return Refusal(status, str(errors[0].get("code") or code), str(errors[0].get("message") or message))
        for key in ("details", "message", "error_description"):
            if document.get(key):
                return Refusal(status, code, str(document[key]))
    return Refusal(status, code, message)


def _status_line(status: int) -> str:
    with suppress(ValueError):
        return f"{status} {HTTPStatus(status).phrase}"
    return str(status)


def pull_error(refusal: Refusal, reference: Reference) -> EngineError:
    """Docker's words for a pull that a registry refuses."""
    match refusal.code:
        case "DENIED":
            why = f"pull access denied for {reference.name}, repository does not exist or may require 'docker login'"
            return NotFound(f"{why}: {refusal}")
        case "MANIFEST_UNKNOWN":
            return NotFound(f"manifest for {reference.familiar} not found: {refusal}")
        case "NAME_UNKNOWN" | "NAME_INVALID":
            return NotFound(f"repository {reference.name} not found: {refusal}")
    return _by_status(refusal)


def push_error(refusal: Refusal) -> EngineError:
    """Docker's words for a push that a registry refuses."""
    return Forbidden(str(refusal)) if refusal.code == "DENIED" else _by_status(refusal)


def _by_status(refusal: Refusal) -> EngineError:
    match refusal.status:
        case 401:
            return Unauthorized(str(refusal))
        case 403:
            return Forbidden(str(refusal))
        case 404:
            return NotFound(str(refusal))
        case 429:
            return Unavailable(str(refusal))
    return EngineError(str(refusal))
