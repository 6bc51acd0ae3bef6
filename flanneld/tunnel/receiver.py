"""Peers to TUN: datagrams that the kernel hands over together (UDP_GRO, udp(7)), merged to super-packets, one write for each."""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Sequence
from typing import TypeAlias

from flanneld.tunnel.sender import CALM_S
from flanneld.tunnel.switch import Counters, Drop, Endpoint, Switch
from flanneld.wire.ipv4 import MAX_SIZE
from flanneld.wire.merge import ROOM, Merger
from flanneld.wire.unfinished import unfinished
from flanneld.wire.vnet import NO_OFFLOAD

BATCH = 32
"""Readings before the other direction has its turn."""
_SEGMENT = struct.Struct("=i")
_ANCILLARY_SIZE = socket.CMSG_SPACE(_SEGMENT.size)


Reading: TypeAlias = tuple[int, int, Endpoint]
"""Datagrams that lie one after the other: bytes of all, of each but for a shorter last, and who has sent them."""


class Receiver:
    """The other direction of a data plane."""

    def __init__(self, underlay: socket.socket, switch: Switch, counters: Counters, *, merge_udp: bool, mtu: int) -> None:
        """`merge_udp`: the TUN takes super-packets of UDP. `mtu`: of the TUN, in bytes."""
        self._underlay, self._switch, self._counters = underlay, switch, counters
        self._front, self._link, self._mtu = len(switch.prefix), switch.link_size, mtu
        room = bytearray(ROOM)
        self._datagrams = memoryview(room)
        self._first = (self._datagrams[:MAX_SIZE],)
        self._drained_at = 0.0
        self._merger = Merger(room, self._front + switch.link_size, self._front, merge_udp=merge_udp)

    def drain(self, tun: int) -> None:
        """Hand on what has arrived, up to a batch: two readings together where they may be of one flow."""
        before, self._drained_at = self._drained_at, time.monotonic()
        calm = self._drained_at - before > CALM_S
        carried: Reading | None = None
        for _ in range(BATCH):
            reading = carried or self._read(self._first)
            if reading is None:
                return
            total, size, sender = reading
            if size == total:
                carried = None
                self._hand_on(tun, self._datagrams[:total], sender)
                if calm:
                    return
                continue
            calm = False
            full = total % size == 0 and not self._merger.ends_flow(total, size)
            carried = self._read((self._datagrams[total : total + MAX_SIZE],)) if full else None
            if carried is not None and _continues(carried, size, sender):
                total, carried = total + carried[0], None
            self._merge(tun, total, size, sender)
            if carried is not None:
                self._datagrams[: carried[0]] = self._datagrams[total : total + carried[0]]
        if carried is not None:
            self._merge(tun, *carried)

    def _read(self, into: tuple[memoryview]) -> Reading | None:
        """What has arrived next, put there; None: nothing has."""
        try:
            total, ancillary, _, sender = self._underlay.recvmsg_into(into, _ANCILLARY_SIZE)
        except OSError:  # if it was a pending error, the call has cleared it
            return None
        return total, _SEGMENT.unpack(ancillary[0][2])[0] if ancillary else total, sender

    def _merge(self, tun: int, total: int, size: int, sender: Endpoint) -> None:
        """Hand on datagrams that lie one after the other, as few packets as may be."""
        for start, first, packets, buffers in self._merger.runs(total, size) if size else ():
            datagram = self._datagrams[start : start + first]
            if not buffers:
                self._hand_on(tun, datagram, sender)
            elif (why := self._switch.admit(datagram, sender)) is not None:
                self._counters.dropped[why] += packets
            else:
                self._write(tun, buffers, packets)

    def _hand_on(self, tun: int, datagram: memoryview, sender: Endpoint) -> None:
        """Hand on one as it is."""
        why = self._switch.admit(datagram, sender)
        if why is not None:
            self._counters.dropped[why] += 1
            return
        frame = datagram[self._front :] if self._front else datagram
        vnet = unfinished(frame, self._link, self._mtu)
        self._write(tun, (NO_OFFLOAD if vnet is None else vnet.encode(), frame), 1)

    def _write(self, tun: int, buffers: Sequence[memoryview | bytes], packets: int) -> None:
        try:
            os.writev(tun, buffers)
            self._counters.received += packets
        except OSError:  # EAGAIN: full, EIO: down, EBADFD: deleted; the sender's transport repeats what matters
            self._counters.dropped[Drop.TUN_REFUSED] += packets


def _continues(reading: Reading, size: int, sender: Endpoint) -> bool:
    """True if it may be more of a flow of datagrams of that size."""
    more, each, whose = reading
    return whose == sender and (each == size or 0 < more < size)
