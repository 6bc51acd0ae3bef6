"""Bytes <-> values, sans-IO: nothing here opens a socket; standard library only.

Every codec has the same two verbs: `X.encode()` and `decode_x(data)`. Any bytes decode or raise WireError, nothing else.
"""

from __future__ import annotations

import struct


class WireError(ValueError):
    """The bytes are not what their protocol says, or a value does not fit its field."""


def pack(layout: struct.Struct, *fields: int | bytes) -> bytes:
    """`layout.pack`, with a value that does not fit its field as WireError."""
    try:
        return layout.pack(*fields)
    except struct.error as error:
        raise WireError(f"fields {fields} do not fit: {error}") from error


def require(data: bytes | memoryview, size: int, what: str) -> None:
    """Raise WireError unless `data` holds at least `size` bytes."""
    if len(data) < size:
        raise WireError(f"{what} of {len(data)} bytes, expected at least {size}")
