"""One peer as the RIB knows it, and how it fares; must not know paths, nor sessions' making."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address

from bgp.admission import Reason
from bgp.policy import Rule
from bgp.session import Session
from flanneld.lease import IPAddress

UNKNOWN = "255.255.255.255"
"""A router id before the OPEN has come: after all others."""


@dataclass(frozen=True, slots=True)
class MaxPrefix:
    """How many paths one peer may bring: a mistake of its administrator must cost neither memory nor the others' routes."""

    limit: int
    """Paths, of both families together; at the limit new ones are refused, and what is there may change."""
    warn_percent: int = 80
    """Of the limit, from where the peer's state says so."""
    hard: bool = False
    """A peer that goes beyond is to be reset."""

    @property
    def warn_from(self) -> int:
        """Paths; rounded up, and never 0."""
        return max(1, -(-self.limit * self.warn_percent // 100))


@dataclass(frozen=True, slots=True)
class PeerInfo:
    """Who a peer is, and what is thought of what it says."""

    session: Session
    router_id: str = UNKNOWN
    """The peer's, as a dotted quad (else ValueError), from its OPEN; of equally good paths that of the lowest is best."""
    rules: tuple[Rule, ...] = ()
    """For import."""
    max_prefix: MaxPrefix | None = None
    """None: as many as the import policy lets through."""
    rank: int = field(init=False, repr=False, compare=False)
    """The router id as a number."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "rank", int(IPv4Address(self.router_id)))

    @property
    def address(self) -> IPAddress:
        return self.session.peer


@dataclass(frozen=True, slots=True)
class PeerState:
    """How one peer's routes fare, for metrics, the log and what the session is to do next."""

    up: bool
    paths: int
    """Stored, as the limit counts them: those that a change of the policy has made unfit are among them."""
    stale: int
    """Of these, kept from before the session was lost."""
    refused: Mapping[Reason, int]
    """Announcements that are not in force, by reason; what is refused again, or withdrawn, may count twice where there are many."""
    warned: bool = False
    """Near the limit."""
    limited: bool = False
    """New paths were refused at the limit, since the session began or was last refreshed."""
    wants_reset: bool = False
    """And the limit is a hard one."""
    wants_refresh: bool = False
    """What was refused and not kept may be taken now, but must be told again: a ROUTE-REFRESH is to be sent (RFC 2918)."""
