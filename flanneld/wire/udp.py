"""UDP datagrams over IPv4 and IPv6: RFC 768, the IPv6 pseudo header of RFC 8200 §8.1.

offset  width  field
0       2      source port
2       2      destination port
4       2      length in bytes, header included
6       2      checksum over pseudo header, header and payload; 0: none was computed
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import TypeAlias

from flanneld.wire import WireError, pack, require
from flanneld.wire.checksum import checksum, verifies

PROTOCOL = 17
"""In the IPv4 protocol and IPv6 next header fields."""
HEADER_SIZE = 8

Addresses: TypeAlias = tuple[IPv4Address, IPv4Address] | tuple[IPv6Address, IPv6Address]
"""Source and destination of the packet around the datagram: the checksum covers them."""

_HEADER = struct.Struct("!HHHH")


@dataclass(frozen=True, slots=True)
class UdpDatagram:
    """One datagram; length and checksum are computed."""

    source_port: int
    destination_port: int
    payload: bytes = b""

    def encode(self, addresses: Addresses | None = None) -> bytes:
        """The datagram's bytes, without a checksum when no addresses are given."""
        size = HEADER_SIZE + len(self.payload)
        bare = pack(_HEADER, self.source_port, self.destination_port, size, 0) + self.payload
        if addresses is None:
            return bare
        # A sum that comes out as zero travels as its other representation, since zero says that there is none.
        stored = checksum(_pseudo_header(addresses, size) + bare) or 0xFFFF
        return bare[:6] + stored.to_bytes(2, "big") + self.payload


def decode_udp(data: bytes | memoryview, addresses: Addresses | None = None) -> UdpDatagram:
    """Read one datagram; its checksum is verified when addresses are given and it carries one."""
    require(data, HEADER_SIZE, "udp datagram")
    source_port, destination_port, size, stored = _HEADER.unpack_from(data)
    if not HEADER_SIZE <= size <= len(data):
        raise WireError(f"udp length {size} in {len(data)} bytes")
    if addresses and stored and not verifies(_pseudo_header(addresses, size) + bytes(data[:size])):
        raise WireError(f"udp checksum {stored:#06x} does not verify")
    return UdpDatagram(source_port, destination_port, bytes(data[HEADER_SIZE:size]))


def _pseudo_header(addresses: Addresses, size: int) -> bytes:
    # The two families' layouts differ in widths of zeros only, and zeros do not count in the sum.
    return b"".join(address.packed for address in addresses) + struct.pack("!HH", PROTOCOL, size)
