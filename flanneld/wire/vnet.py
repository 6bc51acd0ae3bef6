"""The header before every packet of a TUN or TAP with IFF_VNET_HDR: struct virtio_net_hdr of linux/virtio_net.h, host byte order.

offset  width  field
0       1      flags: NEEDS_CSUM
1       1      kind of super-packet (GSO type), 0 for a plain packet; ECN may be added
2       2      length of all headers, a hint
4       2      payload bytes of each segment but the last
6       2      where the checksum starts: at the TCP or UDP header
8       2      where it is stored, from there

A super-packet is up to 64 KB of one flow under one header: what TCP segmentation offload takes and receive offload makes.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from flanneld.wire import WireError, pack, require

SIZE = 10
NEEDS_CSUM = 1
"""The checksum field holds the pseudo header's sum; the rest is to be added from `csum_start` on."""
PLAIN, TCPV4, TCPV6, UDP_L4 = 0, 1, 4, 5
ECN = 0x80
"""The first segment alone carries CWR."""

LAYOUT = struct.Struct("=BBHHHH")
NO_OFFLOAD = bytes(SIZE)
"""Before a packet that is as it should be."""


class VnetHeader(NamedTuple):
    """The header's fields; lengths and offsets in bytes."""

    flags: int = 0
    gso_type: int = PLAIN
    header_size: int = 0
    segment_size: int = 0
    csum_start: int = 0
    csum_offset: int = 0

    def encode(self) -> bytes:
        return pack(LAYOUT, *self)


def decode_vnet(data: bytes | memoryview) -> VnetHeader:
    """Read one header; what it says of the packet is for the packet's reader to check."""
    require(data, SIZE, "vnet header")
    header = VnetHeader._make(LAYOUT.unpack_from(data))
    if header.gso_type & ~ECN not in (PLAIN, TCPV4, TCPV6, UDP_L4):
        raise WireError(f"gso type {header.gso_type}, expected {PLAIN}, {TCPV4}, {TCPV6} or {UDP_L4}")
    return header
