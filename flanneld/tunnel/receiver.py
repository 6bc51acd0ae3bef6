"""Peers to TUN: datagrams that the kernel hands over together (UDP_GRO, udp(7)), merged to super-packets, one write for each."""

from __future__ import annotations

import os
import socket
import struct
from typing import NamedTuple

from flanneld.tunnel.switch import Counters, Drop, Endpoint, Switch
from flanneld.wire.merge import ROOM, Merger, Run, unfinished
from flanneld.wire.vnet import NO_OFFLOAD

BATCH = 32
"""Readings before the other direction has its turn."""
MOST_BYTES = 0xFFFF
_SEGMENT = struct.Struct("=i")
_ANCILLARY_SIZE = socket.CMSG_SPACE(_SEGMENT.size)


class Reading(NamedTuple):
    """Datagrams that lie one after the other: bytes of all, of each but for a shorter last, and who has sent them."""

    total: int
    size: int
    sender: Endpoint


class Receiver:
    """The other direction of a data plane."""

    def __init__(self, underlay: socket.socket, switch: Switch, counters: Counters, *, merge_udp: bool, mtu: int) -> None:
        """`merge_udp`: the TUN takes super-packets of UDP. `mtu`: of the TUN, in bytes."""
        self._underlay, self._switch, self._counters = underlay, switch, counters
        self._front, self._link, self._mtu = len(switch.prefix), switch.link_size, mtu
        room = bytearray(ROOM)
        self._datagrams = memoryview(room)
        self._merger = Merger(room, self._front + switch.link_size, self._front, merge_udp=merge_udp)

    def drain(self, tun: int) -> None:
        """Hand on what has arrived, up to a batch: two readings together where they may be of one flow."""
        carried: Reading | None = None
        for _ in range(BATCH):
            reading = carried or self._read(0)
            if reading is None:
                return
            total, size, sender = reading
            full = self._front < size < total and total % size == 0
            carried = self._read(total) if full and not self._merger.ends_flow(total, size) else None
            if carried is not None and carried.sender == sender and (carried.size == size or 0 < carried.total < size):
                total, carried = total + carried.total, None
            self._hand_on(tun, total, size, sender)
            if carried is not None:
                self._datagrams[: carried.total] = self._datagrams[total : total + carried.total]
        if carried is not None:
            self._hand_on(tun, *carried)

    def _read(self, at: int) -> Reading | None:
        """What has arrived next, put there; None: nothing has."""
        try:
            total, ancillary, _, sender = self._underlay.recvmsg_into((self._datagrams[at : at + MOST_BYTES],), _ANCILLARY_SIZE)
        except OSError:  # if it was a pending error, the call has cleared it
            return None
        return Reading(total, _SEGMENT.unpack(ancillary[0][2])[0] if ancillary else total, sender)

    def _hand_on(self, tun: int, total: int, size: int, sender: Endpoint) -> None:
        if size <= self._front:
            self._counters.dropped[Drop.MALFORMED] += 1
            return
        for run in self._merger.runs(total, size):
            self._deliver(tun, run, sender)

    def _deliver(self, tun: int, run: Run, sender: Endpoint) -> None:
        first = self._datagrams[run.start : run.start + run.size]
        why = self._switch.admit(first, sender)
        if why is not None:
            self._counters.dropped[why] += run.packets
            return
        buffers = run.buffers
        if not buffers:
            frame = first[self._front :]
            vnet = unfinished(frame, self._link, self._mtu)
            buffers = (vnet.encode() if vnet else NO_OFFLOAD, frame)
        try:
            os.writev(tun, buffers)
            self._counters.received += run.packets
        except OSError:  # EAGAIN: full, EIO: down, EBADFD: deleted; the sender's transport repeats what matters
            self._counters.dropped[Drop.TUN_REFUSED] += run.packets
