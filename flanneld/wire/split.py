"""Super-packets to packets: what a NIC's segmentation offload does, in whole-array arithmetic; must not know sockets or peers.

A super-packet of one flow, as a TUN with a vnet header gives it, becomes equally long segments, but for a last shorter one. Each
has the flow's headers with lengths, TCP sequence number, flags (RFC 3168 §6.1.2: CWR on the first; PSH and FIN on the last) and
checksums of its own; and, where a router might fragment it, IPv4 identification (RFC 6864 §4.1).
"""

from __future__ import annotations

from functools import lru_cache, partial
from typing import NamedTuple

import numpy as np

from flanneld.wire import WireError
from flanneld.wire.checksum import checksum
from flanneld.wire.ipv4 import MAX_SIZE as IPV4_MAX_SIZE
from flanneld.wire.segments import (
    BIG16,
    BIG32,
    CHECKSUM_AT,
    CWR,
    FIN,
    LITTLE16,
    MAY_NOT_FRAGMENT,
    MODULUS,
    MOST_SHAPES,
    PSH,
    TCP,
    TCP_HEADER,
    UDP,
    UDP_HEADER,
    Bytes,
    column,
    pseudo_sum,
    set_header_checksum,
    set_lengths,
    set_pseudo_sum,
    store16,
    words,
)
from flanneld.wire.vnet import ECN, TCPV4, TCPV6, UDP_L4, VnetHeader

MAX_SIZE = IPV4_MAX_SIZE + 64
"""Bytes of a packet with a link header and a tunnel's before it."""
ROOM = 1 << 18
"""For all segments of one super-packet: the kernel sends none with less than 48 bytes of TCP (tcp_min_snd_mss)."""


class Cut(NamedTuple):
    """Segments that lie one after the other in `Splitter.segments`."""

    size: int
    """Bytes of each but the last, which may have fewer."""
    total: int
    """Bytes of all."""
    packets: int


class Shape(NamedTuple):
    """Where things are in a super-packet, in bytes from its start."""

    ip: int
    transport: int
    payload: int
    protocol: int
    mss: int
    full: int
    """How many segments have `mss` bytes of payload."""
    rest: int
    """Bytes of payload of one more."""


def finish_checksum(packet: memoryview, start: int, offset: int) -> None:
    """Store the checksum of what begins at `start`, whose field holds the pseudo header's sum; raises WireError."""
    at = start + offset
    if at + 2 > len(packet):
        raise WireError(f"checksum at {at} of a packet of {len(packet)} bytes")
    packet[at : at + 2] = (checksum(packet[start:]) or 0xFFFF).to_bytes(2, "big")


class Splitter:
    """Cuts super-packets that are read into `packet`, one at a time. What precedes the IP header there is repeated every time."""

    def __init__(self, packet: bytearray, ip: int = 0) -> None:
        """`packet` has MAX_SIZE bytes; `ip`: where in it the IP header starts."""
        self._ip = ip
        self._packet = memoryview(packet)
        self._source: Bytes = np.frombuffer(packet, np.uint8)
        room = bytearray(ROOM)
        self.segments = memoryview(room)
        self._room: Bytes = np.frombuffer(room, np.uint8)
        self._plan = lru_cache(MOST_SHAPES)(partial(_Plan, self._source, self._room))

    def split(self, size: int, vnet: VnetHeader, link: int = 0) -> Cut:
        """Cut the super-packet in the first `size` bytes of `packet`; raises WireError when it is malformed.

        `link`: where in `packet` that starts which the kernel gave, from which it counts in `vnet`. The headers there are altered.
        """
        shape = self._shape(size, vnet, vnet.csum_start + link)
        packet, segment = self._packet, shape.payload + shape.mss
        flags = packet[shape.transport + 13] if shape.protocol == TCP else 0
        first = (_number(packet, shape.transport + 4, 4), _number(packet, shape.ip + 4, 2))
        if shape.full:
            self._plan(shape._replace(rest=0)).cut(packet, *first, flags, last=not shape.rest)
        at = shape.full * segment
        if shape.rest:
            self._cut_rest(shape, at, *first, flags & ~CWR if shape.full else flags)
        total = at + (shape.payload + shape.rest if shape.rest else 0)
        return Cut(min(segment, total), total, shape.full + (shape.rest > 0))

    def _shape(self, size: int, vnet: VnetHeader, transport: int) -> Shape:
        kind, ip, packet = vnet.gso_type & ~ECN, self._ip, self._packet
        protocol = UDP if kind == UDP_L4 else TCP
        version = packet[ip] >> 4
        least = ip + ((packet[ip] & 0xF) * 4 if version == 4 else 40)
        if size < ip + 20 or version not in {TCPV4: (4,), TCPV6: (6,), UDP_L4: (4, 6)}.get(kind, ()) or least < ip + 20:
            raise WireError(f"super-packet of {size} bytes, ip version {version}, gso type {kind}")
        if transport < least or transport + (TCP_HEADER if protocol == TCP else UDP_HEADER) > size:
            raise WireError(f"transport header at {transport} of {size} bytes, ip header up to {least}")
        payload = transport + ((packet[transport + 12] >> 4) * 4 if protocol == TCP else UDP_HEADER)
        mss = vnet.segment_size
        if not mss or not transport + UDP_HEADER <= payload < size or (size - payload) // mss * (payload + mss) > ROOM - MAX_SIZE:
            raise WireError(f"super-packet of {size} bytes, payload from {payload} in segments of {mss}")
        return Shape(ip, transport, payload, protocol, mss, *divmod(size - payload, mss))

    def _cut_rest(self, shape: Shape, at: int, sequence: int, identification: int, flags: int) -> None:
        """The last segment, which is shorter."""
        start, end = shape.payload + shape.full * shape.mss, shape.payload + shape.rest
        segment = self.segments[at : at + end]
        segment[: shape.payload] = self._packet[: shape.payload]
        segment[shape.payload :] = self._packet[start : start + shape.rest]
        set_lengths(segment, end, shape.ip, shape.transport, shape.protocol)
        if shape.protocol == TCP:
            _store(segment, shape.transport + 4, 4, sequence + shape.full * shape.mss)
            segment[shape.transport + 13] = flags
        if segment[shape.ip] >> 4 == 4:
            if not segment[shape.ip + 6] & MAY_NOT_FRAGMENT:
                store16(segment, shape.ip + 4, identification + shape.full)
            set_header_checksum(segment, shape.ip)
        set_pseudo_sum(segment, end, shape.ip, shape.transport, shape.protocol)
        finish_checksum(segment, shape.transport, CHECKSUM_AT[shape.protocol])


class _Plan:
    """The views that cut super-packets of one shape into its full segments."""

    def __init__(self, source: Bytes, room: Bytes, shape: Shape) -> None:
        self._shape, self._room = shape, room
        ip, transport, payload, protocol, mss, rows, _ = shape
        self.size = size = payload + mss
        grid = room[: rows * size].reshape(rows, size)
        self._copies = (
            (grid[:, :payload], source[:payload]),
            (grid[:, payload:], source[payload : payload + rows * mss].reshape(rows, mss)),
        )
        self._numbers = np.arange(rows, dtype=np.uint32)
        self._steps = self._numbers * np.uint32(mss)
        self._sequence = column(room, transport + 4, BIG32, rows, size)
        self._identification = column(room, ip + 4, BIG16, rows, size)
        self._header_checksum = column(room, ip + 10, BIG16, rows, size)
        self._checksum = column(room, transport + CHECKSUM_AT[protocol], LITTLE16, rows, size)
        self._words = words(room, transport, size, rows, size)
        self._odd = grid[:, -1] if (size - transport) % 2 else None
        self._sums = np.empty(rows, np.uint32)

    def cut(self, packet: memoryview, sequence: int, identification: int, flags: int, *, last: bool) -> None:
        """`last`: no shorter segment follows."""
        ip, transport, _, protocol, _, rows, _ = self._shape
        set_lengths(packet, self.size, ip, transport, protocol)
        store16(packet, transport + CHECKSUM_AT[protocol], 0)
        if protocol == TCP:
            packet[transport + 13] = flags & ~(FIN | PSH | CWR)
        if packet[ip] >> 4 == 4:
            set_header_checksum(packet, ip)
        for target, source in self._copies:
            np.copyto(target, source)
        if protocol == TCP:
            np.add(self._steps, np.uint32(sequence), out=self._sequence, casting="unsafe")
            self._room[transport + 13] |= flags & CWR
            if last:
                self._room[(rows - 1) * self.size + transport + 13] |= flags & (FIN | PSH)
        if packet[ip] >> 4 == 4 and not packet[ip + 6] & MAY_NOT_FRAGMENT:
            self._number(identification, _number(packet, ip + 10, 2))
        self._sum(pseudo_sum(packet, self.size, ip, transport, protocol))

    def _number(self, identification: int, stored: int) -> None:
        """One more each, in field and checksum (RFC 1624 §3)."""
        numbers = (self._numbers + np.uint32(identification)) & MODULUS
        self._identification[...] = numbers
        self._header_checksum[...] = (np.uint32(stored + identification + 0xFFFF) - numbers) % MODULUS

    def _sum(self, pseudo: int) -> None:
        sums = np.add.reduce(self._words, 1, np.uint32, out=self._sums)
        if self._odd is not None:
            sums += self._odd
        sums += np.uint32(pseudo)
        sums %= MODULUS
        np.subtract(MODULUS, sums, out=self._checksum, casting="unsafe")  # 1 to 65535: no UDP datagram without one


def _number(packet: memoryview, at: int, size: int) -> int:
    return int.from_bytes(packet[at : at + size], "big")


def _store(packet: memoryview, at: int, size: int, number: int) -> None:
    """Of a number that has grown beyond its field, what is left."""
    packet[at : at + size] = (number & (1 << size * 8) - 1).to_bytes(size, "big")
