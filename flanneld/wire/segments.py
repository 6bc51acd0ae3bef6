"""What cutting and merging super-packets have in common: views of many packets of one shape, and their sums; knows no sockets.

A one's complement sum is the same in any byte order (RFC 1071 §2(B)), so all packets' 16-bit words are summed as little-endian
numbers, in one numpy reduction, modulo 65535.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import as_strided

Bytes = npt.NDArray[np.uint8]
Sums = npt.NDArray[np.uint32]
Truths = npt.NDArray[np.bool_]

LITTLE16, BIG16, BIG32 = np.dtype("<u2"), np.dtype(">u2"), np.dtype(">u4")
MODULUS = np.uint32(0xFFFF)
TCP, UDP = 6, 17
TCP_HEADER, UDP_HEADER = 20, 8
FIN, PSH, ACK, ECE, CWR = 0x01, 0x08, 0x10, 0x40, 0x80
CHECKSUM_AT = {TCP: 16, UDP: 6}
"""Where in its header."""
MAY_NOT_FRAGMENT = 0x40
"""In the first byte of IPv4's flags."""
FRAGMENT = 0x3FFF
"""In IPv4's 16 bits of flags and offset: not a whole packet (RFC 791 §3.1)."""
MOST_SHAPES = 512
"""Views that are kept, by shape: a flow has one for each number of packets. Beyond that they are made anew."""


def column(data: Bytes, at: int, kind: np.dtype[Any], rows: int, size: int) -> npt.NDArray[Any]:
    """One field of each of `rows` packets of `size` bytes that lie one after the other."""
    return as_strided(data[at : at + kind.itemsize].view(kind), (rows,), (size,))


def words(data: Bytes, at: int, end: int, rows: int, size: int) -> npt.NDArray[np.uint16]:
    """The 16-bit words from `at` to `end` of each packet, but for a last odd byte."""
    return as_strided(data[at : at + 2].view(LITTLE16), (rows, (end - at) // 2), (size, 2))


def pseudo_sum(packet: memoryview, ip: int, protocol: int) -> int:
    """The pseudo header's sum but for the length (RFC 9293 §3.1, RFC 8200 §8.1), little-endian like all sums here."""
    addresses = packet[ip + 12 : ip + 20] if packet[ip] >> 4 == 4 else packet[ip + 8 : ip + 40]
    return int.from_bytes(addresses, "little") % 0xFFFF + (protocol << 8)


def swapped(word: int) -> int:
    """The 16-bit word in the other byte order."""
    return (word & 0xFF) << 8 | word >> 8
