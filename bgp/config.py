"""The bgp backend's settings, the `Backend` object of the network config, as values: defaults, ranges; must not know any host.

Letter case of keys does not matter. An unknown key inside a nested object is an error: what it was meant to forbid would happen.
Wrong values raise ConfigError, which names the key's whole path. Passwords are not in here, only the files that hold them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address

from bgp.path import Asn, Community
from bgp.peering import HostPeering, RouterPeering, parse_peerings
from bgp.section import Section, read_network
from bgp.selector import EVERY_HOST, Selector
from bgp.session import BGP_PORT
from bgp.settings import SessionSettings, read_asn, read_communities, read_router_id, read_selector, read_session
from flanneld.config import ConfigError
from flanneld.lease import IPNetwork

KEYS = frozenset(
    {"as", "port", "hosts", "mesh", "reflectors", "clusterid", "peers", "communities", "maxpaths", "services", "allowhostroutes"}
    | {"holdtime", "gracefulrestart", "ttlsecurity", "passwordfile", "bfd", "maxprefix", "import", "export"}
)
"""What `parse` knows, in lower case."""
DEFAULT_ASN = Asn(64512)
"""The first of those for private use (RFC 6996)."""
MOST_PATHS = 64
LEAST_REFLECTORS = 2
"""As long as there are so many hosts: with one, its loss would be the loss of all routes."""


@dataclass(frozen=True, slots=True)
class HostRule:
    """One entry of `Hosts`: what some hosts have otherwise than all. None: not said here."""

    select: Selector = EVERY_HOST
    asn: Asn | None = None
    router_id: IPv4Address | None = None
    communities: frozenset[Community] | None = None
    mesh: bool | None = None


@dataclass(frozen=True, slots=True)
class HostSettings:
    """What one host is configured with."""

    asn: Asn
    router_id: IPv4Address | None
    """None: what follows from its addresses."""
    communities: frozenset[Community]
    mesh: bool


@dataclass(frozen=True, slots=True)
class Reflectors:
    """Which hosts pass on what others announce (RFC 4456): those that `select` chooses, or `count` of all hosts."""

    select: Selector | None = None
    count: int = LEAST_REFLECTORS
    """Where nothing is selected; `LEAST_REFLECTORS` at least."""


@dataclass(frozen=True, slots=True)
class BgpConfig:
    """What the user wrote, checked."""

    asn: Asn = DEFAULT_ASN
    port: int = BGP_PORT
    """Where hosts listen."""
    mesh: bool = True
    """Every host has a session with every other, unless there are reflectors."""
    session: SessionSettings = field(default_factory=SessionSettings)
    """Of the mesh; those of `Peers` start from it."""
    communities: frozenset[Community] = frozenset()
    """On all that hosts announce."""
    max_paths: int = 8
    """So many next hops one route has at most, 1 to 64: what switches commonly bear."""
    hosts: tuple[HostRule, ...] = ()
    reflectors: Reflectors | None = None
    cluster_id: IPv4Address | None = None
    """What reflectors know their own reflections by (RFC 4456 §7). None, as it should be: each has its router id. With one for
    all, a reflector does not take from another what the other alone was told."""
    routers: tuple[RouterPeering, ...] = ()
    """The entries of `Peers` by Address."""
    links: tuple[HostPeering, ...] = ()
    """Those by SelectPeer."""
    services: tuple[IPNetwork, ...] = ()
    """Networks of service addresses, out of which any prefix may be announced."""
    allow_host_routes: bool = False
    """A host may announce single addresses out of another's subnet, of pods that moved; off, as it may then claim any pod's."""

    def of_host(self, labels: Mapping[str, str]) -> HostSettings:
        """What holds for the host with these labels: of each setting, what the first rule that matches and has it says."""
        rules = [rule for rule in self.hosts if rule.select.matches(labels)]
        return HostSettings(
            asn=next((rule.asn for rule in rules if rule.asn is not None), self.asn),
            router_id=next((rule.router_id for rule in rules if rule.router_id is not None), None),
            communities=next((rule.communities for rule in rules if rule.communities is not None), self.communities),
            mesh=next((rule.mesh for rule in rules if rule.mesh is not None), self.mesh),
        )


def parse(config: Mapping[str, object]) -> BgpConfig:
    """Read the `Backend` object; raises ConfigError. Unknown keys of the object itself are the caller's to warn of."""
    section = Section(config)
    session = read_session(section, SessionSettings())
    peerings = parse_peerings(section, session)
    return BgpConfig(
        asn=read_asn(section, DEFAULT_ASN),
        port=section.number("Port", 1, 65535, BGP_PORT),
        mesh=section.flag("Mesh", default=True),
        session=session,
        communities=read_communities(section) or frozenset(),
        max_paths=section.number("MaxPaths", 1, MOST_PATHS, 8),
        hosts=tuple(map(_host_rule, section.sections("Hosts"))),
        reflectors=_reflectors(section),
        cluster_id=read_router_id(section, "ClusterID"),
        routers=tuple(peering for peering in peerings if isinstance(peering, RouterPeering)),
        links=tuple(peering for peering in peerings if isinstance(peering, HostPeering)),
        services=section.listed("Services", _services, "a network like 10.96.0.0/12"),
        allow_host_routes=section.flag("AllowHostRoutes", default=False),
    )


def _host_rule(section: Section) -> HostRule:
    rule = HostRule(
        select=read_selector(section, "Select") or EVERY_HOST,
        asn=read_asn(section, None),
        router_id=read_router_id(section, "RouterID"),
        communities=read_communities(section),
        mesh=section.flag("Mesh", default=None),
    )
    section.finish()
    return rule


def _reflectors(section: Section) -> Reflectors | None:
    part = section.section("Reflectors")
    if part is None:
        return None
    select, count = read_selector(part, "Select"), part.number("Count", 1, 1000, None)
    part.finish()
    if (select is None) is (count is None):
        raise ConfigError(part.path, f"expected one of Select and Count, got {'neither' if select is None else 'both'}")
    return Reflectors(select, max(count or 0, LEAST_REFLECTORS))


def _services(text: str) -> IPNetwork:
    network = read_network(text)
    if "/" not in text or not network.prefixlen or network.is_multicast:
        raise ValueError(f"{text} is no network of service addresses")
    return network
