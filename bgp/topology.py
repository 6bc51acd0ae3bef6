"""Which hosts have a session with which, and as what; must not know what sessions are like.

All hosts have the same config and see the same leases, so both ends of a session come to the same answer. Without reflectors every
two hosts with `Mesh` have one. With reflectors (RFC 4456) every host has one with each of them, and else only two hosts with `Mesh`
of an AS in which there is no reflector: what one of another AS passes on has their own AS in its path, and they could not take it.
Whom an entry of `Peers` brings together has one in any case.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from enum import Enum

from bgp.config import BgpConfig, Reflectors
from bgp.hosts import HostView, selectable
from bgp.peering import HostPeering
from flanneld.lease import IPAddress


class Role(Enum):
    """What a neighbour is to us."""

    MESH = "mesh"
    """A host, which announces its own."""
    REFLECTOR = "reflector"
    """A host, which announces what others told it, too."""
    CLIENT = "client"
    """A host, to which we are one."""
    EXTERNAL = "external"
    """No host of the pod network."""


class Topology:
    """All hosts of the network, seen from one of them."""

    def __init__(self, config: BgpConfig, own: HostView, peers: Collection[HostView]) -> None:
        self._config = config
        self._own = own
        self.labels = labels_of(own)
        """What selectors see of this host."""
        self.settings = config.of_host(self.labels)
        """What this host is configured with."""
        chosen = reflectors(config.reflectors, [own, *peers])
        self._reflectors = frozenset(host.addresses for host in chosen)
        self._reflected_asns = frozenset(host.asn for host in chosen)

    @property
    def reflected(self) -> bool:
        """True if there is a reflector."""
        return bool(self._reflectors)

    @property
    def reflecting(self) -> bool:
        """True if this host is a reflector."""
        return self._own.addresses in self._reflectors

    def link(self, peer: HostView) -> HostPeering | None:
        """The first entry of `Peers` by which we have a session with that host, or it with us."""
        labels = labels_of(peer) if self._config.links else {}
        for link in self._config.links:
            ours = link.select.matches(self.labels) and link.chooses(labels, peer.asn)
            if ours or (link.select.matches(labels) and link.chooses(self.labels, self._own.asn)):
                return link
        return None

    def role(self, peer: HostView, link: HostPeering | None) -> Role | None:
        """What that host is to us; None: we have no session with it."""
        if peer.addresses in self._reflectors:
            return Role.REFLECTOR
        if self.reflecting:
            return Role.CLIENT
        return Role.MESH if link is not None or self._meshed(peer) else None

    def _meshed(self, peer: HostView) -> bool:
        if self._reflectors and (peer.asn != self._own.asn or peer.asn in self._reflected_asns):
            return False
        return self.settings.mesh and self._config.of_host(labels_of(peer)).mesh


def reflectors(rule: Reflectors | None, hosts: Iterable[HostView]) -> tuple[HostView, ...]:
    """The hosts that reflect. By `count` it is those that come first in an order in which each has a place of its own, for good:
    so a host that joins or leaves changes one of them at most.
    """  # fmt: skip
    if rule is None:
        return ()
    select = rule.select
    if select is not None:
        return tuple(host for host in hosts if select.matches(labels_of(host)))
    return tuple(sorted(hosts, key=_place)[: rule.count])


def labels_of(host: HostView) -> Mapping[str, str]:
    """What selectors see of it."""
    return selectable(host.name, host.labels, host.addresses)


def distinct(own: HostView, peers: Collection[HostView]) -> tuple[list[HostView], list[tuple[HostView, str]]]:
    """Every other host once, in the order of addresses; and who is refused, and why. A host may have left a lease behind, so have
    two; but of two hosts with one address only one can be right.
    """  # fmt: skip
    found: dict[IPAddress, HostView] = dict.fromkeys(own.addresses, own)
    refused = []
    for peer in sorted(peers, key=lambda peer: (address_order(peer.addresses), peer.name, str(peer.subnets))):
        other = next((found[address] for address in peer.addresses if address in found), None)
        if not peer.addresses:
            refused.append((peer, "has no public address"))
        elif other is None:
            found |= dict.fromkeys(peer.addresses, peer)
        elif (other.name, other.addresses) != (peer.name, peer.addresses):
            refused.append((peer, f"has an address of {'our own' if other is own else f'host {other}'}"))
        elif other is not own:
            both = tuple(dict.fromkeys(other.subnets + peer.subnets))
            found |= dict.fromkeys(peer.addresses, replace(other, subnets=both))
    return [host for host in {host.addresses: host for host in found.values()}.values() if host is not own], refused


def address_order(addresses: Iterable[IPAddress]) -> tuple[tuple[int, int], ...]:
    """A key to sort by, of both families."""
    return tuple((address.version, int(address)) for address in addresses)


def _place(host: HostView) -> tuple[bytes, tuple[tuple[int, int], ...]]:
    """By hash: neighbours in number are often neighbours in the rack, and would fail together."""
    return hashlib.sha256(f"reflector {host.router_id}".encode()).digest(), address_order(host.addresses)
