"""What must hold of every announcement that we take, whatever the rules say: nobody's mistake may break the pod network.

The speaker hands on everything that is well formed: default routes, our own subnet, our own address as next hop, and what has come
round in a circle. RFC 4271 §5.1.2, §5.1.3, §9.1.2 (loops, next hop); RFC 4456 §8 (reflection); RFC 8326 (graceful shutdown).
Must not know where the announcements come from, nor what is chosen among them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from ipaddress import IPv4Address, ip_network
from types import MappingProxyType

from bgp.path import GRACEFUL_SHUTDOWN, Path
from bgp.policy import Rule, decide
from bgp.session import Session
from flanneld.lease import IPAddress, IPNetwork, Pool, Subnets, inside

MARTIANS: Mapping[int, tuple[str, ...]] = {
    4: ("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "240.0.0.0/4"),
    6: ("::/127", "::ffff:0:0/96", "fe80::/10", "ff00::/8"),
}
"""Never routed (RFC 6890), by IP version; the private and the shared ranges are."""
MARTIAN_RANGES: Mapping[int, tuple[tuple[int, int, IPNetwork], ...]] = {
    version: tuple((int(net.network_address), int(net.broadcast_address), net) for net in map(ip_network, texts))
    for version, texts in MARTIANS.items()
}
"""The same as first and last address: every announcement is looked up here, twice."""


class Reason(Enum):
    """Why an announcement is refused, in a word that metrics and counters use."""

    AS_LOOP = "as-loop"
    FIRST_AS = "first-as"
    ORIGINATOR = "originator"
    CLUSTER = "cluster"
    DEFAULT_ROUTE = "default-route"
    MARTIAN = "martian"
    OWN_SUBNET = "own-subnet"
    HOST_ADDRESS = "host-address"
    NO_POOL = "no-pool"
    LENGTH = "length"
    NOT_ITS_LEASE = "not-its-lease"
    ELSEWHERE = "elsewhere"
    NEXT_HOP_OWN = "next-hop-own"
    NEXT_HOP_MARTIAN = "next-hop-martian"
    NEXT_HOP_OFF_LINK = "next-hop-off-link"
    ROUTE_TARGET = "route-target"
    VNI = "vni"
    ENCAPSULATION = "encapsulation"
    ROUTER_MAC = "router-mac"
    GATEWAY = "gateway"
    RULE = "rule"
    LIMIT = "limit"


@dataclass(frozen=True, slots=True)
class Refusal:
    """An announcement that is not taken."""

    reason: Reason
    words: str
    """The value, and what was expected."""

    def __str__(self) -> str:
        return self.words


@dataclass(frozen=True, slots=True)
class ImportPolicy:
    """What we take from peers."""

    pools: tuple[Pool, ...]
    """A prefix is one of their subnets, or an address of theirs (`host_routes`)."""
    own_subnets: Subnets = ()
    """Our lease's: nobody else may have them, nor a part of them."""
    own_addresses: frozenset[IPAddress] = frozenset()
    """All of this host's."""
    known_hosts: frozenset[IPAddress] = frozenset()
    """Addresses of the pod network's hosts, as their leases tell, and of neighbours, which may be several hops away."""
    on_link: Callable[[IPAddress], bool] = lambda address: False
    """True if an address is on a link to other hosts (that of our pods is none); a next hop is such, or a known host."""
    services: tuple[IPNetwork, ...] = ()
    """These and all parts of them are taken too: Service addresses, which several hosts may announce; not from hosts in
    `origin_of`, which would draw the traffic that each host can serve itself."""
    host_routes: bool = True
    """A /32 (/128) of a pool is taken: a pod that has moved, and kept its address."""
    owner_approved: frozenset[IPNetwork] = frozenset()
    """Addresses of our own subnet whose pod has moved away with our consent."""
    origin_of: Mapping[IPAddress, Subnets] = field(default_factory=lambda: MappingProxyType({}))
    """The subnets that a peer may announce, by the peer's address, for hosts that speak for themselves; a peer that is not in
    here, a reflector or a router, may speak for others."""
    elsewhere: frozenset[IPNetwork] = frozenset()
    """Subnets of hosts that another method reaches."""
    cluster_id: IPv4Address | None = None
    """Ours, when we reflect."""

    def admit(self, path: Path, session: Session, rules: tuple[Rule, ...] = ()) -> Path | Refusal:
        """The path as it counts for us, the very object where nothing of it changes; or why it does not."""
        refusal = self.refuse(path, session)
        if refusal is not None:
            return refusal
        verdict = decide(rules, path if session.internal else without_internals(path), session.local_as, session.peer_as)
        if isinstance(verdict, str):
            return Refusal(Reason.RULE, f"prefix {path.prefix}: {verdict}")
        return shut_down(verdict) if GRACEFUL_SHUTDOWN in verdict.attributes.communities else verdict

    def refuse(self, path: Path, session: Session) -> Refusal | None:
        """Why the path cannot be taken, with the value and what was expected; None if it can."""
        # What has come round in a circle is said first: our own subnet, reflected to us, is no other host's claim on it.
        return self._loop(path, session) or self._prefix(path) or self._next_hop(path.next_hop)

    def _loop(self, path: Path, session: Session) -> Refusal | None:
        attributes = path.attributes
        as_path = attributes.as_path
        if session.local_as in as_path:
            return Refusal(Reason.AS_LOOP, f"AS path {as_path} has our AS {session.local_as}, expected one without")
        if not session.internal and as_path.sequence[:1] != (session.peer_as,):
            return Refusal(
                Reason.FIRST_AS, f"AS path {str(as_path) or 'of no AS'} does not begin with the peer's AS {session.peer_as}"
            )
        if path.next_hop in self.own_addresses:
            return Refusal(Reason.NEXT_HOP_OWN, f"next hop {path.next_hop} is this host, expected another")
        originator = attributes.originator_id
        if originator is not None and str(originator) == session.router_id:
            return Refusal(Reason.ORIGINATOR, f"originator {originator} is ourselves, expected another")
        if self.cluster_id is not None and self.cluster_id in attributes.cluster_list:
            return Refusal(Reason.CLUSTER, f"cluster list has our cluster {self.cluster_id}, expected one without")
        return None

    def _prefix(self, path: Path) -> Refusal | None:
        prefix = path.prefix
        if not prefix.prefixlen:
            return Refusal(Reason.DEFAULT_ROUTE, f"prefix {prefix} is the default route, expected a part of the pod network")
        martian = martian_of(prefix)
        if martian is not None:
            return Refusal(Reason.MARTIAN, f"prefix {prefix} overlaps {martian}, which is never routed")
        for own in self.own_subnets:
            if own.version == prefix.version and own.overlaps(prefix) and not self._moved(prefix):
                return Refusal(Reason.OWN_SUBNET, f"prefix {prefix} overlaps our own subnet {own}")
        return self._place(path)

    def _moved(self, prefix: IPNetwork) -> bool:
        return prefix in self.owner_approved and prefix.prefixlen == prefix.max_prefixlen

    def _place(self, path: Path) -> Refusal | None:
        """Where the prefix lies, and whose that is."""
        prefix, lease = path.prefix, self.origin_of.get(path.peer)
        if prefix in self.elsewhere:
            return Refusal(Reason.ELSEWHERE, f"prefix {prefix} is leased by a host that is not reached by BGP")
        is_host, address = prefix.prefixlen == prefix.max_prefixlen, prefix.network_address
        if is_host and (address in self.own_addresses or address in self.known_hosts):
            return Refusal(Reason.HOST_ADDRESS, f"prefix {prefix} is a host's own address, expected a pod's or a Service's")
        for pool in self.pools:
            if inside(prefix, pool.network):
                return self._length(prefix, pool) or (None if is_host else not_of(lease, path))
        if any(inside(prefix, network) for network in self.services):
            return not_of(lease, path)
        return Refusal(Reason.NO_POOL, f"prefix {prefix} is in no pool")

    def _length(self, prefix: IPNetwork, pool: Pool) -> Refusal | None:
        lengths = [pool.subnet_len, *([prefix.max_prefixlen] if self.host_routes else [])]
        if prefix.prefixlen in lengths:
            return None
        expected = " or ".join(f"/{length}" for length in lengths)
        return Refusal(Reason.LENGTH, f"prefix {prefix} of the pool {pool.network}: expected {expected}, got /{prefix.prefixlen}")

    def _next_hop(self, next_hop: IPAddress) -> Refusal | None:
        martian = _martian(next_hop.version, int(next_hop), int(next_hop))
        if martian is not None:
            return Refusal(Reason.NEXT_HOP_MARTIAN, f"next hop {next_hop} is in {martian}, which is never routed")
        if next_hop in self.known_hosts or self.on_link(next_hop):
            return None
        return Refusal(Reason.NEXT_HOP_OFF_LINK, f"next hop {next_hop} is neither on a link of ours nor a known host")

    def opens(self, before: ImportPolicy, reasons: frozenset[Reason]) -> bool:
        """True if what `before` refused for one of the reasons may pass now."""
        return any(BASIS[reason](self) != BASIS[reason](before) for reason in reasons if reason in BASIS) or MOVING in reasons

    def is_exclusive(self, prefix: IPNetwork) -> bool:
        """True for pods' prefixes, which are at one host each; a Service's may be at several."""
        return any(inside(prefix, pool.network) for pool in self.pools)


BASIS: Mapping[Reason, Callable[[ImportPolicy], object]] = {
    Reason.CLUSTER: lambda policy: policy.cluster_id,
    Reason.OWN_SUBNET: lambda policy: (policy.own_subnets, policy.owner_approved),
    Reason.HOST_ADDRESS: lambda policy: (policy.own_addresses, policy.known_hosts),
    Reason.NO_POOL: lambda policy: (policy.pools, policy.services),
    Reason.LENGTH: lambda policy: (policy.pools, policy.host_routes),
    Reason.NOT_ITS_LEASE: lambda policy: policy.origin_of,
    Reason.ELSEWHERE: lambda policy: policy.elsewhere,
    Reason.NEXT_HOP_OWN: lambda policy: policy.own_addresses,
}
"""What of the policy a reason hangs on, where it can change."""
MOVING = Reason.NEXT_HOP_OFF_LINK
"""Hangs on the links besides, which change without the policy."""


def not_of(lease: Subnets | None, path: Path) -> Refusal | None:
    """The refusal of a prefix that is not in the lease of the one host that its peer speaks for; None: it speaks for others too."""
    if lease is None or path.prefix in lease:
        return None
    expected = " or ".join(map(str, lease)) or "none"
    return Refusal(Reason.NOT_ITS_LEASE, f"prefix {path.prefix} is not of the lease of {path.peer}, expected {expected}")


def martian_of(prefix: IPNetwork) -> IPNetwork | None:
    """The range that is never routed and that shares an address with `prefix`."""
    first = int(prefix.network_address)
    last = first + (1 << (prefix.max_prefixlen - prefix.prefixlen)) - 1
    return _martian(prefix.version, first, last)


def _martian(version: int, first: int, last: int) -> IPNetwork | None:
    for low, high, network in MARTIAN_RANGES[version]:
        if first <= high and last >= low:
            return network
    return None


def without_internals(path: Path) -> Path:
    """The path without what only a peer of our own AS may say (RFC 4271 §5.1.5, RFC 7606 §7.9 and §7.10)."""
    said = path.attributes
    if said.local_pref is None and said.originator_id is None and not said.cluster_list:
        return path
    return replace(path, attributes=replace(said, local_pref=None, originator_id=None, cluster_list=()))


def shut_down(path: Path) -> Path:
    """The path as the last resort that its sender, who is about to leave, wants it to be (RFC 8326 §4.1)."""
    return replace(path, attributes=replace(path.attributes, local_pref=0))
