"""One entry of `Peers`: sessions that the mesh does not have, or has otherwise; must not know which host this is.

By `Address` it is a router, or whoever else is no host of the pod network. By `SelectPeer` it is hosts: each of those that `Select`
chooses has a session with each that `SelectPeer` chooses, and the entry's settings hold at both ends.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from bgp.path import Asn, Community
from bgp.peer import MaxPrefix
from bgp.section import Section, read_address, refuse
from bgp.selector import EVERY_HOST, Selector
from bgp.session import BGP_PORT
from bgp.settings import SessionSettings, read_asn, read_communities, read_selector, read_session
from flanneld.config import ConfigError
from flanneld.lease import FAMILIES, Family, IPAddress

FOR_ADDRESS_ONLY = ("Port", "Source", "Passive", "NextHop", "Families")
"""What hosts settle among themselves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Peering:
    """What both kinds have."""

    key: str
    """Its path in the config, `Backend.Peers[0]`."""
    session: SessionSettings
    select: Selector = EVERY_HOST
    """The hosts that have it."""
    communities: frozenset[Community] = frozenset()
    """Added to what they announce there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterPeering(Peering):
    """A session with one who is no host of the pod network."""

    address: IPAddress
    asn: Asn
    """The neighbour's."""
    port: int = BGP_PORT
    """The neighbour's."""
    source: IPAddress | None = None
    """Our end; None: the host's own address of the family."""
    passive: bool = False
    """Wait for the neighbour to connect; off, as many a router is set to wait itself."""
    next_hop_self: bool = True
    """Of paths that are passed on: whoever is no host may have no route to the others."""
    families: tuple[Family, ...] = ()
    """Whose routes are exchanged; empty: those of the pod network."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostPeering(Peering):
    """Sessions of hosts with hosts. The mesh's password is theirs too, unless they have one of their own."""

    select_peer: Selector
    asn: Asn | None = None
    """Of those that are chosen; None: of whatever AS they are."""

    def chooses(self, labels: Mapping[str, str], asn: Asn) -> bool:
        """True for a host with these labels in that AS."""
        return self.select_peer.matches(labels) and self.asn in (None, asn)


def parse_peerings(section: Section, mesh: SessionSettings) -> tuple[RouterPeering | HostPeering, ...]:
    """Read `Peers`; raises ConfigError, for an address that is there twice too."""
    peerings = tuple(_peering(part, mesh) for part in section.sections("Peers"))
    keys: dict[IPAddress, str] = {}
    for peering in peerings:
        if isinstance(peering, RouterPeering):
            first = keys.setdefault(peering.address, peering.key)
            if first != peering.key:
                raise ConfigError(f"{peering.key}.Address", f"expected another than that of {first}, got {peering.address}")
    return peerings


def _peering(section: Section, mesh: SessionSettings) -> RouterPeering | HostPeering:
    given = section.given("Address", "SelectPeer")
    if len(given) != 1:
        raise ConfigError(section.path, f"expected one of Address and SelectPeer, got {'both' if given else 'neither'}")
    peering = _router(section, mesh) if given == ("Address",) else _hosts(section, mesh)
    section.finish()
    return peering


def _router(section: Section, mesh: SessionSettings) -> RouterPeering:
    expected = "one neighbour's address, and no link-local one of IPv6"
    address = section.required("Address", _neighbour_address, expected)
    asn = read_asn(section, None)
    if asn is None:
        section.wrong("AS", f"the AS number of {address}")
    source = section.parsed("Source", _neighbour_address, "an address of ours", None)
    if source is not None and source.version != address.version:
        section.wrong("Source", f"an IPv{address.version} address, as Address is one")
    return RouterPeering(
        key=section.path,
        # The mesh's password is not for others to know, and a router need not send with the TTL that GTSM wants.
        session=_session(section, replace(mesh, password_file="", ttl_security=None)),
        select=read_selector(section, "Select") or EVERY_HOST,
        communities=read_communities(section) or frozenset(),
        address=address,
        asn=asn,
        port=section.number("Port", 1, 65535, BGP_PORT),
        source=source,
        passive=section.flag("Passive", default=False),
        next_hop_self=section.choice("NextHop", ("self", "keep")) == "self",
        families=_families(section),
    )


def _hosts(section: Section, mesh: SessionSettings) -> HostPeering:
    for key in section.given(*FOR_ADDRESS_ONLY):
        section.wrong(key, "none beside SelectPeer: hosts settle it themselves")
    return HostPeering(
        key=section.path,
        session=_session(section, mesh),
        select=read_selector(section, "Select") or EVERY_HOST,
        communities=read_communities(section) or frozenset(),
        select_peer=read_selector(section, "SelectPeer") or EVERY_HOST,
        asn=read_asn(section, None),
    )


def _session(section: Section, defaults: SessionSettings) -> SessionSettings:
    """The settings that the mesh has too, and those that only a peering can have."""
    settings = read_session(section, defaults)
    limit = MaxPrefix(settings.max_prefix.limit, hard=section.choice("MaxPrefixAction", ("refuse", "reset")) == "reset")
    multihop = section.number("Multihop", 2, 255, None)
    if multihop is None:
        return replace(settings, max_prefix=limit)
    if section.given("TTLSecurity") and not section.off("TTLSecurity"):
        section.wrong("Multihop", "none beside TTLSecurity, which says how far away the neighbour is")
    if section.given("BFD") and not section.off("BFD"):
        section.wrong("BFD", "none beside Multihop: it watches neighbours on the link (RFC 5881)")
    return replace(settings, max_prefix=limit, multihop=multihop, ttl_security=None, bfd=None)


def _families(section: Section) -> tuple[Family, ...]:
    value = section.get("Families")
    if value is None:
        return ()
    listed = value if isinstance(value, list) else []
    families = tuple(family for family in FAMILIES if family in [each for each in listed if isinstance(each, int)])
    if not families or len(families) != len(listed):
        refuse(section.at("Families"), "[4], [6] or [4, 6]", value)
    return families


def _neighbour_address(text: str) -> IPAddress:
    address = read_address(text)
    scoped = address.version == 6 and address.is_link_local
    if address.is_multicast or address.is_unspecified or scoped or int(address) == (1 << address.max_prefixlen) - 1:
        raise ValueError(f"{text} is not one neighbour's address")
    return address
