"""What this host is to be as a BGP router, as one value; must not know how it gets there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from bgp.admission import ImportPolicy
from bgp.evpn.exports import EvpnOrigination
from bgp.exports import Origination
from bgp.neighbours import Neighbour, Neighbourhood
from flanneld.lease import IPAddress


@dataclass(frozen=True, slots=True)
class Aim:
    """What this router is to be."""

    neighbourhood: Neighbourhood = field(default_factory=lambda: Neighbourhood(()))
    origination: Origination = field(default_factory=Origination)
    policy: ImportPolicy = field(default_factory=lambda: ImportPolicy(()))
    evpn: EvpnOrigination | None = None
    """In the sessions that exchange EVPN; None: nothing."""

    @property
    def neighbours(self) -> Mapping[IPAddress, Neighbour]:
        return {neighbour.session.peer: neighbour for neighbour in self.neighbourhood.neighbours}
