"""IPv4 packets and their fragmentation: RFC 791 §3.1 and §3.2, options as opaque bytes.

offset  width  field
0       4 bit  version, 4          4 bit  header length in 4-byte words, 5 to 15
1       1      type of service (DSCP and ECN, RFC 2474, RFC 3168)
2       2      total length in bytes
4       2      identification
6       3 bit  flags: reserved, don't fragment, more fragments     13 bit  fragment offset in 8-byte blocks
8       1      time to live
9       1      protocol
10      2      header checksum
12      4      source
16      4      destination
20      0-40   options
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from ipaddress import IPv4Address

from flanneld.wire import WireError, pack, require
from flanneld.wire.checksum import checksum, verifies

HEADER_SIZE = 20
MAX_SIZE = 0xFFFF
DONT_FRAGMENT = 0x4000
MORE_FRAGMENTS = 0x2000
OFFSET_MASK = 0x1FFF
BLOCK_SIZE = 8
"""Fragments start on multiples of this."""

_HEADER = struct.Struct("!BBHHHBBH4s4s")
_END_OF_OPTIONS, _NO_OPERATION = 0, 1
_COPIED = 0x80


@dataclass(frozen=True, slots=True)
class Ipv4Packet:
    """One packet or fragment; lengths and checksum are computed."""

    source: IPv4Address
    destination: IPv4Address
    protocol: int
    payload: bytes = b""
    ttl: int = 64
    tos: int = 0
    identification: int = 0
    dont_fragment: bool = False
    more_fragments: bool = False
    offset: int = 0
    """Where the payload starts in the original's, in bytes; a multiple of 8."""
    options: bytes = b""
    """At most 40 bytes, a multiple of 4."""

    @property
    def header_size(self) -> int:
        return HEADER_SIZE + len(self.options)

    def encode(self) -> bytes:
        if len(self.options) % 4 or len(self.options) > 40:
            raise WireError(f"ipv4 options of {len(self.options)} bytes, expected a multiple of 4 up to 40")
        if self.offset % BLOCK_SIZE or not 0 <= self.offset // BLOCK_SIZE <= OFFSET_MASK:
            raise WireError(f"ipv4 fragment offset {self.offset}, expected a multiple of 8 up to {OFFSET_MASK * BLOCK_SIZE}")
        flags = DONT_FRAGMENT * self.dont_fragment | MORE_FRAGMENTS * self.more_fragments
        first = (0x40 | self.header_size // 4, self.tos, self.header_size + len(self.payload), self.identification)
        fragment = flags | self.offset // BLOCK_SIZE
        last = (self.source.packed, self.destination.packed)
        bare = pack(_HEADER, *first, fragment, self.ttl, self.protocol, 0, *last) + self.options
        return bare[:10] + checksum(bare).to_bytes(2, "big") + bare[12:] + self.payload


def decode_ipv4(data: bytes | memoryview) -> Ipv4Packet:
    """Read one packet; what follows its total length (link padding) is left out. The reserved flag is ignored."""
    require(data, HEADER_SIZE, "ipv4 packet")
    start, tos, total, identification, fragment, ttl, protocol, _, source, destination = _HEADER.unpack_from(data)
    header = (start & 0xF) * 4
    if start >> 4 != 4:
        raise WireError(f"ip version {start >> 4}, expected 4")
    if not HEADER_SIZE <= header <= total <= len(data):
        raise WireError(f"ipv4 header of {header} and total length of {total} in {len(data)} bytes")
    if not verifies(data[:header]):
        raise WireError(f"ipv4 header checksum {int.from_bytes(data[10:12], 'big'):#06x} does not verify")
    return Ipv4Packet(
        source=IPv4Address(source),
        destination=IPv4Address(destination),
        protocol=protocol,
        payload=bytes(data[header:total]),
        ttl=ttl,
        tos=tos,
        identification=identification,
        dont_fragment=bool(fragment & DONT_FRAGMENT),
        more_fragments=bool(fragment & MORE_FRAGMENTS),
        offset=(fragment & OFFSET_MASK) * BLOCK_SIZE,
        options=bytes(data[HEADER_SIZE:header]),
    )


def fragment(packet: Ipv4Packet, mtu: int) -> list[Ipv4Packet]:
    """Cut a packet into pieces of at most `mtu` bytes (RFC 791 §3.2); one that fits comes back as it is.

    Raises WireError when the packet must not be fragmented, or when `mtu` has no room for a header and 8 bytes.
    """
    if packet.header_size + len(packet.payload) <= mtu:
        return [packet]
    room = (mtu - packet.header_size) // BLOCK_SIZE * BLOCK_SIZE
    if packet.dont_fragment or room < BLOCK_SIZE:
        raise WireError(f"ipv4 packet of {packet.header_size + len(packet.payload)} bytes cannot be cut for an mtu of {mtu}")
    starts = range(0, len(packet.payload), room)
    copied = copied_options(packet.options)
    return [
        replace(
            packet,
            payload=packet.payload[start : start + room],
            offset=packet.offset + start,
            more_fragments=packet.more_fragments or start != starts[-1],
            options=copied if start else packet.options,
        )
        for start in starts
    ]


def copied_options(options: bytes) -> bytes:
    """The options that every fragment carries, those with the copied flag (RFC 791 §3.1), padded to whole words.

    Options that run past the end of the header are kept out of later fragments, from the malformed one on.
    """
    kept, at = b"", 0
    while at < len(options) and options[at] != _END_OF_OPTIONS:
        if options[at] == _NO_OPERATION:  # only aligns its neighbours
            at += 1
            continue
        size = options[at + 1] if at + 1 < len(options) else 0
        if size < 2 or at + size > len(options):
            break
        kept += options[at : at + size] if options[at] & _COPIED else b""
        at += size
    return kept + bytes(-len(kept) % 4)
