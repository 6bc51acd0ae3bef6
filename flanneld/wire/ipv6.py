"""IPv6 packets: RFC 8200 §3, extension headers as part of the payload.

offset  width   field
0       4 bit   version, 6     8 bit  traffic class     20 bit  flow label
4       2       payload length in bytes
6       1       next header
7       1       hop limit
8       16      source
24      16      destination
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import IPv6Address

from flanneld.wire import WireError, pack, require

HEADER_SIZE = 40

_HEADER = struct.Struct("!IHBB16s16s")
_MAX_FLOW_LABEL = 0xFFFFF


@dataclass(frozen=True, slots=True)
class Ipv6Packet:
    """One packet; the payload length is computed."""

    source: IPv6Address
    destination: IPv6Address
    next_header: int
    payload: bytes = b""
    hop_limit: int = 64
    traffic_class: int = 0
    flow_label: int = 0

    def encode(self) -> bytes:
        if not 0 <= self.traffic_class <= 0xFF or not 0 <= self.flow_label <= _MAX_FLOW_LABEL:
            raise WireError(f"ipv6 traffic class {self.traffic_class} or flow label {self.flow_label} does not fit 8 and 20 bits")
        start = 6 << 28 | self.traffic_class << 20 | self.flow_label
        addresses = (self.source.packed, self.destination.packed)
        return pack(_HEADER, start, len(self.payload), self.next_header, self.hop_limit, *addresses) + self.payload


def decode_ipv6(data: bytes | memoryview) -> Ipv6Packet:
    """Read one packet; what follows its payload length (link padding) is left out."""
    require(data, HEADER_SIZE, "ipv6 packet")
    start, size, next_header, hop_limit, source, destination = _HEADER.unpack_from(data)
    if start >> 28 != 6:
        raise WireError(f"ip version {start >> 28}, expected 6")
    require(data, HEADER_SIZE + size, f"ipv6 packet with a payload length of {size}")
    return Ipv6Packet(
        source=IPv6Address(source),
        destination=IPv6Address(destination),
        next_header=next_header,
        payload=bytes(data[HEADER_SIZE : HEADER_SIZE + size]),
        hop_limit=hop_limit,
        traffic_class=start >> 20 & 0xFF,
        flow_label=start & _MAX_FLOW_LABEL,
    )
