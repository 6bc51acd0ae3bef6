"""What BGP peers may say, in short, for tests of what is made of it: we are 10.0.0.1 in AS 64512, the peers are 10.0.0.2 and on."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, ip_address, ip_network

from bgp.admission import ImportPolicy
from bgp.path import Asn, AsPath, Attributes, Community, Origin, Path
from bgp.peer import MaxPrefix, PeerInfo
from bgp.policy import Rule
from bgp.rib import Rib
from bgp.session import Session
from flanneld.lease import IPAddress, Pool

OUR_AS = Asn(64512)
US = ip_address("10.0.0.1")
LINK = ip_network("10.0.0.0/24")
POOL = Pool(ip_network("10.244.0.0/16"), 24, ip_network("10.244.1.0/24"), ip_network("10.244.255.0/24"))
OUR_SUBNET = ip_network("10.244.1.0/24")
SERVICES = ip_network("10.96.0.0/12")
SERVICE, SUBNET = "10.96.0.1/32", "10.244.9.0/24"
"""A Service's address, and another host's subnet."""


def is_on_link(address: IPAddress) -> bool:
    return address in LINK


POLICY = ImportPolicy(
    pools=(POOL,),
    own_subnets=(OUR_SUBNET,),
    own_addresses=frozenset((US, ip_address("10.244.1.1"))),
    on_link=is_on_link,
    services=(SERVICES,),
)


def peer(number: int) -> IPAddress:
    """The address of that host: 10.0.0.number."""
    return ip_address(f"10.0.0.{number}")


def session(number: int, asn: int = OUR_AS) -> Session:
    """Ours with that host; iBGP unless its AS is another."""
    return Session(peer(number), US, Asn(asn), OUR_AS, str(US))


def info(number: int, asn: int = OUR_AS, *, rules: tuple[Rule, ...] = (), limit: MaxPrefix | None = None) -> PeerInfo:
    """That host, whose router id is its address."""
    return PeerInfo(session(number, asn), str(peer(number)), rules, limit)


def told(
    number: int,
    prefix: str,
    *,
    via: str | None = None,
    ases: tuple[int, ...] = (),
    sets: tuple[frozenset[Asn], ...] = (),
    path_id: int = 0,
    attributes: Attributes | None = None,
) -> Path:
    """The path that this host announces, by itself unless `via` says otherwise."""
    base = attributes or Attributes()
    path = replace(base, as_path=AsPath(tuple(map(Asn, ases)), sets))
    return Path(ip_network(prefix), ip_address(via) if via else peer(number), peer(number), path, path_id)


def said(
    local_pref: int | None = None,
    med: int | None = None,
    *,
    origin: Origin = Origin.IGP,
    communities: tuple[Community, ...] = (),
    originator: str | None = None,
    clusters: tuple[str, ...] = (),
) -> Attributes:
    """Attributes, for `told`."""
    return Attributes(
        origin=origin,
        local_pref=local_pref,
        med=med,
        communities=frozenset(communities),
        originator_id=IPv4Address(originator) if originator else None,
        cluster_list=tuple(map(IPv4Address, clusters)),
    )


def rib_of(*paths: Path, peers: int = 12, max_paths: int = 8) -> Rib:
    """A RIB that internal peers have told these paths."""
    rib = Rib(POLICY, max_paths)
    for number in range(2, peers + 1):
        rib.add_peer(info(number))
        rib.up(peer(number))
    for path in paths:
        rib.announced(path.peer, [path])
    return rib


def chosen(rib: Rib, prefix: str) -> list[int]:
    """The hosts that the prefix's traffic goes to, by number, best first."""
    return [int(path.next_hop) & 255 for path in rib.choices().get(ip_network(prefix), ())]
