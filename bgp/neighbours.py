"""All BGP sessions that this host is to have, from its config and everybody's leases: pure; must not know how sessions are made.

Both ends of a session between hosts come to mirrored values: addresses, password, and who waits for the other (the one that has the
lower address). RFC 4271 §8, RFC 5082 (GTSM), RFC 5881 §3 (BFD on the link), RFC 6286 (router ids).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from ipaddress import IPv4Address

from bgp.config import BgpConfig
from bgp.hosts import HostView
from bgp.path import Asn, Community
from bgp.peer import MaxPrefix
from bgp.peering import HostPeering, RouterPeering
from bgp.policy import Rule
from bgp.session import Session
from bgp.settings import BfdTimers, SessionSettings
from bgp.topology import Role, Topology, distinct, labels_of
from flanneld.kernel import IPInterface
from flanneld.lease import FAMILIES, IPAddress, Subnets, family_of

OFF_LINK_TTL = 255
"""What hosts of different AS that are not on one link send with: eBGP's usual 1 would not get there."""


@dataclass(frozen=True, slots=True)
class Neighbour:
    """One session, and what holds for what is told in it."""

    session: Session
    role: Role
    imports: tuple[Rule, ...]
    exports: tuple[Rule, ...]
    max_prefix: MaxPrefix
    bfd: BfdTimers | None
    communities: frozenset[Community]
    """On what we announce to it."""
    host: Subnets | None = None
    """The lease's subnets, where it is a host: in the roles MESH and CLIENT it may announce these alone."""
    next_hop_self: bool = True
    """Of what we pass on to it. Hosts reach each other themselves, so a reflector leaves their next hops alone."""


@dataclass(frozen=True, slots=True)
class Neighbourhood:
    """All neighbours, and what stood in the way of more."""

    neighbours: tuple[Neighbour, ...]
    """Those of `Peers` by address first, in the config's order; then hosts in the order of their addresses."""
    refused: tuple[tuple[HostView, str], ...] = ()
    """Hosts with which there can be no session, and why, in words that go on after the host's name."""
    warnings: tuple[str, ...] = ()
    cluster_id: IPv4Address | None = None
    """What we mark our reflections with (RFC 4456 §7); None: we are no reflector."""

    @property
    def origins(self) -> Mapping[IPAddress, Subnets]:
        """The subnets of each host that speaks for itself alone, by its address."""
        hosts = (each for each in self.neighbours if each.role in (Role.MESH, Role.CLIENT))
        return {each.session.peer: each.host for each in hosts if each.host is not None}


def neighbours(
    config: BgpConfig, own: HostView, peers: Collection[HostView], uplink: Collection[IPInterface], passwords: Mapping[str, str]
) -> Neighbourhood:
    """Which sessions `own` is to have.

    `uplink`: our addresses with their networks, to tell who is on the link. `passwords`: the text of each of `password_files`; a
    session whose password is not there is left out, as without it anybody could have it.
    """
    hosts, refused = distinct(own, peers)
    drawer = _Drawer(config, own, Topology(config, own, hosts), tuple(uplink), passwords)
    externals, warnings = drawer.externals()
    if config.reflectors is not None and not drawer.topology.reflected:
        warnings.append("Backend.Reflectors: no host is one, so that hosts speak with each other as without reflectors")
    found = [*externals.values()]
    for host in hosts:
        taken = next((address for address in host.addresses if address in externals), None)
        if taken is not None:
            warnings.append(f"{taken} is in Peers, and an address of host {host}: the session with it is as Peers says")
            continue
        neighbour = drawer.host(host)
        if isinstance(neighbour, Neighbour):
            found.append(neighbour)
        elif neighbour is not None:
            refused.append((host, neighbour))
    return Neighbourhood(tuple(found), tuple(refused), tuple(warnings), drawer.cluster_id)


def password_files(config: BgpConfig, own: HostView) -> frozenset[str]:
    """The files that sessions of this host may need."""
    labels = labels_of(own)
    routers = (router.session for router in config.routers if router.select.matches(labels))
    settings = (config.session, *routers, *(link.session for link in config.links))
    return frozenset(each.password_file for each in settings if each.password_file)


@dataclass(frozen=True, slots=True)
class _Drawer:
    """What all sessions are drawn from."""

    config: BgpConfig
    own: HostView
    topology: Topology
    uplink: tuple[IPInterface, ...]
    passwords: Mapping[str, str]

    @property
    def cluster_id(self) -> IPv4Address | None:
        if not self.topology.reflecting:
            return None
        return self.config.cluster_id or IPv4Address(self.own.router_id)

    def externals(self) -> tuple[dict[IPAddress, Neighbour], list[str]]:
        """Our neighbours of `Peers` by address, and warnings about those with which there can be no session."""
        found: dict[IPAddress, Neighbour] = {}
        warnings = []
        for router in self.config.routers:
            if router.address in self.own.addresses or not router.select.matches(self.topology.labels):
                continue
            neighbour = self._external(router)
            if isinstance(neighbour, Neighbour):
                found[router.address] = neighbour
            else:
                warnings.append(f"{router.key}: no session with {router.address}: {neighbour}")
        return found, warnings

    def host(self, peer: HostView) -> Neighbour | str | None:
        """The session with another host; or why there can be none; None: there need not be one."""
        link = self.topology.link(peer)
        role = self.topology.role(peer, link)
        if role is None:
            return None
        settings = self.config.session if link is None else link.session
        ends = _ends(self.own, peer)
        families = tuple(family for family in self.own.families if family in peer.families)
        if ends is None or not families:
            return f"has no {'subnet' if ends else 'address'} of a family that {self.own} has one of"
        if peer.router_id == self.own.router_id:
            return f"has our router id {peer.router_id}, expected another: see RouterID in Hosts"
        if why := self._without_password(settings):
            return why
        local, address = ends
        session = self._session(self._on_the_way(settings, peer, address), local, address, peer.asn)
        session = replace(session, port=peer.port, passive=int(local) < int(address), families=families)
        neighbour = self._neighbour(session, role, settings, link)
        bfd = neighbour.bfd if self._on_link(address) else None
        return replace(neighbour, bfd=bfd, host=peer.subnets, next_hop_self=role is Role.MESH)

    def _external(self, router: RouterPeering) -> Neighbour | str:
        local = router.source or self.own.address(family_of(router.address))
        if local is None:
            return f"this host has no IPv{router.address.version} address"
        if why := self._without_password(router.session):
            return why
        session = self._session(router.session, local, router.address, router.asn)
        session = replace(session, port=router.port, passive=router.passive, families=router.families or self.own.families)
        return replace(self._neighbour(session, Role.EXTERNAL, router.session, router), next_hop_self=router.next_hop_self)

    def _session(self, settings: SessionSettings, local: IPAddress, peer: IPAddress, peer_as: Asn) -> Session:
        return Session(
            peer=peer,
            local=local,
            peer_as=peer_as,
            local_as=self.own.asn,
            router_id=self.own.router_id,
            password=self.passwords[settings.password_file] if settings.password_file else "",
            hold_time_s=settings.hold_time_s,
            ttl_security=settings.ttl_security,
            multihop=settings.multihop,
            graceful_restart_s=settings.graceful_restart_s,
        )

    def _neighbour(
        self, session: Session, role: Role, settings: SessionSettings, peering: HostPeering | RouterPeering | None
    ) -> Neighbour:
        added = frozenset[Community]() if peering is None else peering.communities
        return Neighbour(
            session=session,
            role=role,
            imports=settings.imports,
            exports=settings.exports,
            max_prefix=settings.max_prefix,
            bfd=settings.bfd,
            communities=self.topology.settings.communities | added,
        )

    def _on_the_way(self, settings: SessionSettings, peer: HostView, address: IPAddress) -> SessionSettings:
        """The settings as they can be where `address` is: beyond a router nothing arrives that GTSM of one hop takes."""
        if self._on_link(address):
            return settings
        hops = None if settings.ttl_security == 1 else settings.ttl_security
        far = hops is None and settings.multihop is None and peer.asn != self.own.asn
        return replace(settings, ttl_security=hops, multihop=OFF_LINK_TTL if far else settings.multihop)

    def _on_link(self, address: IPAddress) -> bool:
        return any(address in interface.network for interface in self.uplink)

    def _without_password(self, settings: SessionSettings) -> str | None:
        if not settings.password_file or settings.password_file in self.passwords:
            return None
        return f"the password in {settings.password_file} is not known"


def _ends(own: HostView, peer: HostView) -> tuple[IPAddress, IPAddress] | None:
    """Both hosts' addresses of the first family in which both have one."""
    for family in FAMILIES:
        ours, theirs = own.address(family), peer.address(family)
        if ours is not None and theirs is not None:
            return ours, theirs
    return None
