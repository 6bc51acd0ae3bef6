"""What a neighbour is to be told by EVPN of this host: that its subnets are behind its VTEP; pure; must not know who is up.

Per address family three routes: the subnet (type 5), the VTEP's MAC and overlay address (type 2), and that it wants what is for
everybody (type 3). The first is all that hosts need; VTEPs that bridge the VNI find the MAC by the others. RFC 8365 §5.1.2.1, §9.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from bgp.evpn.announcement import EvpnAnnouncement
from bgp.evpn.communities import VXLAN, ExtendedCommunity, automatic_target, replication_tunnel, router_mac
from bgp.evpn.paths import EvpnPath
from bgp.evpn.routes import EvpnRoute, Key, MacIp, Multicast, Prefix, Rd, distinguisher
from bgp.exports import own_attributes
from bgp.neighbours import Neighbour
from bgp.policy import decide
from bgp.topology import Role
from flanneld.backends.vtep import Vni
from flanneld.lease import IPAddress, IPNetwork


@dataclass(frozen=True, slots=True)
class OwnVtep:
    """Where one family's subnet can be reached."""

    address: IPAddress
    """In the underlay."""
    mac: str
    subnets: tuple[IPNetwork, ...]
    """The lease's first, whose network address is the VTEP's own in the overlay; then what is announced besides."""


@dataclass(frozen=True, slots=True)
class EvpnOrigination:
    """What this host announces as its own."""

    vni: Vni
    router_id: str
    vteps: tuple[OwnVtep, ...] = ()
    """At most one per family."""
    targets: frozenset[ExtendedCommunity] = frozenset()
    """None: the automatic one."""
    draining: bool = False
    """We are about to leave: every other way is better (RFC 8326)."""


def evpn_announcements(neighbour: Neighbour, own: EvpnOrigination) -> dict[Key, EvpnAnnouncement]:
    """All that the neighbour is to be told. Export rules are asked of subnets; without any, the VTEP is not told of either.

    A router is told of the VTEP of the session's family alone: it has one address as VTEP itself, and FRR 8 ends a session in which
    an IPv6 address is a VTEP.
    """
    told: dict[Key, EvpnAnnouncement] = {}
    for vtep in own.vteps:
        if neighbour.role is Role.EXTERNAL and vtep.address.version != neighbour.session.peer.version:
            continue
        prefixes = [said for subnet in vtep.subnets if (said := _prefix(neighbour, own, vtep, subnet)) is not None]
        told |= {said.route.key: said for said in (*prefixes, *(_of_vtep(neighbour, own, vtep) if prefixes else ()))}
    return told


def _prefix(neighbour: Neighbour, own: EvpnOrigination, vtep: OwnVtep, subnet: IPNetwork) -> EvpnAnnouncement | None:
    session = neighbour.session
    extended = _extended(neighbour, own) | {router_mac(vtep.mac)}
    attributes = own_attributes(neighbour, draining=own.draining)
    path = EvpnPath(subnet, vtep.address, session.peer, attributes, vni=own.vni, mac=vtep.mac, extended=extended)
    verdict = decide(neighbour.exports, path, session.local_as, session.local_as)
    if isinstance(verdict, str):
        return None
    return EvpnAnnouncement(EvpnRoute(Prefix(_rd(own), subnet), own.vni), vtep.address, verdict.attributes, extended)


def _of_vtep(neighbour: Neighbour, own: EvpnOrigination, vtep: OwnVtep) -> Iterator[EvpnAnnouncement]:
    attributes, extended = own_attributes(neighbour, draining=own.draining), _extended(neighbour, own)
    overlay = vtep.subnets[0].network_address
    # Who has the VNI for routing makes a route of it too, by the router's MAC (RFC 9135 §5.1); without one, FRR sends to none.
    addressed = extended | {router_mac(vtep.mac)}
    yield EvpnAnnouncement(EvpnRoute(MacIp(_rd(own), vtep.mac, overlay), own.vni), vtep.address, attributes, addressed)
    tunnel = replication_tunnel(vtep.address, own.vni)
    yield EvpnAnnouncement(EvpnRoute(Multicast(_rd(own), vtep.address)), vtep.address, attributes, extended, tunnel)


def _extended(neighbour: Neighbour, own: EvpnOrigination) -> frozenset[ExtendedCommunity]:
    return (own.targets or frozenset({automatic_target(neighbour.session.local_as, own.vni)})) | {VXLAN}


def _rd(own: EvpnOrigination) -> Rd:
    """One for all: this host has one table. A VNI's lower half tells it from another daemon's on the host, as a rule."""
    return distinguisher(own.router_id, own.vni & 0xFFFF)
