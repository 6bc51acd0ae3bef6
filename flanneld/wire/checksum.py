"""The Internet checksum (RFC 1071) and its incremental update (RFC 1624); knows no header.

A one's complement sum of 16-bit words is the whole buffer, read as one big-endian number, modulo 65535: one big-integer division
instead of a loop.
"""

from __future__ import annotations

_MODULUS = 0xFFFF


def checksum(data: bytes | memoryview) -> int:
    """The checksum to store over `data` whose own checksum field is zero; an odd last byte is padded with zero (RFC 1071 §1)."""
    number = int.from_bytes(data, "big") << (len(data) % 2 * 8)
    # Minus zero only for a sum of nothing but zeros: every other sum that is 0 modulo 65535 is 0xFFFF, whose complement is 0.
    return -number % _MODULUS if number else 0xFFFF


def verifies(data: bytes | memoryview) -> bool:
    """True if `data`, its checksum field included, sums to minus zero."""
    number = int.from_bytes(data, "big") << (len(data) % 2 * 8)
    return number != 0 and number % _MODULUS == 0


def updated_checksum(stored: int, old: int, new: int) -> int:
    """The checksum after one 16-bit word changed from `old` to `new` (RFC 1624 §3, equation 3: HC' = ~(~HC + ~m + m'))."""
    return (stored + old - new) % _MODULUS
