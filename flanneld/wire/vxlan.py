"""VXLAN packets, the payload of UDP: RFC 7348 §5.

offset  width  field
0       1      flags: 0x08 = the VNI is valid; the others are reserved
1       3      reserved
4       3      VXLAN network identifier
7       1      reserved
8              Ethernet frame
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from flanneld.wire import WireError, pack, require

HEADER_SIZE = 8

_HEADER = struct.Struct("!II")
_VNI_IS_VALID = 0x08000000
_MAX_VNI = 0xFFFFFF


@dataclass(frozen=True, slots=True)
class VxlanPacket:
    """One frame on the segment `vni`."""

    vni: int
    frame: bytes = b""

    def encode(self) -> bytes:
        if not 0 <= self.vni <= _MAX_VNI:
            raise WireError(f"vni {self.vni}, expected 0 to {_MAX_VNI}")
        return pack(_HEADER, _VNI_IS_VALID, self.vni << 8) + self.frame


def decode_vxlan(data: bytes | memoryview) -> VxlanPacket:
    """Read one packet; reserved bits are ignored on receipt, as §5 asks."""
    require(data, HEADER_SIZE, "vxlan packet")
    flags, vni = _HEADER.unpack_from(data)
    if not flags & _VNI_IS_VALID:
        raise WireError(f"vxlan flags {flags >> 24:#04x}, expected the bit 0x08 for a valid vni")
    return VxlanPacket(vni >> 8, bytes(data[HEADER_SIZE:]))
