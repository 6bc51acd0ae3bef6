"""The data plane: packets from the TUN to peers in one UDP datagram each, and back; decides nothing, `forward` does.

Both descriptors are read in batches, so that a flood on one does not starve the other or the rest of the daemon.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from typing import Self

from flanneld.backends.udp.forward import ENCAPSULATION_SIZE, Drop, Endpoint, error_for, forward, is_sound, pieces
from flanneld.backends.udp.routes import PrefixTable
from flanneld.backends.udp.sockets import path_mtu
from flanneld.backends.udp.token_bucket import TokenBucket
from flanneld.linux.tun import TunDevice
from flanneld.wire import WireError
from flanneld.wire.icmp import error_packet
from flanneld.wire.ipv4 import MAX_SIZE

_BATCH = 64
"""Packets read from one descriptor before the event loop looks at others: about a millisecond."""
_ERRORS_PER_SECOND, _ERRORS_AT_ONCE = 1000, 50
"""As the kernel limits its own (icmp_msgs_per_sec and icmp_msgs_burst in its ip-sysctl)."""


@dataclass(slots=True)
class Counters:
    """What the proxy did since it was made."""

    sent: int = 0
    """Datagrams to peers."""
    received: int = 0
    """Packets from peers that the TUN took."""
    fragmented: int = 0
    """Packets that were cut to fit the path."""
    errors_sent: int = 0
    """ICMP errors."""
    errors_suppressed: int = 0
    """ICMP errors over the rate, or without a way back to the sender."""
    dropped: Counter[Drop] = field(default_factory=Counter)


class Proxy:
    """One TUN and one underlay socket. It owns the TUN, and closes it at the end of its context; the sockets are its maker's."""

    def __init__(self, underlay: socket.socket, icmp: socket.socket, tun: TunDevice) -> None:
        self.tun = tun
        self.peers: PrefixTable[Endpoint] = PrefixTable({})
        self.address: IPv4Address | None = None
        """Ours in the overlay, the source of ICMP errors; None: no lease yet, and no errors."""
        self.counters = Counters()
        self.tun_lost = asyncio.Event()
        """The TUN was deleted under us; nothing flows until `use` brings another."""
        self._underlay = underlay
        self._underlay_address = IPv4Address(underlay.getsockname()[0])
        self._icmp = icmp
        self._loop: asyncio.AbstractEventLoop | None = None
        self._errors = TokenBucket(_ERRORS_PER_SECOND, _ERRORS_AT_ONCE)
        self._packet = memoryview(bytearray(MAX_SIZE))
        self._packets = (self._packet,)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.tun.close()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Carry packets on the running event loop while the context is open."""
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._underlay, self._drain_underlay)
        self._loop.add_reader(self.tun.fd, self._drain_tun)
        try:
            yield
        finally:
            self._loop.remove_reader(self.tun.fd)
            self._loop.remove_reader(self._underlay)
            self._loop = None

    def use(self, tun: TunDevice) -> None:
        """Go on with another TUN; the one before is closed."""
        if self._loop:
            self._loop.remove_reader(self.tun.fd)
            self._loop.add_reader(tun.fd, self._drain_tun)
        self.tun.close()
        self.tun = tun
        self.tun_lost.clear()

    def _drain_tun(self) -> None:
        fd, packets, packet = self.tun.fd, self._packets, self._packet
        for _ in range(_BATCH):
            try:
                size = os.readv(fd, packets)
            except BlockingIOError:
                return
            except OSError:  # EBADFD or EFAULT, by how far the deletion has come
                self._lose_tun()
                return
            self._forward(packet[:size])

    def _lose_tun(self) -> None:
        if self._loop:
            self._loop.remove_reader(self.tun.fd)  # it stays readable for ever
        self.tun_lost.set()

    def _drain_underlay(self) -> None:
        underlay, packet = self._underlay, self._packet
        for _ in range(_BATCH):
            try:
                size = underlay.recv_into(packet)
            except OSError:  # nothing left; if it was a pending error, the call has cleared it
                return
            self._deliver(packet[:size])

    def _forward(self, packet: memoryview) -> None:
        peer = forward(packet, self.peers)
        if isinstance(peer, Drop):
            self._drop(peer, packet)
            return
        try:
            self._underlay.sendto(packet, peer)
            self.counters.sent += 1
        except OSError as error:
            if error.errno == errno.EMSGSIZE:
                self._fit(packet, peer)
            else:
                self._drop(Drop.SEND_FAILED, packet)

    def _deliver(self, packet: memoryview) -> None:
        if not is_sound(packet):
            self._drop(Drop.MALFORMED, packet)
            return
        try:
            os.write(self.tun.fd, packet)
            self.counters.received += 1
        except OSError:  # EAGAIN: full, EIO: down, EBADFD: deleted; the sender's transport repeats what matters
            self._drop(Drop.TUN_REFUSED, packet)

    def _fit(self, packet: memoryview, peer: Endpoint) -> None:
        """Send a packet that is too big for the path in pieces, or tell its sender what would fit (RFC 1191 §4)."""
        try:
            mtu = path_mtu(self._underlay_address, peer) - ENCAPSULATION_SIZE
            parts = pieces(packet, mtu)
            for part in parts:
                self._underlay.sendto(part, peer)
        except WireError:
            self._drop(Drop.MALFORMED, packet)
        except OSError:
            self._drop(Drop.SEND_FAILED, packet)
        else:
            if parts:
                self.counters.sent += len(parts)
                self.counters.fragmented += 1
            else:
                self._drop(Drop.TOO_BIG, packet, mtu)

    def _drop(self, why: Drop, packet: memoryview, next_hop_mtu: int = 0) -> None:
        """Count the packet, and tell its sender where that is due."""
        self.counters.dropped[why] += 1
        error = error_for(why, packet)
        if error is None or self.address is None:
            return
        if not self._errors.take(asyncio.get_running_loop().time()):
            self.counters.errors_suppressed += 1
            return
        reply = error_packet(error, packet, self.address, next_hop_mtu)
        try:
            self._icmp.sendto(reply, (socket.inet_ntoa(reply[16:20]), 0))
            self.counters.errors_sent += 1
        except OSError:  # the kernel has no route to the sender, or a rule against this
            self.counters.errors_suppressed += 1
