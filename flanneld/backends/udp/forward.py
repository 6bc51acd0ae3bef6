"""What a router in the overlay does with one packet, as pure functions on its bytes; must not know sockets.

RFC 1812 §5.2.2 (validation), §5.3.1 (time to live), §4.3.2 (errors), RFC 1191 (path MTU). These run once per packet, so they read
single bytes and make no objects; what is rare (errors, fragments) goes through the codecs of `flanneld.wire`.
"""

from __future__ import annotations

from enum import Enum
from typing import TypeAlias

from flanneld.backends.udp.routes import PrefixTable
from flanneld.wire.checksum import updated_checksum, verifies
from flanneld.wire.icmp import IcmpError, may_answer
from flanneld.wire.ipv4 import DONT_FRAGMENT, HEADER_SIZE, decode_ipv4, fragment

Endpoint: TypeAlias = tuple[str, int]
"""A peer's address and port, as sockets take it."""

ENCAPSULATION_SIZE = 20 + 8
"""Bytes that the outer IPv4 and UDP headers take."""


class Drop(Enum):
    """Why a packet went no further."""

    NOT_IPV4 = "not_ipv4"
    NO_PEER = "no_peer"
    EXPIRED = "expired"
    TOO_BIG = "too_big"
    MALFORMED = "malformed"
    SEND_FAILED = "send_failed"
    TUN_REFUSED = "tun_refused"


_ERRORS = {
    Drop.NO_PEER: IcmpError.NET_UNREACHABLE,
    Drop.EXPIRED: IcmpError.TIME_EXCEEDED,
    Drop.TOO_BIG: IcmpError.FRAGMENTATION_NEEDED,
}


def forward(packet: memoryview, peers: PrefixTable[Endpoint]) -> Endpoint | Drop:
    """Choose the peer for a packet of ours and take one hop off its time to live, in place, or say why it cannot go."""
    if len(packet) < HEADER_SIZE or packet[0] >> 4 != 4:
        return Drop.NOT_IPV4
    peer = peers.lookup(int.from_bytes(packet[16:20], "big"))
    if peer is None:
        return Drop.NO_PEER
    ttl = packet[8]
    if ttl <= 1:
        return Drop.EXPIRED
    packet[8] = ttl - 1
    # The 16-bit word at 8 is time to live and protocol.
    checksum = updated_checksum(packet[10] << 8 | packet[11], ttl << 8, (ttl - 1) << 8)
    packet[10] = checksum >> 8
    packet[11] = checksum & 0xFF
    return peer


def is_sound(datagram: memoryview) -> bool:
    """True if a peer's datagram is exactly one IPv4 packet with a valid header and time to live."""
    size = len(datagram)
    if size < HEADER_SIZE or datagram[0] >> 4 != 4 or datagram[8] == 0:
        return False
    header = (datagram[0] & 0xF) * 4
    total = datagram[2] << 8 | datagram[3]
    return HEADER_SIZE <= header <= total == size and verifies(datagram[:header])


def error_for(why: Drop, packet: memoryview) -> IcmpError | None:
    """What the sender of a packet from the TUN is to be told about its end, or None where nothing may be said."""
    error = _ERRORS.get(why)
    return error if error and may_answer(packet) else None


def pieces(packet: memoryview, mtu: int) -> list[bytes]:
    """The packet in as many parts as `mtu` asks for; none when it must not be cut. Raises WireError for a malformed packet."""
    if len(packet) > mtu and (packet[6] << 8 | packet[7]) & DONT_FRAGMENT:
        return []
    return [piece.encode() for piece in fragment(decode_ipv4(packet), mtu)]
