"""What goes wrong in the engine, by what a client does about it; must not know HTTP or gRPC, which map these to their codes.

Messages are Docker's own where a client or its user knows them by heart ("No such container: x").
"""

from __future__ import annotations

from flanneld import FlanneldError


class EngineError(FlanneldError):
    """Anything that the engine refuses or fails at; by itself: it failed, and the request was right."""


class NotFound(EngineError):
    """There is no such thing."""


class InvalidParameter(EngineError):
    """The request makes no sense, whatever the state of things."""


class Conflict(EngineError):
    """The request makes sense, but not in the present state: a name in use, a container that runs."""


class NotModified(EngineError):
    """What was asked for is so already."""


class Forbidden(EngineError):
    """The request is understood and refused."""


class Unauthorized(EngineError):
    """A registry wants other credentials."""


class Unavailable(EngineError):
    """It cannot be done now; later it may."""


class NotSupported(EngineError):
    """Docker can, we cannot (yet); the message says what to do instead."""
