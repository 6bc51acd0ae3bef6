"""One EVPN route with all that is said of it, by us or by a neighbour; must not know who says it to whom."""

from __future__ import annotations

from dataclasses import dataclass, field

from bgp.evpn.communities import ExtendedCommunity
from bgp.evpn.routes import EvpnRoute
from bgp.path import Attributes
from flanneld.lease import IPAddress


@dataclass(frozen=True, slots=True)
class EvpnAnnouncement:
    """As an UPDATE has it."""

    route: EvpnRoute
    next_hop: IPAddress
    """The VTEP that it is about."""
    attributes: Attributes = field(default_factory=Attributes)
    extended: frozenset[ExtendedCommunity] = frozenset()
    tunnel: bytes = b""
    """Of a multicast route: the value of its PMSI tunnel attribute. Not read, as nothing here sends frames to everybody."""
