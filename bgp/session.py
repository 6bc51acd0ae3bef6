"""What one BGP session is to be; must not know how sessions are made, nor who decides which there are.

Equal values: a running session need not be touched. RFC 4271 §8; RFC 5082 (GTSM); RFC 2385 (MD5); RFC 4724 (graceful restart).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from bgp.path import Asn
from flanneld.lease import Family, IPAddress

BGP_PORT = 179
Channel: TypeAlias = Family | Literal["evpn"]
"""What is exchanged by itself, with an end of its own: the unicast routes of a family, or EVPN's."""


@dataclass(frozen=True, slots=True)
class Session:
    """One session with one neighbour; the neighbour's address is its identity."""

    peer: IPAddress
    local: IPAddress
    """Our end, of the same family."""
    peer_as: Asn
    local_as: Asn
    router_id: str
    """Ours, as a dotted quad."""
    port: int = BGP_PORT
    """The neighbour's."""
    passive: bool = False
    """Wait for the neighbour to connect: of two hosts one does, so that their attempts never collide."""
    password: str = field(default="", repr=False)
    """At most 80 bytes; empty: none."""
    hold_time_s: int = 9
    """3 at least; keepalives go out three times as often."""
    ttl_security: int | None = None
    """GTSM: the neighbour is at most so many hops away (1: on the link); None: not checked."""
    multihop: int | None = None
    """The TTL that we send with, where an eBGP neighbour is not on the link."""
    graceful_restart_s: int = 120
    """So long the neighbour keeps our routes after the connection is lost; 0: not at all."""
    families: tuple[Family, ...] = (4,)
    """What routes are exchanged, whatever the session itself runs over."""
    evpn: bool = False
    """Exchange EVPN's too (RFC 7432)."""

    @property
    def channels(self) -> tuple[Channel, ...]:
        """All that is exchanged, in the order in which each comes to an end."""
        return (*self.families, *(("evpn",) if self.evpn else ()))

    @property
    def internal(self) -> bool:
        """IBGP: both in one autonomous system."""
        return self.peer_as == self.local_as
