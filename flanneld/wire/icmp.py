"""ICMP messages for IPv4 (RFC 792, RFC 1191 §4), and when a router may send an error (RFC 1122 §3.2.2, RFC 1812 §4.3.2).

offset  width  field
0       1      type
1       1      code
2       2      checksum of the whole message
4       4      by type: identifier and sequence, next-hop MTU, zero
8              by type: for errors, the start of the packet they are about
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Address

from flanneld.wire import WireError, pack, require
from flanneld.wire.checksum import checksum, verifies
from flanneld.wire.ipv4 import HEADER_SIZE as IPV4_HEADER_SIZE
from flanneld.wire.ipv4 import OFFSET_MASK, Ipv4Packet

PROTOCOL = 1
"""In the IPv4 protocol field."""
HEADER_SIZE = 8
ERROR_TYPES = frozenset({3, 4, 5, 11, 12})
"""Unreachable, source quench, redirect, time exceeded, parameter problem (RFC 1122 §3.2.2); the others are queries and answers."""
MAX_ERROR_SIZE = 576
"""Bytes of the whole packet that carries an error (RFC 1812 §4.3.2.3)."""

_HEADER = struct.Struct("!BBHI")
_INTERNETWORK_CONTROL = 0xC0
"""Type of service of an error: precedence 6 (RFC 1812 §4.3.2.5)."""


class IcmpError(Enum):
    """The errors that a router in the overlay sends, as type and code."""

    NET_UNREACHABLE = (3, 0)
    FRAGMENTATION_NEEDED = (3, 4)
    TIME_EXCEEDED = (11, 0)


@dataclass(frozen=True, slots=True)
class IcmpMessage:
    """One message; the checksum is computed."""

    type: int
    code: int
    word: int = 0
    """The second word of the header, whose meaning is the type's."""
    payload: bytes = b""

    def encode(self) -> bytes:
        bare = pack(_HEADER, self.type, self.code, 0, self.word) + self.payload
        return bare[:2] + checksum(bare).to_bytes(2, "big") + bare[4:]


def decode_icmp(data: bytes | memoryview) -> IcmpMessage:
    """Read one message, which fills `data`."""
    require(data, HEADER_SIZE, "icmp message")
    kind, code, stored, word = _HEADER.unpack_from(data)
    if not verifies(data):
        raise WireError(f"icmp checksum {stored:#06x} does not verify")
    return IcmpMessage(kind, code, word, bytes(data[HEADER_SIZE:]))


def may_answer(packet: bytes | memoryview) -> bool:
    """True if an error about this IPv4 packet may be sent at all (RFC 1122 §3.2.2, RFC 1812 §4.3.2.7).

    Never about another ICMP error, a fragment but the first, a multicast or broadcast, or to a source that is not one host.
    `packet` holds at least an IPv4 header.
    """
    header = (packet[0] & 0xF) * 4
    if int.from_bytes(packet[6:8], "big") & OFFSET_MASK:
        return False
    if packet[9] == PROTOCOL and (len(packet) <= header or packet[header] in ERROR_TYPES):
        return False
    source, destination = packet[12], packet[16:20]
    return 0 < source < 224 and source != 127 and destination[0] >> 4 != 0xE and destination != b"\xff\xff\xff\xff"


def error_packet(error: IcmpError, about: bytes | memoryview, source: IPv4Address, next_hop_mtu: int = 0) -> bytes:
    """The IPv4 packet that tells the sender of the packet `about`, quoting as much of it as may be."""
    quote = bytes(about[: MAX_ERROR_SIZE - IPV4_HEADER_SIZE - HEADER_SIZE])
    message = IcmpMessage(*error.value, word=next_hop_mtu, payload=quote)
    destination = IPv4Address(bytes(about[12:16]))
    return Ipv4Packet(source, destination, PROTOCOL, message.encode(), tos=_INTERNETWORK_CONTROL).encode()
