"""What one host is to be as a BGP router, from its settings and everybody's leases: pure; must not know how it becomes so.

Hosts publish in their vxlan leases, beside VNI and VtepMAC, what those of the bgp method publish: so each knows who speaks EVPN.
Who does not know the keys, as Go flannel, passes over them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace

from bgp.aim import Aim
from bgp.evpn.exports import EvpnOrigination, OwnVtep
from bgp.evpn.paths import EvpnPolicy
from bgp.evpn.settings import EvpnSettings
from bgp.exports import Origination
from bgp.hosts import BgpData, HostView, own_view, peer_view
from bgp.local import Asked
from bgp.neighbours import Neighbourhood, neighbours
from flanneld.backend import Identity, Uplink
from flanneld.lease import Family, IPAddress, IPNetwork, Lease, LeaseAttrs, Pool, Subnets


@dataclass(frozen=True, slots=True)
class Viewpoint:
    """A host, and what stays as it is while it is attached."""

    settings: EvpnSettings
    identity: Identity
    uplink: Uplink
    pools: tuple[Pool, ...]
    macs: Mapping[Family, str]
    """Of our VTEPs."""
    may_be_vtep: Callable[[IPAddress], bool]
    """True for an address that packets can be sent to."""

    def own(self, subnets: Subnets) -> HostView:
        """This host, with its lease's subnets."""
        identity = self.identity
        return own_view(self.settings.bgp, identity.name, identity.labels, self.uplink.public_ips, subnets)

    def aim(self, own: HostView, peers: Mapping[IPNetwork, HostView | None], asked: Asked, passwords: Mapping[str, str]) -> Aim:
        """What the router is to be; `peers`: all other subnets, with the hosts that speak EVPN."""
        hosts = list({id(host): host for host in peers.values() if host is not None}.values())
        found = by_evpn(neighbours(self.settings.bgp, own, hosts, self.uplink.addresses, passwords))
        vteps = tuple(self._vteps(own.subnets, asked.announced))
        evpn = EvpnOrigination(self.settings.vni, own.router_id, vteps, self.settings.targets, asked.draining)
        origination = Origination(own.subnets, asked.announced, own.addresses, asked.draining)
        return Aim(found, origination, self._policy(own, hosts, found, asked), evpn)

    def _vteps(self, subnets: Subnets, announced: Collection[IPNetwork]) -> Collection[OwnVtep]:
        found = []
        for family, mac in self.macs.items():
            address = self.uplink.public_ip(family)
            ours = [subnet for subnet in subnets if subnet.version == family]
            if address is not None and ours:
                besides = sorted((prefix for prefix in announced if prefix.version == family), key=str)
                found.append(OwnVtep(address, mac, (*ours, *besides)))
        return found

    def _policy(self, own: HostView, hosts: Collection[HostView], found: Neighbourhood, asked: Asked) -> EvpnPolicy:
        return EvpnPolicy(
            pools=self.pools,
            own_subnets=own.subnets,
            own_addresses=frozenset((*own.addresses, *(address.ip for address in self.uplink.addresses))),
            known_hosts=frozenset(address for host in hosts for address in host.addresses),
            on_link=self.may_be_vtep,
            host_routes=self.settings.bgp.allow_host_routes,
            owner_approved=asked.released,
            origin_of=found.origins,
            vni=self.settings.vni,
            imported=self.settings.targets,
            own_macs=frozenset(self.macs.values()),
        )


def by_evpn(found: Neighbourhood) -> Neighbourhood:
    """The same sessions, for EVPN alone."""
    sessions = (replace(each.session, families=(), evpn=True) for each in found.neighbours)
    changed = (replace(each, session=session) for each, session in zip(found.neighbours, sessions, strict=True))
    return replace(found, neighbours=tuple(changed))


def published(attrs: LeaseAttrs, data: BgpData) -> LeaseAttrs:
    """A vxlan lease's attributes, with what BGP wants to know of a host."""
    besides = json.loads(data.render())
    said = ((family, json.dumps(json.loads(vtep) | besides, separators=(",", ":"))) for family, vtep in attrs.backend_data)
    return replace(attrs, backend_data=tuple(said))


def view(peer: Lease) -> HostView | None:
    """The host as BGP sees it; None for one that does not speak EVPN."""
    try:
        return peer_view(peer)
    except ValueError:
        return None
