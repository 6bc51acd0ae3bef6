"""What cutting and merging super-packets have in common: views of many packets of one shape, their sums, a header's fields.

A one's complement sum is the same in any byte order (RFC 1071 §2(B)), so all packets' 16-bit words are summed as little-endian
numbers, in one numpy reduction, modulo 65535. Where a header's place is asked for, `ip` and `transport` are offsets in the packet.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import as_strided

from flanneld.wire import udp
from flanneld.wire.checksum import checksum
from flanneld.wire.ipv4 import DONT_FRAGMENT, MORE_FRAGMENTS, OFFSET_MASK
from flanneld.wire.vnet import TCPV4, TCPV6, UDP_L4

Bytes = npt.NDArray[np.uint8]
Sums = npt.NDArray[np.uint32]
Truths = npt.NDArray[np.bool_]

LITTLE16, BIG16, BIG32 = np.dtype("<u2"), np.dtype(">u2"), np.dtype(">u4")
MODULUS = np.uint32(0xFFFF)
TCP, TCP_HEADER = 6, 20
UDP, UDP_HEADER = udp.PROTOCOL, udp.HEADER_SIZE
FIN, PSH, ACK, ECE, CWR = 0x01, 0x08, 0x10, 0x40, 0x80
CHECKSUM_AT = {TCP: 16, UDP: 6}
"""Where in its header."""
MAY_NOT_FRAGMENT = DONT_FRAGMENT >> 8
"""In the first byte of IPv4's flags."""
MOST_SHAPES = 512
"""Views that are kept, by shape: a flow has one for each number of packets. Beyond that they are made anew."""


def column(data: Bytes, at: int, kind: np.dtype[Any], rows: int, size: int) -> npt.NDArray[Any]:
    """One field of each of `rows` packets of `size` bytes that lie one after the other."""
    return as_strided(data[at : at + kind.itemsize].view(kind), (rows,), (size,))


def words(data: Bytes, at: int, end: int, rows: int, size: int) -> npt.NDArray[np.uint16]:
    """The 16-bit words from `at` to `end` of each packet, but for a last odd byte."""
    return as_strided(data[at : at + 2].view(LITTLE16), (rows, (end - at) // 2), (size, 2))


def transport_of(packet: memoryview, ip: int) -> tuple[int, int]:
    """Protocol, and where its header starts; 0 for what has none: a fragment, an IP version unknown. Looks at 20 bytes of IP."""
    version = packet[ip] >> 4
    if version == 6:
        return packet[ip + 6], ip + 40
    size, fragment = (packet[ip] & 0xF) * 4, packet[ip + 6] << 8 | packet[ip + 7]
    whole = version == 4 and size >= 20 and not fragment & (MORE_FRAGMENTS | OFFSET_MASK)
    return packet[ip + 9] if whole else 0, ip + size


def gso_type_of(packet: memoryview, ip: int, protocol: int) -> int:
    """What a vnet header calls super-packets of this kind."""
    if protocol == UDP:
        return UDP_L4
    return TCPV4 if packet[ip] >> 4 == 4 else TCPV6


def pseudo_sum(packet: memoryview, size: int, ip: int, transport: int, protocol: int) -> int:
    """The pseudo header's sum (RFC 9293 §3.1, RFC 8200 §8.1) in a packet of `size` bytes, modulo 65535 and little-endian."""
    addresses = packet[ip + 12 : ip + 20] if packet[ip] >> 4 == 4 else packet[ip + 8 : ip + 40]
    return (int.from_bytes(addresses, "little") + (protocol << 8) + swapped(size - transport)) % 0xFFFF


def set_pseudo_sum(packet: memoryview, size: int, ip: int, transport: int, protocol: int) -> None:
    """Store it in the checksum's place, of which the rest is to be added."""
    at = transport + CHECKSUM_AT[protocol]
    packet[at : at + 2] = pseudo_sum(packet, size, ip, transport, protocol).to_bytes(2, "little")


def set_lengths(packet: memoryview, size: int, ip: int, transport: int, protocol: int) -> None:
    """Store in the IP and UDP headers what a packet of `size` bytes, of which these may be only the first, has to say."""
    if packet[ip] >> 4 == 4:
        store16(packet, ip + 2, size - ip)
    else:
        store16(packet, ip + 4, size - ip - 40)
    if protocol == UDP:
        store16(packet, transport + 4, size - transport)


def set_header_checksum(packet: memoryview, ip: int) -> None:
    """Store the IPv4 header's."""
    store16(packet, ip + 10, 0)
    store16(packet, ip + 10, checksum(packet[ip : ip + (packet[ip] & 0xF) * 4]))


def store16(packet: memoryview, at: int, number: int) -> None:
    """Big-endian."""
    packet[at] = number >> 8 & 0xFF
    packet[at + 1] = number & 0xFF


def swapped(word: int) -> int:
    """The 16-bit word in the other byte order."""
    return (word & 0xFF) << 8 | word >> 8
