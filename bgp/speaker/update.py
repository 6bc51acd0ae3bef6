"""An UPDATE in exabgp's JSON (5.0), as events; must not know what else exabgp says.

RFC 4271 §4.3, RFC 4760, RFC 7606 (an attribute that is malformed makes a withdrawal of it), RFC 7911 (path numbers).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from ipaddress import IPv4Address, ip_address, ip_network
from typing import Any, TypeAlias

from bgp.events import Announced, Event, Withdrawn
from bgp.path import Asn, AsPath, Attributes, Origin, Path
from bgp.speaker.evpn_update import decode_evpn
from flanneld.lease import IPAddress, IPNetwork

_FAMILIES = ("ipv4 unicast", "ipv6 unicast")
_ORIGINS: Mapping[str, Origin] = {origin.name.lower(): origin for origin in Origin}

Place: TypeAlias = tuple[IPNetwork, int]
"""A prefix and the number of a path to it."""


def decode_update(peer: IPAddress, update: Mapping[str, Any]) -> tuple[Event, ...]:
    """What is withdrawn, then what is announced; other families than unicast and EVPN are left out.

    Raises ValueError, LookupError, TypeError or AttributeError for what is no UPDATE.
    """
    said = update.get("attribute", {})
    withdrawn = [_place(nlri) for family in _FAMILIES for nlri in update.get("withdraw", {}).get(family, ())]
    events: list[Event] = []
    if withdrawn:
        events.append(Withdrawn(peer, tuple(withdrawn), error="error" in said))
    origin = _ORIGINS.get(said.get("origin", ""))
    attributes = None if origin is None else _attributes(said, origin)
    if announced := _announced(update.get("announce", {})):
        if attributes is None or None in announced.values():  # which exabgp lets pass
            events.append(Withdrawn(peer, tuple(announced), error=True))
        else:
            paths = (Path(place[0], hop, peer, attributes, place[1]) for place, hop in announced.items() if hop is not None)
            events.append(Announced(peer, tuple(paths)))
    return (*events, *decode_evpn(peer, update, attributes))


def _announced(announce: Mapping[str, Any]) -> dict[Place, IPAddress | None]:
    """Each place with its next hop; None: there is none that could be one."""
    found: dict[Place, IPAddress | None] = {}
    for family in _FAMILIES:
        for text, nlris in announce.get(family, {}).items():
            hop = _next_hop(text)
            for place in map(_place, nlris):
                # An IPv6 prefix may have a global next hop and a link-local one (RFC 2545 §3), and is listed under either.
                if found.get(place) is None or (hop is not None and not hop.is_link_local):
                    found[place] = hop
    return found


def _next_hop(text: str) -> IPAddress | None:
    try:
        return ip_address(text)
    except ValueError:
        return None


def _place(nlri: Mapping[str, Any]) -> Place:
    return ip_network(nlri["nlri"]), int(IPv4Address(nlri.get("path-information", "0.0.0.0")))  # noqa: S104  # no address: a number


def _attributes(said: Mapping[str, Any], origin: Origin) -> Attributes:
    return Attributes(
        origin,
        _as_path(said.get("as-path", {})),
        _number(said.get("local-preference")),
        _number(said.get("med")),
        frozenset((int(high), int(low)) for high, low in said.get("community", ())),
        IPv4Address(said["originator-id"]) if "originator-id" in said else None,
        tuple(map(IPv4Address, said.get("cluster-list", ()))),
    )


def _as_path(segments: Mapping[str, Any]) -> AsPath:
    sequence: list[Asn] = []
    sets: list[frozenset[Asn]] = []
    for kind, members in _segments(segments):
        if kind == "as-sequence":
            sequence += members
        else:  # as-set; and those of a confederation, which has no business here: one step, and searched for loops
            sets.append(frozenset(members))
    return AsPath(tuple(sequence), tuple(sets))


def _segments(segments: Mapping[str, Any]) -> Iterator[tuple[str, list[Asn]]]:
    for number in sorted(segments, key=int):
        yield segments[number]["element"], [Asn(int(asn)) for asn in segments[number]["value"]]


def _number(value: object) -> int | None:
    return None if value is None else int(str(value))
