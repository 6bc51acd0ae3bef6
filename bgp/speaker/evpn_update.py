"""What an UPDATE in exabgp's JSON (5.0) says of EVPN, as events; must not know what else it says.

Routes are read from their bytes, which exabgp hands on beside its own reading of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from ipaddress import ip_address
from typing import Any

from bgp.events import EvpnAnnounced, EvpnWithdrawn
from bgp.evpn.announcement import EvpnAnnouncement
from bgp.evpn.communities import ExtendedCommunity
from bgp.evpn.routes import EvpnRoute, Key, decode_route
from bgp.path import Attributes
from flanneld.lease import IPAddress

FAMILY = "l2vpn evpn"


def decode_evpn(
    peer: IPAddress, update: Mapping[str, Any], attributes: Attributes | None
) -> Iterator[EvpnAnnounced | EvpnWithdrawn]:
    """What is withdrawn, then what is announced; types of routes that are not known are left out.

    `attributes`: of the whole UPDATE; None: they are malformed, and what is announced is as good as withdrawn (RFC 7606 §2). Raises
    ValueError, LookupError, TypeError or AttributeError for what is no UPDATE.
    """
    said = update.get("attribute", {})
    withdrawn = [route.key for route in _routes(update.get("withdraw", {}).get(FAMILY, ()))]
    if withdrawn:
        yield EvpnWithdrawn(peer, tuple(withdrawn), error="error" in said)
    announced = [(hop, route) for hop, nlris in update.get("announce", {}).get(FAMILY, {}).items() for route in _routes(nlris)]
    if announced and attributes is None:
        yield EvpnWithdrawn(peer, tuple(route.key for _, route in announced), error=True)
    elif announced and attributes is not None:
        extended = frozenset(ExtendedCommunity(int(each["value"])) for each in said.get("extended-community", ()))
        told = (EvpnAnnouncement(route, ip_address(hop), attributes, extended) for hop, route in announced)
        yield EvpnAnnounced(peer, tuple(told))


def evpn_keys(digits: list[str]) -> frozenset[Key]:
    """Of routes that the launcher lists; raises ValueError."""
    routes = (decode_route(bytes.fromhex(each)) for each in digits)
    return frozenset(route.key for route in routes if route is not None)


def _routes(nlris: list[Mapping[str, Any]]) -> Iterator[EvpnRoute]:
    for nlri in nlris:
        route = decode_route(bytes.fromhex(nlri["raw"]))
        if route is not None:
            yield route
