"""Which status an engine's error has over gRPC; must not know where errors come from."""

from __future__ import annotations

import grpc

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

STATUS: dict[type[Exception], grpc.StatusCode] = {
    NotFound: grpc.StatusCode.NOT_FOUND,
    InvalidParameter: grpc.StatusCode.INVALID_ARGUMENT,
    Conflict: grpc.StatusCode.FAILED_PRECONDITION,
    NotModified: grpc.StatusCode.FAILED_PRECONDITION,
    Forbidden: grpc.StatusCode.PERMISSION_DENIED,
    Unauthorized: grpc.StatusCode.UNAUTHENTICATED,
    Unavailable: grpc.StatusCode.UNAVAILABLE,
    NotSupported: grpc.StatusCode.UNIMPLEMENTED,
    TimeoutError: grpc.StatusCode.DEADLINE_EXCEEDED,
}
"""Of each kind of error; an EngineError by itself, and an OSError, is the engine's own fault."""


class AlreadyThere(EngineError):
    """A sandbox or container of that name and attempt is there."""


STATUS[AlreadyThere] = grpc.StatusCode.ALREADY_EXISTS


def status_of(error: Exception) -> grpc.StatusCode:
    """The status of an error: that of the nearest class in STATUS."""
    for kind in type(error).__mro__:
        if kind in STATUS:
            return STATUS[kind]
    return grpc.StatusCode.INTERNAL if isinstance(error, EngineError | OSError) else grpc.StatusCode.UNKNOWN
