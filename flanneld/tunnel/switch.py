"""What the engine asks of a method that uses it, and what it counts; must not know any method.

A datagram is a constant prefix and one frame: nothing and an IP packet for udp, the VXLAN header and an Ethernet frame for vxlan.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from enum import Enum
from typing import Protocol, TypeAlias

from flanneld.wire.ipv4 import HEADER_SIZE as IPV4_SIZE
from flanneld.wire.udp import HEADER_SIZE as UDP_SIZE

Endpoint: TypeAlias = tuple[str, int]
"""A peer's address and port, as sockets take it."""

OUTER_SIZE = IPV4_SIZE + UDP_SIZE
"""Bytes that the outer IPv4 and UDP headers take."""


class Drop(Enum):
    """Why a packet went no further."""

    NOT_IPV4 = "not_ipv4"
    NO_PEER = "no_peer"
    EXPIRED = "expired"
    TOO_BIG = "too_big"
    MALFORMED = "malformed"
    SPOOFED = "spoofed"
    """A peer's packet whose source is not in that peer's subnet."""
    BUFFER_FULL = "buffer_full"
    """The socket's send buffer."""
    SEND_FAILED = "send_failed"
    TUN_REFUSED = "tun_refused"


@dataclass(slots=True)
class Counters:
    """What a data plane did since it was made, in packets as they are on the wire."""

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

    def told(self) -> tuple[dict[str, int], dict[str, int]]:
        """All by name: what was done, and what was dropped by reason."""
        done = (counted.name for counted in fields(self) if counted.name != "dropped")
        return {name: getattr(self, name) for name in done}, {why.value: self.dropped[why] for why in Drop}


class Switch(Protocol):
    """Who gets what. All of it is called in the data plane's thread, once per packet or super-packet."""

    prefix: bytes
    """Before the frame in every datagram."""
    link_size: int
    """Bytes before the IP header in every frame."""
    strict: bool
    """A peer may send from its own pods alone."""
    fragments: bool
    """Packets that do not fit the path are ours to cut or to refuse; else the kernel cuts the datagrams."""

    def route(self, frame: memoryview) -> Endpoint | Drop:
        """The peer for a frame from the TUN, which may be altered."""

    def admit(self, datagram: memoryview, sender: Endpoint) -> Drop | None:
        """None if what a peer sent, prefix included, may go to the TUN; of a super-packet it is the first segment."""

    def table(self) -> Sequence[tuple[int, Mapping[int, Endpoint]]]:
        """Who is reached where: netmasks, the longest first, each with its prefixes; or MAC addresses, under no mask."""

    def owners(self) -> Sequence[tuple[int, Mapping[int, Endpoint]]]:
        """Who may send from where, likewise, if that is checked."""

    def complain(self, why: Drop, frame: memoryview, next_hop_mtu: int, counters: Counters) -> None:
        """Tell the sender of a frame from the TUN about its end, where that is due."""
