"""Packets to super-packets: what a NIC's receive offload does, in whole-array arithmetic; must not know sockets or peers.

Consecutive packets of one flow that differ in nothing but what a sender's segmentation makes different (lengths, IPv4
identification, TCP sequence, checksums) become one, which the kernel takes with a vnet header. Only what is proven is merged: every
header and checksum is checked, as the kernel's own receive offload does. Whatever else comes stays as it is, in its place.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache, partial
from typing import NamedTuple

import numpy as np

from flanneld.wire.ipv4 import MAX_SIZE
from flanneld.wire.segments import (
    ACK,
    BIG16,
    BIG32,
    CHECKSUM_AT,
    ECE,
    MAY_NOT_FRAGMENT,
    MODULUS,
    MOST_SHAPES,
    PSH,
    TCP,
    TCP_HEADER,
    UDP,
    UDP_HEADER,
    Bytes,
    Sums,
    Truths,
    column,
    gso_type_of,
    set_header_checksum,
    set_lengths,
    set_pseudo_sum,
    swapped,
    transport_of,
    words,
)
from flanneld.wire.vnet import NEEDS_CSUM, VnetHeader

ROOM = 3 << 16
"""For the packets of two readings, as if the last were as long as the others."""
MERGEABLE = ~(PSH | ECE) & 0xFF
"""Of TCP's flags: what is set among these must be ACK alone."""
MERGEABLE_ON = ~ECE & 0xFF
"""So in a packet that another is to be appended to."""


class Run(NamedTuple):
    """Packets that lie one after the other, to be handed on as one."""

    start: int
    """Where the first begins."""
    size: int
    """Bytes of the first; of all when there is but one."""
    packets: int
    buffers: Sequence[memoryview | bytes] = ()
    """Vnet header, headers and payload of the super-packet; nothing for a packet that stays as it is."""


class Layout(NamedTuple):
    """What packets look like that may be merged: all of `size` bytes but for the last."""

    ip: int
    transport: int
    payload: int
    protocol: int
    size: int
    rows: int


class Merger:
    """Finds runs in what is read into `packets`."""

    def __init__(self, packets: bytearray, ip: int = 0, link: int = 0, *, merge_udp: bool = True) -> None:
        """`packets` has ROOM bytes. `ip`: where in each packet the IP header starts; `link`: where that starts which the kernel is
        to have. `merge_udp`: the kernel takes super-packets of UDP.
        """  # fmt: skip
        self._ip, self._link, self._merge_udp = ip, link, merge_udp
        self._packets = memoryview(packets)
        self._data: Bytes = np.frombuffer(packets, np.uint8)
        self._plan = lru_cache(MOST_SHAPES)(partial(_Plan, self._data))

    def runs(self, total: int, size: int) -> Iterator[Run]:
        """What is to become of the packets in the first `total` bytes, each of `size` but for a shorter last one, in order."""
        layout = self._layout(size, -(-total // size)) if total > size else None
        if layout is None:
            for start in range(0, total, size):
                yield Run(start, min(size, total - start), 1)
            return
        last = total - (layout.rows - 1) * size
        self._packets[total : layout.rows * size] = bytes(layout.rows * size - total)
        most = (MAX_SIZE - layout.payload) // (size - layout.payload)
        for begin, after in self._plan(layout).bounds(self._packets, last):
            for first in range(begin, after, most):
                end = min(first + most, after)
                yield self._run(layout, first * size, min(end * size, total), end - first)

    def _run(self, layout: Layout, start: int, end: int, packets: int) -> Run:
        if packets == 1:
            return Run(start, end - start, 1)
        return Run(start, layout.size, packets, self._merged(layout, start, end, packets))

    def _layout(self, size: int, rows: int) -> Layout | None:
        """How the first packet looks, if others may be merged with it."""
        packets, ip = self._packets, self._ip
        protocol, transport = transport_of(packets, ip)
        if protocol == TCP and transport + TCP_HEADER < size:
            payload = transport + (packets[transport + 12] >> 4) * 4
            fits = payload >= transport + TCP_HEADER and packets[transport + 13] & MERGEABLE == ACK
        else:
            payload, fits = transport + UDP_HEADER, protocol == UDP and self._merge_udp
        if not fits or payload >= size or rows * size > ROOM or not lengths_hold(packets[:size], ip, transport, protocol):
            return None
        return Layout(ip, transport, payload, protocol, size, rows)

    def ends_flow(self, total: int, size: int) -> bool:
        """True if nothing can be merged with the last of the packets in the first `total` bytes."""
        packets, last = self._packets, total - size + self._ip
        transport = last + (packets[last] & 0xF) * 4
        return packets[last] >> 4 != 4 or packets[last + 9] != TCP or packets[transport + 13] & MERGEABLE_ON != ACK

    def _merged(self, layout: Layout, start: int, end: int, count: int) -> Sequence[memoryview | bytes]:
        """One packet of all that is there, with only the pseudo header's sum as its checksum."""
        ip, transport, payload, protocol, size, _ = layout
        packets, last = self._packets, start + (count - 1) * size
        header = memoryview(bytearray(packets[start : start + payload]))
        whole = end - start - (count - 1) * payload
        set_lengths(header, whole, ip, transport, protocol)
        if header[ip] >> 4 == 4:
            set_header_checksum(header, ip)
        if protocol == TCP:
            header[transport + 13] |= packets[last + transport + 13] & PSH
        set_pseudo_sum(header, whole, ip, transport, protocol)
        kind, link = gso_type_of(header, ip, protocol), self._link
        vnet = VnetHeader(NEEDS_CSUM, kind, payload - link, size - payload, transport - link, CHECKSUM_AT[protocol])
        contents = [packets[at + payload : at + size] for at in range(start, last, size)]
        return vnet.encode(), header[link:], *contents, packets[last + payload : end]


class _Plan:
    """The views that compare packets of one layout."""

    def __init__(self, data: Bytes, layout: Layout) -> None:
        self._layout = layout
        ip, transport, payload, protocol, size, rows = layout
        grid = data[: rows * size].reshape(rows, size)
        self._headers = grid[:, :payload]
        self._flags = grid[:, transport + 13 if protocol == TCP else 0]
        self._differences = np.empty((rows - 1, payload), np.uint8)
        self._sequence = column(data, transport + 4, BIG32, rows, size)
        self._identification = column(data, ip + 4, BIG16, rows, size)
        # IPv4's header sums to zero, with its own checksum; of IPv6's, the addresses are part of the pseudo header.
        self._words = {version: words(data, start, size, rows, size) for version, start in ((4, ip), (6, ip + 8))}
        self._odd = grid[:, -1] if (size - ip) % 2 else None
        self._addresses = words(data, ip + 12, ip + 20, rows, size)
        self._masks = {version: self._mask(version) for version in (4, 6)}

    def _mask(self, version: int) -> Bytes:
        """Of the bytes in which a packet must be like the one before it."""
        ip, transport, payload, protocol, _, rows = self._layout
        mask = np.full((rows - 1, payload), 0xFF, np.uint8)
        free = [ip + 4, ip + 5, ip + 10, ip + 11] if version == 4 else []
        free += [transport + CHECKSUM_AT[protocol], transport + CHECKSUM_AT[protocol] + 1]
        lengths = [ip + 2, ip + 3] if version == 4 else [ip + 4, ip + 5]
        if protocol == TCP:
            free += range(transport + 4, transport + 8)
            mask[-1, transport + 13] &= ~PSH & 0xFF
        else:
            lengths += [transport + 4, transport + 5]
        mask[:, free] = 0
        mask[-1, lengths] = 0  # the last may be shorter; what it has to say is looked at
        return mask

    def bounds(self, packets: memoryview, last: int) -> Iterator[tuple[int, int]]:
        """First packet and end of each run, in order; the last packet has `last` bytes."""
        ip, transport, payload, protocol, size, rows = self._layout
        version = packets[ip] >> 4
        differences = np.bitwise_xor(self._headers[1:], self._headers[:-1], out=self._differences)
        differences &= self._masks[version]
        goes_on, sums, start = self._goes_on(packets), self._sums(version, last), (rows - 1) * size
        ends_well = last > payload and lengths_hold(packets[start : start + last], ip, transport, protocol)
        if ends_well and not differences.any() and goes_on.all() and not (protocol == TCP and packets[transport + 13] & PSH):
            addresses = int.from_bytes(packets[ip + 12 : ip + 20], "little") % 0xFFFF if version == 4 else 0
            if not ((sums + np.uint32(addresses)) % MODULUS).any():
                yield 0, rows
                return
        goes_on[-1] &= ends_well
        yield from self._parts(version, goes_on, sums)

    def _goes_on(self, packets: memoryview) -> Truths:
        """Whether each packet but the first has the number that comes after that of the one before it."""
        ip, _, payload, protocol, size, rows = self._layout
        goes_on: Truths = (
            np.equal(self._sequence[1:] - self._sequence[:-1], size - payload) if protocol == TCP else np.ones(rows - 1, np.bool_)
        )
        if packets[ip] >> 4 == 4 and not packets[ip + 6] & MAY_NOT_FRAGMENT:  # a receiver may need the numbers (RFC 6864 §4.1)
            goes_on &= (self._identification[1:] - self._identification[:-1]) == 1
        return goes_on

    def _sums(self, version: int, last: int) -> Sums:
        """Of each packet and its pseudo header, but for IPv4's addresses in that; zero modulo 65535 when all its checksums hold."""
        _, transport, _, protocol, size, _ = self._layout
        sums: Sums = np.add.reduce(self._words[version], 1, np.uint32)
        if self._odd is not None:
            sums += self._odd
        sums += np.uint32((protocol << 8) + swapped(size - transport))
        if transport < last < size:
            sums[-1] += swapped(last - transport) + 0xFFFF - swapped(size - transport)
        return sums

    def _parts(self, version: int, goes_on: Truths, sums: Sums) -> Iterator[tuple[int, int]]:
        """The runs, where there is more than one; `self._differences` is as `bounds` left it."""
        transport, protocol, rows = self._layout.transport, self._layout.protocol, self._layout.rows
        if protocol == TCP:
            self._differences[:, transport + 13] &= ~PSH & 0xFF
            goes_on &= (self._flags[:-1] & PSH) == 0
        goes_on &= np.logical_not(self._differences.any(axis=1))
        if version == 4:
            sums += np.add.reduce(self._addresses, 1, np.uint32)
        good = self._alike()
        good &= sums % MODULUS == 0
        goes_on &= good[1:] & good[:-1]
        first = 0
        for row in (np.flatnonzero(np.logical_not(goes_on)) + 1).tolist():
            yield first, row
            first = row
        yield first, rows

    def _alike(self) -> Truths:
        """Whether each packet has its parts where the first has: else what was compared were not the fields that it seemed."""
        ip, transport, _, protocol, _, _ = self._layout
        where = [ip, ip + 2, ip + 3, ip + 6, ip + 7, ip + 9] if self._headers[0, ip] >> 4 == 4 else [ip, ip + 4, ip + 5, ip + 6]
        where += [transport + 12, transport + 13] if protocol == TCP else [transport + 4, transport + 5]
        fields = self._headers[:, where] ^ self._headers[0, where]
        if protocol == TCP:
            fields[:, -1] &= ~PSH & 0xFF
        else:
            fields[-1, -2:] = 0
        fields[-1, [1, 2]] = 0  # lengths: see `lengths_hold`
        alike: Truths = np.logical_not(fields.any(axis=1))
        return alike


def lengths_hold(packet: memoryview, ip: int, transport: int, protocol: int) -> bool:
    """True if the IP and UDP headers say the length that the packet has."""
    at, base = (ip + 2, ip) if packet[ip] >> 4 == 4 else (ip + 4, ip + 40)
    if int.from_bytes(packet[at : at + 2], "big") != len(packet) - base:
        return False
    return protocol != UDP or int.from_bytes(packet[transport + 4 : transport + 6], "big") == len(packet) - transport
