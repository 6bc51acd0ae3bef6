"""What each neighbour is to be told: our own prefixes, and as a reflector what others told us: pure; must not know who is up.

RFC 4271 §9.2; RFC 4456 §7 to §10 (reflection); RFC 8326 (graceful shutdown); RFC 8950 (IPv4 by an IPv6 next hop).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from ipaddress import IPv4Address

from bgp.neighbours import Neighbour
from bgp.path import DEFAULT_LOCAL_PREF, GRACEFUL_SHUTDOWN, NO_ADVERTISE, NO_EXPORT, AsPath, Attributes, Path
from bgp.policy import decide
from bgp.speaker.commands import Announcement
from bgp.topology import Role
from flanneld.lease import IPAddress, IPNetwork, Subnets, family_of


@dataclass(frozen=True, slots=True)
class Origination:
    """What this host announces as its own."""

    subnets: Subnets = ()
    """Its lease's."""
    extra: frozenset[IPNetwork] = frozenset()
    """What somebody asked for besides: Service addresses, pods that have moved here."""
    addresses: tuple[IPAddress, ...] = ()
    """Ours, one per family at most: where to send packets to."""
    draining: bool = False
    """We are about to leave: every other way is better (RFC 8326)."""

    @property
    def prefixes(self) -> tuple[IPNetwork, ...]:
        return (*self.subnets, *sorted(self.extra, key=lambda prefix: (prefix.version, prefix)))


@dataclass(frozen=True, slots=True)
class Reflection:
    """What is passed on, where we are a reflector."""

    cluster_id: IPv4Address
    choices: Mapping[IPNetwork, tuple[Path, ...]]
    """As the RIB has them; of each the best is passed on."""
    roles: Mapping[IPAddress, Role]
    """Of the neighbours, by address."""
    internal: frozenset[IPAddress]
    """The neighbours of our own AS."""
    router_ids: Mapping[IPAddress, str]
    """Of the neighbours that have announced anything: who has brought it into the AS."""


def announcements(neighbour: Neighbour, own: Origination, reflection: Reflection | None = None) -> dict[IPNetwork, Announcement]:
    """All that the neighbour is to be told, by prefix."""
    told = {}
    for prefix in own.prefixes:
        if (said := _own(neighbour, own, prefix)) is not None:
            told[prefix] = said
    if reflection is not None:
        for prefix, paths in reflection.choices.items():
            if prefix not in told and (said := _reflected(neighbour, reflection, paths[0])) is not None:
                told[prefix] = said
    return told


def _own(neighbour: Neighbour, own: Origination, prefix: IPNetwork) -> Announcement | None:
    session = neighbour.session
    next_hop = next_hop_of(neighbour, own.addresses, prefix)
    if next_hop is None:
        return None
    return _by_rules(neighbour, Path(prefix, next_hop, session.peer, own_attributes(neighbour, draining=own.draining)))


def own_attributes(neighbour: Neighbour, *, draining: bool) -> Attributes:
    """What the neighbour is told of anything of our own, before its rules."""
    session = neighbour.session
    return Attributes(
        as_path=AsPath() if session.internal else AsPath((session.local_as,)),
        local_pref=(0 if draining else DEFAULT_LOCAL_PREF) if session.internal else None,
        communities=neighbour.communities | ({GRACEFUL_SHUTDOWN} if draining else frozenset()),
    )


def next_hop_of(neighbour: Neighbour, addresses: Collection[IPAddress], prefix: IPNetwork) -> IPAddress | None:
    """Our address that the neighbour is to send packets for the prefix to; None: it has no use for the prefix."""
    session, family = neighbour.session, family_of(prefix)
    if family not in session.families:
        return None
    if session.local.version == family:
        return session.local
    same = next((address for address in addresses if address.version == family), None)
    return same or (session.local if family == 4 else None)


def _reflected(neighbour: Neighbour, reflection: Reflection, path: Path) -> Announcement | None:
    """What a path comes to for one neighbour; None: it is not to be told (RFC 4456 §6)."""
    session, told_by = neighbour.session, path.peer
    if session.peer == told_by or family_of(path.prefix) not in session.families:
        return None
    if not {NO_ADVERTISE, *(() if session.internal else (NO_EXPORT,))}.isdisjoint(path.attributes.communities):
        return None
    # From a client to all; from anybody else of our AS to clients, from outside of it to all.
    from_client = reflection.roles.get(told_by) is Role.CLIENT or told_by not in reflection.internal
    if neighbour.role not in (Role.CLIENT, Role.REFLECTOR) or not (from_client or neighbour.role is Role.CLIENT):
        return None
    if not session.internal:
        attributes = replace(path.attributes, local_pref=None, originator_id=None, cluster_list=())
        lengthened = AsPath((session.local_as, *attributes.as_path.sequence), attributes.as_path.sets)
        return _by_rules(neighbour, replace(path, attributes=replace(attributes, as_path=lengthened)))
    return _by_rules(neighbour, replace(path, attributes=_marked(reflection, path)))


def _marked(reflection: Reflection, path: Path) -> Attributes:
    """With who brought it into the AS, and that it came through us: that is how circles are seen (RFC 4456 §8)."""
    said = path.attributes
    if path.peer not in reflection.internal:
        return replace(said, local_pref=DEFAULT_LOCAL_PREF if said.local_pref is None else said.local_pref)
    originator = said.originator_id or IPv4Address(reflection.router_ids[path.peer])
    return replace(said, originator_id=originator, cluster_list=(reflection.cluster_id, *said.cluster_list))


def _by_rules(neighbour: Neighbour, path: Path) -> Announcement | None:
    """The announcement as the neighbour's export rules leave it."""
    session = neighbour.session
    verdict = decide(neighbour.exports, path, session.local_as, session.local_as)
    return None if isinstance(verdict, str) else Announcement(verdict.prefix, verdict.next_hop, verdict.attributes)
