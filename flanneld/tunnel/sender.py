"""TUN to peers: super-packets cut and sent in one call (UDP_SEGMENT, udp(7)), plain packets of one length to one peer together."""

from __future__ import annotations

import errno
import os
import socket
import struct
import time
from ipaddress import IPv4Address

from flanneld.log import Log, Once
from flanneld.tunnel.sockets import SOL_UDP, UDP_SEGMENT, path_mtu
from flanneld.tunnel.switch import OUTER_SIZE, Counters, Drop, Endpoint, Switch
from flanneld.wire import WireError
from flanneld.wire.ipv4 import DONT_FRAGMENT, decode_ipv4, fragment
from flanneld.wire.ipv4 import MAX_SIZE as IPV4_MAX_SIZE
from flanneld.wire.split import MAX_SIZE, Splitter, finish_checksum
from flanneld.wire.vnet import LAYOUT as VNET_LAYOUT
from flanneld.wire.vnet import NEEDS_CSUM, VnetHeader
from flanneld.wire.vnet import SIZE as VNET_SIZE

BATCH = 64
"""Readings before the other direction has its turn."""
CALM_S = 0.00005
"""Packets farther apart than this are on their own: what comes next is poll's to say, not another reading's."""
MOST_SEGMENTS = 64
"""Of one call (UDP_MAX_SEGMENTS of linux/udp.h, in kernels before 6.9)."""
MOST_BYTES = IPV4_MAX_SIZE - OUTER_SIZE
"""Of one call: what an IPv4 datagram holds."""
_SEGMENT = struct.Struct("=H")

log = Log(__name__)


class Sender:
    """One direction of a data plane."""

    def __init__(self, underlay: socket.socket, switch: Switch, counters: Counters, *, segmentation: bool) -> None:
        """`segmentation`: the kernel has UDP_SEGMENT."""
        self._underlay, self._switch, self._counters = underlay, switch, counters
        self._address = IPv4Address(underlay.getsockname()[0])
        self._segmentation = segmentation
        self._front = len(switch.prefix)
        room = bytearray(MAX_SIZE)
        room[: self._front] = switch.prefix
        self._packet = memoryview(room)
        self._vnet = bytearray(VNET_SIZE)
        self._into = (self._vnet, self._packet[self._front :])
        self._splitter = Splitter(room, self._front + switch.link_size)
        self._ancillary: dict[int, list[tuple[int, int, bytes]]] = {}
        self._drained_at = 0.0
        self._batch = memoryview(bytearray(MOST_BYTES))
        self._peer: Endpoint = ("", 0)
        self._size = self._used = self._count = 0
        """Of the packets in the batch: bytes of each, of all, and how many."""
        self._said = Once(log)

    def drain(self, tun: int) -> None:
        """Send what waits in the TUN, up to a batch; raises OSError when the TUN is no more."""
        counters, switch, front, into, packet = self._counters, self._switch, self._front, self._into, self._packet
        unpack, vnet, readv = VNET_LAYOUT.unpack, self._vnet, os.readv
        before, self._drained_at = self._drained_at, time.monotonic()
        calm = self._drained_at - before > CALM_S
        try:
            for _ in range(BATCH):
                size = readv(tun, into) - VNET_SIZE + front
                flags, kind, header, segment, start, offset = unpack(vnet)
                peer = switch.route(packet[front:size])
                if kind:
                    calm = False
                    self.flush()
                    self._send_super(size, VnetHeader(flags, kind, header, segment, start, offset), peer)
                    continue
                if isinstance(peer, Drop):
                    self._drop(peer, packet[front:size])
                    continue
                if flags & NEEDS_CSUM:
                    finish_checksum(packet[:size], start + front, offset)
                if calm:
                    self._transmit(packet[:size], size, 1, peer)
                    return
                self._gather(packet[:size], peer)
        except BlockingIOError:
            pass
        except WireError:
            counters.dropped[Drop.MALFORMED] += 1
        finally:
            self.flush()

    def flush(self) -> None:
        """Send what has been gathered."""
        if self._count:
            count, self._count = self._count, 0
            self._transmit(self._batch[: self._used], self._size, count, self._peer)

    def _gather(self, packet: memoryview, peer: Endpoint) -> None:
        """Add a packet to those that go in one call: all of one length, but for a shorter last."""
        size, used, count = len(packet), self._used, self._count
        if count and (peer != self._peer or size > self._size or used + size > MOST_BYTES or count == MOST_SEGMENTS):
            self.flush()
            count = 0
        if not count:
            self._peer, self._size, used = peer, size, 0
        self._batch[used : used + size] = packet
        self._used, self._count = used + size, count + 1
        if size < self._size:
            self.flush()

    def _send_super(self, size: int, vnet: VnetHeader, peer: Endpoint | Drop) -> None:
        """Cut a super-packet, and send its segments in as few calls as may be."""
        cut = self._splitter.split(size, vnet, self._front)
        segments = self._splitter.segments
        if isinstance(peer, Drop):
            self._drop(peer, segments[self._front : min(cut.size, cut.total)], cut.packets)
            return
        calls = -(-cut.packets // max(1, min(MOST_SEGMENTS, MOST_BYTES // cut.size)))
        together = -(-cut.packets // calls)
        for at in range(0, cut.total, together * cut.size):
            end = min(at + together * cut.size, cut.total)
            self._transmit(segments[at:end], cut.size, -(-(end - at) // cut.size), peer)

    def _transmit(self, packets: memoryview, size: int, count: int, peer: Endpoint) -> None:
        """Send `count` packets of `size` bytes, but for a shorter last."""
        try:
            if count == 1:
                self._underlay.sendto(packets, peer)
            elif self._segmentation:
                self._underlay.sendmsg((packets,), self._said_size(size), 0, peer)
            else:
                self._one_by_one(packets, size, peer)
                return
            self._counters.sent += count
        except BlockingIOError:
            self._counters.dropped[Drop.BUFFER_FULL] += count
        except OSError as error:
            self.refused(error, packets, size, count, peer)

    def refused(self, error: OSError, packets: memoryview, size: int, count: int, peer: Endpoint) -> None:
        """See to packets that the socket has not taken."""
        if error.errno in {errno.EMSGSIZE, errno.EINVAL}:
            self._fit(packets, size, count, peer)
        elif count > 1:
            self._said.warning("segmentation", "packets are sent one by one", why=error)
            self._one_by_one(packets, size, peer)
        else:
            self._drop(Drop.SEND_FAILED, packets[self._front :])

    def _said_size(self, size: int) -> list[tuple[int, int, bytes]]:
        found = self._ancillary.get(size)
        if found is None:
            found = self._ancillary[size] = [(SOL_UDP, UDP_SEGMENT, _SEGMENT.pack(size))]
        return found

    def _one_by_one(self, packets: memoryview, size: int, peer: Endpoint) -> None:
        for at in range(0, len(packets), size):
            self._transmit(packets[at : at + size], size, 1, peer)

    def _fit(self, packets: memoryview, size: int, count: int, peer: Endpoint) -> None:
        """Send packets too big for the path in pieces, or tell their sender what would fit (RFC 1191 §4); once for all of them."""
        try:
            room = path_mtu(self._address, peer) - OUTER_SIZE
        except OSError:
            self._drop(Drop.SEND_FAILED, packets[self._front : size], count)
            return
        first = packets[self._front : size]
        if count > 1 and (size <= room or not self._switch.fragments):
            self._one_by_one(packets, size, peer)
        elif not self._switch.fragments:
            self._drop(Drop.SEND_FAILED, first)
        elif (first[6] << 8 | first[7]) & DONT_FRAGMENT:
            self._drop(Drop.TOO_BIG, first, count, room)
        else:
            for at in range(0, len(packets), size):
                self._fragment(packets[at : at + size], room, peer)

    def _fragment(self, packet: memoryview, mtu: int, peer: Endpoint) -> None:
        try:
            pieces = [piece.encode() for piece in fragment(decode_ipv4(packet), mtu)]
            for piece in pieces:
                self._underlay.sendto(piece, peer)
        except WireError:
            self._drop(Drop.MALFORMED, packet)
        except OSError:
            self._drop(Drop.SEND_FAILED, packet)
        else:
            self._counters.sent += len(pieces)
            self._counters.fragmented += len(pieces) > 1

    def _drop(self, why: Drop, frame: memoryview, count: int = 1, next_hop_mtu: int = 0) -> None:
        """Count packets, and have their sender told about the first, where that is due."""
        self._counters.dropped[why] += count
        self._switch.complain(why, frame, next_hop_mtu, self._counters)
