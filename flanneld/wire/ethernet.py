"""Ethernet II frames: IEEE 802.3 §3.1.1 without preamble and frame check sequence; a VLAN tag is payload.

offset  width  field
0       6      destination
6       6      source
12      2      EtherType of the payload
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from flanneld.wire import WireError, pack, require

HEADER_SIZE = 14
IPV4 = 0x0800
IPV6 = 0x86DD

_HEADER = struct.Struct("!6s6sH")


@dataclass(frozen=True, slots=True)
class EthernetFrame:
    """One frame; MAC addresses are lower case with colons."""

    destination: str
    source: str
    ethertype: int
    payload: bytes = b""

    def encode(self) -> bytes:
        return pack(_HEADER, _mac_bytes(self.destination), _mac_bytes(self.source), self.ethertype) + self.payload


def decode_ethernet(data: bytes | memoryview) -> EthernetFrame:
    """Read one frame; padding stays in the payload, whose own length field tells it apart."""
    require(data, HEADER_SIZE, "ethernet frame")
    destination, source, ethertype = _HEADER.unpack_from(data)
    return EthernetFrame(destination.hex(":"), source.hex(":"), ethertype, bytes(data[HEADER_SIZE:]))


def _mac_bytes(mac: str) -> bytes:
    try:
        packed = bytes.fromhex(mac.replace(":", ""))
    except ValueError:
        packed = b""
    if len(packed) != 6 or packed.hex(":") != mac:
        raise WireError(f"mac address {mac!r}, expected six lower-case hexadecimal pairs with colons")
    return packed
