"""Hosts for tests of BGP: n = 1, 2, ... at 10.0.0.n and fd00:10::n, with pods in 10.244.n.0/24 and fd00:244:0:n::/64."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from ipaddress import ip_address, ip_interface, ip_network

from bgp.config import BgpConfig, parse
from bgp.hosts import HostView, own_view
from bgp.neighbours import Neighbour, Neighbourhood, neighbours
from flanneld.kernel import IPInterface
from flanneld.lease import Family

PASSWORDS = {"/mesh": "between hosts", "/edge": "with the edge", "/router": "with the router"}


def config_of(**settings: object) -> BgpConfig:
    """The keys of the `Backend` object, as a user writes them."""
    return parse({key.lower(): value for key, value in settings.items()})


def host(
    config: BgpConfig, n: int, labels: Mapping[str, str] | None = None, families: Iterable[Family] = (4,), segment: int = 0
) -> HostView:
    """Host n, named after it, on 10.0.<segment>.0/24 and fd00:10:0:<segment>::/64."""
    addresses = {4: f"10.0.{segment}.{n}", 6: f"fd00:10:0:{segment}::{n}"}
    subnets = {4: f"10.244.{n}.0/24", 6: f"fd00:244:0:{n}::/64"}
    own = sorted(families)
    places = tuple(ip_address(addresses[family]) for family in own)
    return own_view(config, f"h{n}", labels or {}, places, tuple(ip_network(subnets[family]) for family in own))


def uplink_of(view: HostView) -> tuple[IPInterface, ...]:
    """Its addresses with the networks of its segment."""
    return tuple(ip_interface((address, 24 if address.version == 4 else 64)) for address in view.addresses)


def seen_by(
    config: BgpConfig, own: HostView, peers: Collection[HostView], passwords: Mapping[str, str] = PASSWORDS
) -> Neighbourhood:
    """All sessions of one host."""
    return neighbours(config, own, peers, uplink_of(own), passwords)


def between(config: BgpConfig, own: HostView, peer: HostView, *others: HostView) -> Neighbour | None:
    """What `own` has with `peer`."""
    found = seen_by(config, own, [peer, *others]).neighbours
    return next((each for each in found if each.session.peer in peer.addresses), None)
