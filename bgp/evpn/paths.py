"""What an EVPN route comes to as a way to a prefix, and what must hold of it, of all ways and of these; must not know sessions.

A prefix route is a way to its prefix, and a MAC/IP route is one to its address: packets go into the VNI, to the MAC address that is
named, at the VTEP that is the next hop. That is what flannel's vxlan makes of a lease. Multicast routes, and MAC addresses
without an IP address, say something to bridges only. RFC 9136 §4.4.1 (the interface-less model), RFC 8365 §5.1.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import ip_network

from bgp.admission import ImportPolicy, Reason, Refusal
from bgp.evpn.announcement import EvpnAnnouncement
from bgp.evpn.communities import (
    ExtendedCommunity,
    by_vxlan,
    is_automatic_target,
    render_target,
    router_mac_of,
    targets,
)
from bgp.evpn.routes import NO_VNI, Key, MacIp, Multicast, Prefix
from bgp.path import Path
from bgp.session import Session
from flanneld.backends.vtep import Vni
from flanneld.lease import IPAddress, IPNetwork, family_of


@dataclass(frozen=True, slots=True)
class EvpnPath(Path):
    """A way through the VNI. Its path number is its key's: several VTEPs may announce one prefix in one session."""

    vni: Vni = NO_VNI
    mac: str = ""
    """At the VTEP; "": not said."""
    extended: frozenset[ExtendedCommunity] = frozenset()
    beyond: IPAddress | None = None
    """It is behind this address, and not behind the VTEP itself."""


def place(key: Key) -> tuple[IPNetwork, int] | None:
    """Prefix and path number of the way that such a route is; None: it is none."""
    match key:
        case Prefix():
            return key.prefix, _number(key, 0)
        case Multicast():
            return None
        case MacIp():
            return None if key.ip is None else (ip_network(key.ip), _number(key, int(key.mac.replace(":", ""), 16)))


def _number(key: Key, mac: int) -> int:
    """Different for different keys of one prefix; a MAC address is never 0."""
    return key.rd << 80 | key.tag << 48 | mac


def ways(peer: IPAddress, told: Iterable[EvpnAnnouncement], *, hosts: bool) -> Iterator[EvpnPath]:
    """The ways that a neighbour has told us; those to single hosts, which bridges need, count if `hosts`."""
    for each in told:
        route = each.route
        if (found := place(route.key)) is None or (isinstance(route.key, MacIp) and not hosts):
            continue
        mac = route.key.mac if isinstance(route.key, MacIp) else router_mac_of(each.extended) or ""
        yield EvpnPath(
            prefix=found[0],
            next_hop=each.next_hop,
            peer=peer,
            attributes=each.attributes,
            path_id=found[1],
            vni=route.vni,
            mac=mac,
            extended=each.extended,
            beyond=route.gateway,
        )


@dataclass(frozen=True, slots=True)
class EvpnPolicy(ImportPolicy):
    """What we take from peers, of one VNI."""

    vni: Vni = NO_VNI
    imported: frozenset[ExtendedCommunity] = frozenset()
    """Routes of these targets are taken; none: those of every AS's automatic target for the VNI."""
    own_macs: frozenset[str] = frozenset()
    """Our VTEP's."""

    def refuse(self, path: Path, session: Session) -> Refusal | None:
        """As of any path, and whether it is one through our VNI."""
        if not isinstance(path, EvpnPath):
            return Refusal(Reason.VNI, f"prefix {path.prefix} is not announced by EVPN")
        return self._membership(path) or ImportPolicy.refuse(self, path, session) or self._way(path)

    def _membership(self, path: EvpnPath) -> Refusal | None:
        """Whether it is for this network at all."""
        found = targets(path.extended)
        ours = found & self.imported if self.imported else any(is_automatic_target(each, self.vni) for each in found)
        if not ours:
            shown = ", ".join(sorted(map(render_target, found))) or "none"
            wanted = " or ".join(sorted(map(render_target, self.imported))) or f"one of VNI {self.vni}"
            return Refusal(Reason.ROUTE_TARGET, f"prefix {path.prefix} has the route targets {shown}, expected {wanted}")
        if path.vni != self.vni:
            return Refusal(Reason.VNI, f"prefix {path.prefix} is in VNI {path.vni}, expected {self.vni}")
        if not by_vxlan(path.extended):
            return Refusal(Reason.ENCAPSULATION, f"prefix {path.prefix} is not to be reached by VXLAN")
        return None

    def _way(self, path: EvpnPath) -> Refusal | None:
        """Whether there is a way that vxlan can go."""
        if path.beyond is not None:
            return Refusal(Reason.GATEWAY, f"prefix {path.prefix} is behind {path.beyond}, expected its VTEP alone")
        if family_of(path.next_hop) != family_of(path.prefix):
            return Refusal(Reason.GATEWAY, f"prefix {path.prefix} is behind the VTEP {path.next_hop}, expected one of its family")
        if not path.mac:
            return Refusal(Reason.ROUTER_MAC, f"prefix {path.prefix} has no router's MAC")
        if int(path.mac[:2], 16) & 1 or not int(path.mac.replace(":", ""), 16):
            return Refusal(Reason.ROUTER_MAC, f"prefix {path.prefix} is at {path.mac}, expected one host's MAC")
        if path.mac in self.own_macs:
            return Refusal(Reason.ROUTER_MAC, f"prefix {path.prefix} is at {path.mac}, which is our own VTEP")
        return None
