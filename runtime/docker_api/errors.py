"""Which status an engine's error has over HTTP, and how an error reads; must not know where errors come from."""

from __future__ import annotations

from http import HTTPStatus

from flanneld.log import Log
from runtime.docker_api.exchange import Empty, Json
from runtime.errors import (
    Conflict,
    EngineError,
    Forbidden,
    InvalidParameter,
    NotFound,
    NotModified,
    NotSupported,
    Unauthorized,
    Unavailable,
)

log = Log(__name__)

STATUS: dict[type[EngineError], HTTPStatus] = {
    NotFound: HTTPStatus.NOT_FOUND,
    InvalidParameter: HTTPStatus.BAD_REQUEST,
    Conflict: HTTPStatus.CONFLICT,
    NotModified: HTTPStatus.NOT_MODIFIED,
    Forbidden: HTTPStatus.FORBIDDEN,
    Unauthorized: HTTPStatus.UNAUTHORIZED,
    Unavailable: HTTPStatus.SERVICE_UNAVAILABLE,
    NotSupported: HTTPStatus.NOT_IMPLEMENTED,
}


def status_of(error: Exception) -> HTTPStatus:
    """The status of an error: that of the nearest class in STATUS, else 500."""
    for kind in type(error).__mro__:
        if kind in STATUS:
            return STATUS[kind]
    return HTTPStatus.INTERNAL_SERVER_ERROR


def message_of(error: Exception) -> str:
    """An error in words for a client; one that nobody foresaw is logged with its traceback. To be called where it is handled."""
    if isinstance(error, EngineError):
        return str(error)
    log.exception("request failed", error=repr(error))
    return str(error) or type(error).__name__


def error_response(error: Exception) -> Json | Empty:
    """The answer that tells of an error."""
    status = status_of(error)
    if status is HTTPStatus.NOT_MODIFIED:
        return Empty(status)
    return Json({"message": message_of(error)}, status)


def error_line(error: Exception) -> dict[str, object]:
    """The last line of a stream that had begun well."""
    message = message_of(error)
    return {"errorDetail": {"message": message}, "error": message}
