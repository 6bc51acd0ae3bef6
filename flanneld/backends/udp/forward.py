"""What a router in the overlay does with one packet, or with one super-packet; must not know how packets travel.

RFC 1812 §5.2.2 (validation), §5.3.1 (time to live), §4.3.2 (errors), RFC 1191 (path MTU). These run once per packet, which
has mostly just woken the processor: they do few different things, each of which has to be fetched anew. What is rare (errors) goes
through the codecs of `flanneld.wire`.
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Mapping, Sequence
from ipaddress import IPv4Address

from flanneld.backends.udp.routes import PrefixTable
from flanneld.tunnel.switch import Counters, Drop, Endpoint
from flanneld.tunnel.token_bucket import TokenBucket
from flanneld.wire.checksum import updated_checksum, verifies
from flanneld.wire.icmp import IcmpError, error_packet, may_answer
from flanneld.wire.ipv4 import HEADER_SIZE

_ERRORS = {
    Drop.NO_PEER: IcmpError.NET_UNREACHABLE,
    Drop.EXPIRED: IcmpError.TIME_EXCEEDED,
    Drop.TOO_BIG: IcmpError.FRAGMENTATION_NEEDED,
}
_WORDS = struct.Struct("!10H").unpack_from
"""The header: word 1 is the length, 4 time to live and protocol, 5 the checksum, 6 and 7 the source, 8 and 9 the destination."""
_SOURCE = struct.Struct("!12xI").unpack_from
_NO_OPTIONS = 0x45
"""Version 4, five words of 32 bits."""
_ERRORS_PER_SECOND, _ERRORS_AT_ONCE = 1000, 50
"""As the kernel limits its own (icmp_msgs_per_sec and icmp_msgs_burst in its ip-sysctl)."""


class Router:
    """A `Switch` for bare IPv4 packets."""

    prefix = b""
    link_size = 0
    fragments = True

    def __init__(self, icmp: socket.socket, *, strict: bool = True) -> None:
        """`strict`: a peer may send from its own subnet alone. The socket is the caller's to close."""
        self.peers: PrefixTable[Endpoint] = PrefixTable({})
        """Never changed, only exchanged: another thread looks things up in it. So are the `sources`."""
        self.sources: PrefixTable[Endpoint] = PrefixTable({})
        """Who may send from where: also those whom we reach otherwise, and who may not have heard yet that they reach us so."""
        self.address: IPv4Address | None = None
        """Ours in the overlay, the source of ICMP errors; None: no lease yet, and no errors."""
        self._icmp = icmp
        self.strict = strict
        self._errors = TokenBucket(_ERRORS_PER_SECOND, _ERRORS_AT_ONCE)

    def route(self, frame: memoryview) -> Endpoint | Drop:
        return forward(frame, self.peers)

    def admit(self, datagram: memoryview, sender: Endpoint) -> Drop | None:
        if not is_sound(datagram):
            return Drop.MALFORMED
        if self.strict:
            owner = self.sources.lookup(_SOURCE(datagram)[0])
            if owner is None or owner[0] != sender[0]:
                return Drop.SPOOFED
        return None

    def table(self) -> Sequence[tuple[int, Mapping[int, Endpoint]]]:
        return self.peers.levels

    def owners(self) -> Sequence[tuple[int, Mapping[int, Endpoint]]]:
        return self.sources.levels

    def complain(self, why: Drop, frame: memoryview, next_hop_mtu: int, counters: Counters) -> None:
        error = error_for(why, frame)
        if error is None or self.address is None:
            return
        if not self._errors.take(time.monotonic()):
            counters.errors_suppressed += 1
            return
        reply = error_packet(error, frame, self.address, next_hop_mtu)
        try:
            self._icmp.sendto(reply, (socket.inet_ntoa(reply[16:20]), 0))
            counters.errors_sent += 1
        except OSError:  # the kernel has no route to the sender, or a rule against this
            counters.errors_suppressed += 1


def forward(packet: memoryview, peers: PrefixTable[Endpoint]) -> Endpoint | Drop:
    """Choose the peer for a packet of ours and take one hop off its time to live, in place, or say why it cannot go."""
    if len(packet) < HEADER_SIZE or packet[0] >> 4 != 4:
        return Drop.NOT_IPV4
    words = _WORDS(packet)
    peer = peers.lookup(words[8] << 16 | words[9])
    if peer is None:
        return Drop.NO_PEER
    ttl = words[4] >> 8  # the lower half is the protocol
    if ttl <= 1:
        return Drop.EXPIRED
    packet[8] = ttl - 1
    checksum = updated_checksum(words[5], ttl << 8, (ttl - 1) << 8)
    packet[10] = checksum >> 8
    packet[11] = checksum & 0xFF
    return peer


def is_sound(datagram: memoryview) -> bool:
    """True if a peer's datagram is exactly one IPv4 packet with a valid header and time to live."""
    size = len(datagram)
    if size < HEADER_SIZE:
        return False
    words = _WORDS(datagram)
    if words[0] >> 8 == _NO_OPTIONS:  # nearly all packets there are
        return words[1] == size and words[4] > 0xFF and not sum(words) % 0xFFFF
    if datagram[0] >> 4 != 4 or datagram[8] == 0:
        return False
    header = (datagram[0] & 0xF) * 4
    total = datagram[2] << 8 | datagram[3]
    return HEADER_SIZE <= header <= total == size and verifies(datagram[:header])


def error_for(why: Drop, packet: memoryview) -> IcmpError | None:
    """What the sender of a packet from the TUN is to be told about its end, or None where nothing may be said."""
    error = _ERRORS.get(why)
    return error if error and may_answer(packet) else None
