"""Netlink's framing, messages and attributes: bytes <-> values, sans-IO; must not know what they are about.

Source: linux/netlink.h. Integers are in host order; each message and each attribute is padded to a multiple of 4 bytes:

    nlmsghdr  u32 length, u16 type, u16 flags, u32 sequence, u32 port        nlattr  u16 length, u16 type, value
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from flanneld import FlanneldError

NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP_INTR, NLM_F_DUMP = 0x1, 0x4, 0x10, 0x300
NLM_F_REPLACE, NLM_F_EXCL, NLM_F_CREATE = 0x100, 0x200, 0x400
NLA_F_NESTED, NLA_TYPE_MASK = 0x8000, 0x3FFF

_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")


class MalformedMessage(FlanneldError):
    """The bytes are not the netlink message they claim to be."""


@dataclass(frozen=True, slots=True)
class Message:
    """One netlink message."""

    kind: int
    """nlmsg_type."""
    body: bytes
    """The fixed header that the kind has, and its attributes."""
    flags: int = 0
    """NLM_F_*; NLM_F_REQUEST is added when it is sent."""
    sequence: int = 0
    port: int = 0
    """The socket that asked for it, or, in a notification, that caused it; 0: the kernel."""

    def encode(self, sequence: int, flags: int = 0) -> bytes:
        """The request as bytes, with `flags` added to its own."""
        header = _HEADER.pack(_HEADER.size + len(self.body), self.kind, self.flags | flags | NLM_F_REQUEST, sequence, 0)
        return header + self.body + bytes(-len(self.body) % 4)


def split_messages(data: bytes) -> Iterator[Message]:
    """The messages of one receive."""
    offset = 0
    while offset < len(data):
        if offset + _HEADER.size > len(data):
            raise MalformedMessage(f"netlink message of {len(data) - offset} bytes, expected {_HEADER.size} at least")
        length, kind, flags, sequence, port = _HEADER.unpack_from(data, offset)
        if length < _HEADER.size or offset + length > len(data):
            raise MalformedMessage(f"netlink message claims {length} bytes of {len(data) - offset}")
        yield Message(kind, data[offset + _HEADER.size : offset + length], flags, sequence, port)
        offset += length + 3 & ~3


def attribute(kind: int, value: bytes) -> bytes:
    """One attribute, padded."""
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value + bytes(-len(value) % 4)


def u32(kind: int, value: int) -> bytes:
    """An attribute that is a 32-bit number."""
    return attribute(kind, value.to_bytes(4, sys.byteorder))


def text(kind: int, value: str) -> bytes:
    """An attribute that is NUL-terminated text."""
    return attribute(kind, value.encode() + b"\0")


def nested(kind: int, *inner: bytes) -> bytes:
    """An attribute made of attributes."""
    return attribute(kind | NLA_F_NESTED, b"".join(inner))


def attributes(body: bytes, offset: int = 0) -> dict[int, bytes]:
    """The attributes from `offset` on, by type; of one that comes twice, the last."""
    found = {}
    end, unpack, size = len(body), _ATTRIBUTE.unpack_from, _ATTRIBUTE.size  # an interface has fifty
    while offset + size <= end:
        length, kind = unpack(body, offset)
        if length < size or offset + length > end:
            raise MalformedMessage(f"netlink attribute {kind} claims {length} bytes of {end - offset}")
        found[kind & NLA_TYPE_MASK] = body[offset + size : offset + length]
        offset += length + 3 & ~3
    return found


def integer(value: bytes | None) -> int:
    """An attribute's unsigned integer, of any width; 0 when it is absent."""
    return int.from_bytes(value or b"", sys.byteorder)


def string(value: bytes | None) -> str:
    """An attribute's NUL-terminated text; empty when it is absent."""
    return (value or b"").rstrip(b"\0").decode(errors="replace")
