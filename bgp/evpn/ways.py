"""The RIB's choices as leases, which vxlan plans as it plans every lease: pure; must not know the kernel, nor sessions.

A peer is reached as EVPN says, for each subnet of which it says anything; as its lease says for the others, for it may be a host
that speaks no BGP. What EVPN has besides, a router's subnets, is as if the router had a lease.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from bgp.evpn.paths import EvpnPath
from bgp.path import Path
from flanneld.backends.vtep import Vni, Vtep, parse_vtep
from flanneld.lease import IPAddress, IPNetwork, Lease, LeaseAttrs, family_of

BACKEND_TYPE = "vxlan"


@dataclass(slots=True)
class Ways:
    """What stays as it was is the same object as the last time, so that its plan stays too."""

    vni: Vni
    _known: dict[Lease, Lease] = field(default_factory=dict)

    def leases(self, peers: Collection[Lease], choices: Mapping[IPNetwork, tuple[Path, ...]]) -> tuple[list[Lease], list[Lease]]:
        """For each peer, in order, the lease that says how it is reached, which is the peer's own where EVPN says the same; and
        those of prefixes that are no peer's.
        """  # fmt: skip
        before, self._known = self._known, {}
        reached = [self._kept(before, self._reached(peer, choices)) for peer in peers]
        leased = {subnet for peer in peers for subnet in peer.subnets}
        vteps = {subnet.network_address for subnet in (*leased, *choices) if subnet.prefixlen < subnet.max_prefixlen}
        others = [paths[0] for prefix, paths in choices.items() if prefix not in leased and not _is_one(prefix, vteps)]
        behind = [self._kept(before, self._behind(path)) for path in others if isinstance(path, EvpnPath)]
        return reached, behind

    def _kept(self, before: Mapping[Lease, Lease], lease: Lease) -> Lease:
        """The very object of the last time, if there is an equal one."""
        known = before.get(lease, lease)
        self._known[known] = known
        return known

    def _reached(self, peer: Lease, choices: Mapping[IPNetwork, tuple[Path, ...]]) -> Lease:
        found = [choices[subnet][0] for subnet in peer.subnets if subnet in choices]
        said = [path for path in found if isinstance(path, EvpnPath)]
        if all(_says(peer.attrs, path) for path in said):
            return peer
        return Lease(peer.subnets, self._attrs(said, peer.attrs))

    def _behind(self, path: EvpnPath) -> Lease:
        return Lease((path.prefix,), self._attrs([path], LeaseAttrs(())))

    def _attrs(self, paths: Sequence[EvpnPath], otherwise: LeaseAttrs) -> LeaseAttrs:
        addresses = {family_of(ip): ip for ip in otherwise.public_ips}
        addresses |= {family_of(path.prefix): path.next_hop for path in paths}
        data = dict(otherwise.backend_data) | {family_of(path.prefix): Vtep(self.vni, path.mac).render() for path in paths}
        return LeaseAttrs(tuple(addresses[family] for family in sorted(addresses)), BACKEND_TYPE, tuple(sorted(data.items())))


def _says(attrs: LeaseAttrs, path: EvpnPath) -> bool:
    """True if the lease says of the path's family just what the path does."""
    family = family_of(path.prefix)
    try:
        vtep = parse_vtep(attrs.data(family))
    except ValueError:
        return False
    return (attrs.public_ip(family), vtep.mac, vtep.vni) == (path.next_hop, path.mac, path.vni)


def _is_one(prefix: IPNetwork, vteps: Collection[IPAddress]) -> bool:
    """True for the address of a VTEP itself, which its subnet's route leads to."""
    return prefix.prefixlen == prefix.max_prefixlen and prefix.network_address in vteps
