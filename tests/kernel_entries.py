"""Entries for property tests, from a universe so small that they meet in one slot."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

from hypothesis import strategies as st

from flanneld.kernel import Entry, FdbEntry, Hop, Neighbour, Owner, Route, RouteKind
from flanneld.lease import IPNetwork

POD_NETWORKS = (ip_network("10.244.0.0/16"), ip_network("fd44::/48"))
SUBNETS = tuple(map(ip_network, ("10.244.1.0/24", "10.244.2.0/24", "fd44:0:0:1::/64")))
FOREIGN_NETWORKS = tuple(map(ip_network, ("10.99.1.0/24", "fd99:0:0:1::/64")))
GATEWAYS = {4: ("192.0.2.2", "192.0.2.3"), 6: ("2001:db8::2", "2001:db8::3")}
"""On no device's own network: IPv6 refuses an onlink gateway that another device reaches."""
MACS = ("02:00:00:00:00:0a", "02:00:00:00:00:0b")
OTHERS_PROTOCOL = 4


@st.composite
def routes(draw: st.DrawFn, devices: tuple[int, ...]) -> Route:
    network: IPNetwork = draw(st.sampled_from(SUBNETS + FOREIGN_NETWORKS))
    protocol = draw(st.sampled_from((84, OTHERS_PROTOCOL)))
    metric = draw(st.sampled_from((0, 50)))
    if draw(st.booleans()) and draw(st.booleans()):
        return Route(network, kind=RouteKind.BLACKHOLE, protocol=protocol, metric=metric)
    if draw(st.booleans()):
        return Route.by(network, draw(hops(devices, network.version)), protocol, metric)
    gateway = draw(st.sampled_from((None, *map(ip_address, GATEWAYS[network.version]))))
    return Route(network, draw(st.sampled_from(devices)), gateway, gateway is not None, protocol, metric=metric)


def hops(devices: tuple[int, ...], version: int) -> st.SearchStrategy[frozenset[Hop]]:
    """One to four, by gateways of either family for IPv4 (RFC 8950)."""
    gateways = [ip_address(text) for family, texts in GATEWAYS.items() if family >= version for text in texts]
    each = st.builds(Hop, st.sampled_from(devices), st.sampled_from(gateways), st.just(value=True))
    return st.frozensets(each, min_size=1, max_size=4)


def neighbours(devices: tuple[int, ...]) -> st.SearchStrategy[Neighbour]:
    addresses = [ip_address(text) for texts in GATEWAYS.values() for text in texts]
    return st.builds(Neighbour, st.sampled_from(devices), st.sampled_from(addresses), st.sampled_from(MACS))


def fdb_entries(devices: tuple[int, ...], destinations: tuple[str, ...] = GATEWAYS[4]) -> st.SearchStrategy[FdbEntry]:
    return st.builds(
        FdbEntry, st.sampled_from(devices), st.sampled_from(MACS), st.sampled_from(list(map(ip_address, destinations)))
    )


def entries(devices: tuple[int, ...], vxlan_devices: tuple[int, ...]) -> st.SearchStrategy[Entry]:
    """Entries of each kind; FDB entries on VXLAN devices alone."""
    return st.one_of(routes(devices), neighbours(devices), fdb_entries(vxlan_devices))


def desired(owner: Owner, given: frozenset[Entry]) -> frozenset[Entry]:
    """Of these the ones that the owner may ask for: its own, one per slot."""
    return frozenset({entry.slot: entry for entry in sorted(given, key=repr) if owner.owns(entry)}.values())
