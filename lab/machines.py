"""What a topology is made of: segments, hosts, routers, each read from its table; must not know what is made of them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network, ip_address, ip_interface
from types import MappingProxyType
from typing import TypeAlias

from lab.table import Table

IPInterface: TypeAlias = IPv4Interface | IPv6Interface
IPNetwork: TypeAlias = IPv4Network | IPv6Network

RESERVED = ("fabric", "outside", "lo", "all", "default")
"""Names that mean something else: to the lab, or as an interface, to the kernel."""
FIRST_HOST = 11
"""A host's place in its segment, if the file leaves it out: 10.0.0.11, fd00:10::11."""
LABEL_KEY = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_./]*[A-Za-z0-9])?")
LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?")
LAST_ASN = (1 << 32) - 2
"""RFC 7300 reserves the one above."""
ROUTER_KINDS = ("bird",)


@dataclass(frozen=True, slots=True)
class Segment:
    """One L2 network."""

    name: str
    routers: tuple[IPInterface, ...]
    """The address of the lab's own router in each of the segment's subnets, IPv4 first."""
    mtu: int = 1500
    """Bytes."""


@dataclass(frozen=True, slots=True)
class Host:
    """One machine of the lab."""

    name: str
    segment: str
    addresses: tuple[IPInterface, ...]
    """One in each of its segment's subnets, IPv4 first."""
    labels: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """What the network config's selectors choose it by."""
    asn: int | None = None
    """Where routers expect it; None: anywhere but in their own AS."""


@dataclass(frozen=True, slots=True)
class Router:
    """A machine between segments that speaks BGP with the hosts and the routers on them."""

    name: str
    kind: str
    """One of ROUTER_KINDS: the program that does it."""
    asn: int
    addresses: tuple[IPInterface, ...]
    """At most one in each subnet."""
    bfd: bool = False
    """Watch the neighbours by BFD, all that have it."""

    @property
    def router_id(self) -> str:
        return next(str(ip.ip) for ip in self.addresses if ip.version == 4)

    def at(self, network: IPNetwork) -> IPInterface | None:
        """Its address in a subnet."""
        return next((ip for ip in self.addresses if ip.network == network), None)


def family_key(stem: str, ip: IPInterface) -> str:
    """The file's key for that family."""
    return stem if ip.version == 4 else f"{stem}6"


def _name(text: str) -> str:
    """A host name (RFC 1123 label) that is an interface name too (IFNAMSIZ: 15 characters)."""
    if not re.fullmatch(r"[a-z]([a-z0-9-]{0,13}[a-z0-9])?", text):
        raise ValueError(f"{text!r} is not a name, expected 1 to 15 of a-z, 0-9 and '-', a letter first")
    if text in RESERVED:
        raise ValueError(f"{text!r} is taken, expected a name other than {', '.join(RESERVED)}")
    return text


def parse_segment(table: Table) -> Segment:
    """Read one; raises TopologyError."""
    name = table.parse("name", _name)
    subnets = [_subnet(table, "subnet", IPv4Network)]
    if table.has("subnet6"):
        subnets.append(_subnet(table, "subnet6", IPv6Network))
    mtu, least = table.take("mtu", int, 1500), 1280 if len(subnets) == 2 else 576  # RFC 8200 §5, RFC 791 §3.2
    if not least <= mtu <= 65535:
        raise table.error("mtu", f"{mtu} is out of range, expected {least} to 65535")
    table.finish()
    return Segment(name, tuple(ip_interface((subnet[1], subnet.prefixlen)) for subnet in subnets), mtu)


def _subnet(table: Table, key: str, kind: type[IPv4Network | IPv6Network]) -> IPNetwork:
    text = table.take(key, str)
    try:
        subnet = kind(text)
    except ValueError as error:
        raise table.error(key, f"{text!r} is not an {kind.__name__.removesuffix('Network')} subnet: {error}") from error
    if subnet.num_addresses < 8:
        raise table.error(key, f"{subnet} is too small, expected 8 addresses or more")
    return subnet


def parse_host(table: Table, segments: tuple[Segment, ...], others: list[Host]) -> Host:
    """Read one, which is none of the others; raises TopologyError."""
    name = table.parse("name", _name)
    wanted = table.take("segment", str, segments[0].name)
    segment = next((segment for segment in segments if segment.name == wanted), None)
    if segment is None:
        raise table.error("segment", f"there is no segment {wanted!r}, expected one of {', '.join(s.name for s in segments)}")
    place = FIRST_HOST + sum(host.segment == wanted for host in others)
    addresses = tuple(_address(table, router, place) for router in segment.routers)
    taken = {ip: host.name for host in others for ip in host.addresses} | dict.fromkeys(segment.routers, "the router")
    for ip in addresses:
        if ip in taken:
            raise table.error(family_key("address", ip), f"{ip.ip} is already the address of {taken[ip]}")
    labels = _labels(table)
    asn = _asn(table) if table.has("asn") else None
    table.finish()
    return Host(name, wanted, addresses, labels, asn)


def _labels(table: Table) -> Mapping[str, str]:
    labels: dict[str, object] = table.take("labels", dict, {})
    for key, value in labels.items():
        if not LABEL_KEY.fullmatch(key):
            raise table.error("labels", f"{key!r} is no label's name, expected letters, digits, '-', '_', '.' and '/'")
        if not isinstance(value, str) or not LABEL_VALUE.fullmatch(value):
            raise table.error(
                f"labels.{key}", f"{value!r} is no label's value, expected a string of letters, digits, '-', '_', '.'"
            )
    return MappingProxyType({key: str(value) for key, value in labels.items()})


def _asn(table: Table) -> int:
    asn = table.take("asn", int)
    if not 1 <= asn <= LAST_ASN:
        raise table.error("asn", f"{asn} is out of range, expected 1 to {LAST_ASN}")
    return asn


def parse_router(table: Table, segments: tuple[Segment, ...], others: Sequence[Host | Router]) -> Router:
    """Read one, which is none of the others; raises TopologyError."""
    name = table.parse("name", _name)
    kind = table.take("kind", str, ROUTER_KINDS[0])
    if kind not in ROUTER_KINDS:
        raise table.error("kind", f"{kind!r} is no kind of router, expected {' or '.join(ROUTER_KINDS)}")
    router = Router(name, kind, _asn(table), _joining(table, segments, others), table.take("bfd", bool, False))
    table.finish()
    return router


def _joining(table: Table, segments: tuple[Segment, ...], others: Iterable[Host | Router]) -> tuple[IPInterface, ...]:
    """A router's addresses, each with the subnet that it is in."""
    own = {router: "the lab's own router" for segment in segments for router in segment.routers}
    taken = {ip.ip: other.name for other in others for ip in other.addresses} | {ip.ip: name for ip, name in own.items()}
    found: dict[IPNetwork, IPInterface] = {}
    for place, text in enumerate(table.take("addresses", list), 1):
        key = f"addresses[{place}]"
        try:
            address = ip_address(text if isinstance(text, str) else "")
        except ValueError:
            raise table.error(key, f"{text!r} is not an address") from None
        subnet = next((ip.network for ip in own if _may_have(address, ip.network)), None)
        if subnet is None:
            raise table.error(key, f"{address} is not a host's address in {', '.join(str(ip.network) for ip in own)}")
        if address in taken:
            raise table.error(key, f"{address} is already the address of {taken[address]}")
        if subnet in found:
            raise table.error(key, f"{address} is a second address in {subnet}, expected one in each segment that it joins")
        found[subnet] = ip_interface((address, subnet.prefixlen))
    if not any(ip.version == 4 for ip in found.values()):
        raise table.error("addresses", "no IPv4 address is there, expected one: the first is the router id")
    return tuple(found.values())


def _may_have(address: IPv4Address | IPv6Address, subnet: IPNetwork) -> bool:
    """True for what a host's address can be there."""
    return address in subnet and address not in (subnet.network_address, subnet.broadcast_address) and "%" not in str(address)


def _address(table: Table, router: IPInterface, place: int) -> IPInterface:
    key, subnet = family_key("address", router), router.network
    if table.has(key):
        ip = table.parse(key, ip_address)
        if not _may_have(ip, subnet):
            raise table.error(key, f"{ip} is not a host's address in {subnet}")
        return ip_interface((ip, subnet.prefixlen))
    offset = place if subnet.version == 4 else int(str(place), 16)  # the address is to read the same: .11, ::11
    if offset >= subnet.num_addresses - 1:
        raise table.error(key, f"missing, and {subnet} has no room for the usual one, which ends in {place}")
    return ip_interface((subnet[offset], subnet.prefixlen))
