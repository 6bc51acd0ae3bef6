"""EVPN routes to announce, which exabgp can read but has no words for; must not know what is in them, nor who asks.

    evpn announce ADDRESS HEX ATTRIBUTES    announce the route of these bytes, with attributes in exabgp's words
    evpn withdraw ADDRESS HEX               withdraw it

See whether there is an `announce evpn` that takes types 2, 3 and 5.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from bgp.speaker.launcher import neighbours, stock
from bgp.speaker.launcher.neighbours import Refused

FAMILY = (stock.AFI.l2vpn, stock.SAFI.evpn)
CARRIER = {stock.AFI.ipv4: "0.0.0.0/32", stock.AFI.ipv6: "::/128"}
"""A route of each family that attributes are said of, as exabgp reads them with a route only."""

_index = stock.NLRI.index


def mend() -> None:
    """Put them in place; it may be repeated."""
    stock.EVPN.index = index
    # A VTEP may have an IPv6 address (RFC 8365 §5.1): the stock table takes 4 bytes of next hop, and ends the session for others.
    # See whether Family.size has 16 for it too.
    stock.Family.size[FAMILY] = ((4, 16), 0)


def index(self: Any) -> bytes:
    """What tells a route from others: not its label, gateway and segment.

    The stock one takes all bytes. A withdrawal may have another label, as FRR's have, and then what it withdraws stays in the table
    for ever. See whether EVPN's own `index` leaves the label out. Behind type and length, a route of type 2 or 5 has its RD at 0,
    its tag at 18, and at 22 the MAC and IP address, or the prefix (RFC 7432 §7.2, RFC 9136 §3.1).
    """
    data: bytes = self._packed
    if self.CODE == stock.EVPN_MAC.CODE:
        counts = data[22 : 30 + data[29] // 8]
    elif self.CODE == stock.EvpnPrefix.CODE:
        counts = data[22 : 23 + (len(data) - 26) // 2]
    else:
        return bytes(_index(self))
    return b"%02x%02x" % FAMILY + bytes([self.CODE]) + data[:8] + data[18:22] + counts


def announce(reactor: Any, service: str, words: list[str]) -> Iterator[object]:
    """Queue the route for the neighbour; raises Refused."""
    neighbor, nlri = _neighbor(reactor, words[2]), _route(words[3], stock.Action.ANNOUNCE)
    said = " ".join(words[4:])
    for carrier in CARRIER.values():
        changes = reactor.api.api_route(f"announce route {carrier} {said}")
        if changes and changes[0].nlri.nexthop.afi == changes[0].nlri.afi:
            attributes, nlri.nexthop = changes[0].attributes, changes[0].nlri.nexthop
            attributes.pop(stock.Attribute.CODE.NEXT_HOP, None)  # it is said beside the route (RFC 4760 §3)
            neighbor.rib.outgoing.add_to_rib(stock.Change(nlri, attributes))
            yield None
            return
    raise Refused(f"attributes {said}: {reactor.api.configuration.tokeniser.error}")


def withdraw(reactor: Any, service: str, words: list[str]) -> Iterator[object]:
    """Queue the withdrawal of a route, announced or not; raises Refused."""
    neighbor, nlri = _neighbor(reactor, words[2]), _route(words[3], stock.Action.WITHDRAW)
    neighbor.rib.outgoing.del_from_rib(stock.Change(nlri, stock.Attributes()))
    yield None


def announced(neighbor: Any) -> list[str]:
    """What the neighbour was, or is to be, told, in hexadecimal digits."""
    return [change.nlri.pack_nlri().hex() for change in neighbor.rib.outgoing.cached_changes([FAMILY])]


def _neighbor(reactor: Any, address: str) -> Any:
    peer = neighbours.find(reactor, address)
    if peer is None:
        raise Refused(f"no neighbour {address}")
    if FAMILY not in peer.neighbor.families():
        raise Refused(f"no EVPN with neighbour {address}")
    return peer.neighbor


def _route(digits: str, action: Any) -> Any:
    try:
        nlri, rest = stock.EVPN.unpack_nlri(*FAMILY, bytes.fromhex(digits), action, None)
    except (stock.Notify, ValueError, IndexError) as error:
        raise Refused(f"{digits} is no EVPN route: {error}") from error
    if rest:
        raise Refused(f"{digits} is more than one EVPN route")
    return nlri
