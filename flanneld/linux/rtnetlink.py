"""rtnetlink's messages on routes, neighbours, FDB entries, addresses and links: bytes <-> values, sans-IO; must not know sockets.

Source: linux/rtnetlink.h, neighbour.h, if_addr.h, if_link.h; constants keep their kernel names.
"""

from __future__ import annotations

import socket
import struct
import sys
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass, replace
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_interface
from typing import Any, TypeVar

from flanneld.kernel import Entry, FdbEntry, Hop, IPInterface, Link, Neighbour, NextHop, Route, RouteKind
from flanneld.lease import IPAddress, IPNetwork
from flanneld.linux.message import (
    NLM_F_CREATE,
    NLM_F_REPLACE,
    MalformedMessage,
    Message,
    attribute,
    attributes,
    integer,
    string,
    u32,
)

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK, RTM_SETLINK = 16, 17, 18, 19
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
RTM_NEWNEIGH, RTM_DELNEIGH, RTM_GETNEIGH = 28, 29, 30
DEVICE_KINDS = (RTM_NEWLINK, RTM_DELLINK, RTM_NEWADDR, RTM_DELADDR, RTM_NEWNEIGH, RTM_DELNEIGH)
"""Notices about one interface, which say its index at the same place."""
ROUTE_KINDS = (RTM_NEWROUTE, RTM_DELROUTE)
RTPROT_KERNEL = 2
AF_BRIDGE = 7
FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}

RTA_DST, RTA_OIF, RTA_GATEWAY, RTA_PRIORITY, RTA_MULTIPATH, RTA_VIA = 1, 4, 5, 6, 9, 18
RT_TABLE_MAIN = 254
RT_SCOPE_UNIVERSE, RT_SCOPE_LINK, RT_SCOPE_NOWHERE = 0, 253, 255
RTN_UNICAST, RTN_LOCAL = RouteKind.UNICAST.value, 2
RTM_F_CLONED = 0x200
RTNH_F_ONLINK = 4
DEFAULT_METRIC = {4: 0, 6: 1024}
"""What the kernel makes of a route without RTA_PRIORITY (IPv6: IP6_RT_PRIO_USER)."""

NDA_DST, NDA_LLADDR, NDA_PORT, NDA_VNI, NDA_IFINDEX = 1, 2, 6, 7, 8
NUD_NOARP, NUD_PERMANENT = 0x40, 0x80
NTF_SELF = 2

IFA_ADDRESS, IFA_LOCAL, IFA_FLAGS = 1, 2, 8
IFA_F_TEMPORARY, IFA_F_NODAD, IFA_F_DEPRECATED, IFA_F_TENTATIVE, IFA_F_PERMANENT, IFA_F_NOPREFIXROUTE = (
    0x1,
    0x2,
    0x20,
    0x40,
    0x80,
    0x200,
)

IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_MASTER, IFLA_PROTINFO, IFLA_LINKINFO = 1, 3, 4, 10, 12, 18
IFLA_AF_SPEC, IFLA_GROUP, IFLA_NET_NS_FD = 26, 27, 28
IFLA_INFO_KIND, IFLA_INFO_DATA = 1, 2
IFF_UP = 1

RTMSG = struct.Struct("=8BI")
"""family, dst_len, src_len, tos, table, protocol, scope, type; flags."""
RTNEXTHOP = struct.Struct("=HBBI")
"""length with the attributes that follow; flags; weight less 1; ifindex. Such, each padded to 4 bytes, make up RTA_MULTIPATH."""
MOST_WEIGHT = 256
NDMSG = struct.Struct("=BxxxiHBB")
"""family; ifindex; state; flags, type."""
IFADDRMSG = struct.Struct("=4BI")
"""family, prefixlen, flags, scope; index."""
IFINFOMSG = struct.Struct("=BxHiII")
"""family; ARP hardware type; index; flags; change mask."""

_Value = TypeVar("_Value")
_KINDS = {kind.value: kind for kind in RouteKind}
_IP_NETWORK: dict[int, Callable[[tuple[bytes, int]], IPNetwork]] = {socket.AF_INET: IPv4Network, socket.AF_INET6: IPv6Network}


@dataclass(frozen=True, slots=True)
class Address:
    """An address of an interface."""

    index: int
    interface: IPInterface
    scope: int
    """RT_SCOPE_*: 0 global, 253 link."""
    flags: int
    """IFA_F_*."""

    @property
    def rank(self) -> tuple[bool, int, bool, bool]:
        """Smaller is better for reaching other hosts: not deprecated, wide scope, permanent, no privacy address (RFC 8981)."""
        flags = self.flags
        return bool(flags & IFA_F_DEPRECATED), self.scope, not flags & IFA_F_PERMANENT, bool(flags & IFA_F_TEMPORARY)


@dataclass(frozen=True, slots=True)
class NeighbourState:
    """What became of a neighbour's slot."""

    neighbour: Neighbour
    """Its `mac` is empty when the kernel knows none."""
    permanent: bool


def encode_entry(entry: Entry, flags: int = NLM_F_CREATE | NLM_F_REPLACE) -> Message:
    """The message that puts an entry in, displacing what holds its slot; with NLM_F_CREATE alone a route goes before that."""
    if isinstance(entry, Route):
        return Message(RTM_NEWROUTE, _route_body(entry, _scope(entry)), flags)
    return Message(RTM_NEWNEIGH, _neighbour_body(entry), flags)


def encode_removal(entry: Entry) -> Message:
    """The message that takes an entry out.

    That for a route with several hops names none of them, and fits any route of the protocol in its slot: IPv4 would insist on the
    order that they have in the kernel, and take a route by the first few of them too; IPv6 would take out hop after hop.
    """
    if isinstance(entry, Route):
        named = replace(entry, hops=frozenset()) if entry.hops else entry
        return Message(RTM_DELROUTE, _route_body(named, RT_SCOPE_NOWHERE))
    return Message(RTM_DELNEIGH, _neighbour_body(entry))


def _scope(route: Route) -> int:
    on_link = route.kind is RouteKind.UNICAST and route.gateway is None and not route.hops
    return RT_SCOPE_LINK if on_link else RT_SCOPE_UNIVERSE


def _route_body(route: Route, scope: int) -> bytes:
    network, gateway = route.destination, route.gateway
    version, flags = network.version, RTNH_F_ONLINK if route.onlink else 0
    body = RTMSG.pack(FAMILY[version], network.prefixlen, 0, 0, RT_TABLE_MAIN, route.protocol, scope, route.kind.value, flags)
    body += attribute(RTA_DST, network.network_address.packed)
    if gateway is not None:
        body += _gateway_attribute(gateway, version)
    if route.device:
        body += u32(RTA_OIF, route.device)
    elif route.hops:
        body += attribute(RTA_MULTIPATH, b"".join(_next_hop(hop, version) for hop in route.ways))
    return body + u32(RTA_PRIORITY, route.metric or DEFAULT_METRIC[version])


def _gateway_attribute(gateway: IPAddress, version: int) -> bytes:
    if gateway.version == version:
        return attribute(RTA_GATEWAY, gateway.packed)
    # IPv4 by way of an IPv6 next hop, RFC 8950
    return attribute(RTA_VIA, FAMILY[gateway.version].to_bytes(2, sys.byteorder) + gateway.packed)


def _next_hop(hop: Hop, version: int) -> bytes:
    by = b"" if hop.gateway is None else _gateway_attribute(hop.gateway, version)
    return RTNEXTHOP.pack(RTNEXTHOP.size + len(by), RTNH_F_ONLINK if hop.onlink else 0, hop.weight - 1, hop.device) + by


def _neighbour_body(entry: Neighbour | FdbEntry) -> bytes:
    if isinstance(entry, FdbEntry):
        header = NDMSG.pack(AF_BRIDGE, entry.device, NUD_PERMANENT | NUD_NOARP, NTF_SELF, 0)
        address = entry.destination
    else:
        header = NDMSG.pack(FAMILY[entry.address.version], entry.device, NUD_PERMANENT, 0, 0)
        address = entry.address
    return header + attribute(NDA_DST, address.packed) + attribute(NDA_LLADDR, mac_bytes(entry.mac))


def route_query(address: IPAddress) -> Message:
    """Ask which way a packet to `address` would take."""
    header = RTMSG.pack(FAMILY[address.version], address.max_prefixlen, 0, 0, 0, 0, 0, 0, 0)
    return Message(RTM_GETROUTE, header + attribute(RTA_DST, address.packed))


def route_dump(family: int, *, protocol: int = 0, device: int = 0) -> Message:
    """Ask for the main table, or what is in it of one protocol, by one device."""
    header = RTMSG.pack(family, 0, 0, 0, RT_TABLE_MAIN, protocol, 0, 0, 0)
    return Message(RTM_GETROUTE, header + (u32(RTA_OIF, device) if device else b""))


def neighbour_dump(family: int, device: int) -> Message:
    """Ask for the neighbours on a device; in AF_BRIDGE, for its FDB."""
    return Message(RTM_GETNEIGH, NDMSG.pack(family, 0, 0, 0, 0) + u32(NDA_IFINDEX, device))


def decode_route(message: Message) -> Route | None:
    """The main table's unicast or blackhole route; None for any other."""
    family, length, *_, table, protocol, _scope, kind, flags = _fixed(RTMSG, message)
    if table != RT_TABLE_MAIN or kind not in _KINDS or flags & RTM_F_CLONED or family not in _IP_NETWORK:
        return None
    found = attributes(message.body, RTMSG.size)
    metric = integer(found.get(RTA_PRIORITY))
    version = 4 if family == socket.AF_INET else 6
    destination = _checked(_IP_NETWORK[family], (found.get(RTA_DST, bytes(4 if version == 4 else 16)), length))
    if RTA_MULTIPATH in found:
        hops = _decode_hops(found[RTA_MULTIPATH])
        return Route.by(destination, hops, protocol, 0 if metric == DEFAULT_METRIC[version] else metric)
    return Route(
        destination,
        # IPv6 hangs blackholes on the loopback device.
        integer(found.get(RTA_OIF)) if kind == RTN_UNICAST else 0,
        _gateway(found),
        bool(flags & RTNH_F_ONLINK),
        protocol,
        _KINDS[kind],
        0 if metric == DEFAULT_METRIC[version] else metric,
    )


def leads_to(message: Message, addresses: Container[bytes]) -> bool:
    """True if the route's network address is one of these; found without decoding the rest."""
    given = attributes(message.body, RTMSG.size).get(RTA_DST)
    return (given or bytes(4 if message.body[0] == socket.AF_INET else 16)) in addresses


def _decode_hops(value: bytes) -> frozenset[Hop]:
    """The hops of RTA_MULTIPATH, one at least. One that is there twice, as IPv4 allows, has both weights."""
    told = list(_told_hops(value))
    if not told:
        raise MalformedMessage("a route by several next hops has none")
    hops = frozenset(told)
    if len(hops) < len(told):
        return frozenset(replace(hop, weight=min(hop.weight * told.count(hop), MOST_WEIGHT)) for hop in hops)
    return hops


def _told_hops(value: bytes) -> Iterator[Hop]:
    offset = 0
    while offset + RTNEXTHOP.size <= len(value):
        length, flags, less, device = RTNEXTHOP.unpack_from(value, offset)
        if length < RTNEXTHOP.size or offset + length > len(value):
            raise MalformedMessage(f"next hop claims {length} bytes of {len(value) - offset}")
        found = attributes(value[offset + RTNEXTHOP.size : offset + length])
        # RTNH_F_DEAD and RTNH_F_LINKDOWN are the device's state.
        yield Hop(device, _gateway(found), bool(flags & RTNH_F_ONLINK), less + 1)
        offset += length + 3 & ~3


def decode_next_hop(message: Message) -> NextHop:
    """The kernel's answer to `route_query`."""
    kind = _fixed(RTMSG, message)[7]
    found = attributes(message.body, RTMSG.size)
    return NextHop(integer(found.get(RTA_OIF)), _gateway(found), local=kind == RTN_LOCAL)


def _gateway(found: dict[int, bytes]) -> IPAddress | None:
    if RTA_GATEWAY in found:
        return _checked(ip_address, found[RTA_GATEWAY])
    return _checked(ip_address, found[RTA_VIA][2:]) if RTA_VIA in found else None


def decode_neighbour(message: Message) -> NeighbourState | None:
    """An ARP or NDP entry of any state; None for another family's."""
    family, device, state, _flags, _kind = _fixed(NDMSG, message)
    found = attributes(message.body, NDMSG.size)
    if family not in FAMILY.values() or NDA_DST not in found:
        return None
    neighbour = Neighbour(device, _checked(ip_address, found[NDA_DST]), mac_text(found.get(NDA_LLADDR)))
    return NeighbourState(neighbour, bool(state & NUD_PERMANENT))


def decode_fdb(message: Message) -> FdbEntry | None:
    """A permanent FDB entry with a destination; None for learned ones, and for those with a port or VNI of their own."""
    family, device, state, _flags, _kind = _fixed(NDMSG, message)
    if family != AF_BRIDGE or not state & NUD_PERMANENT:
        return None
    found = attributes(message.body, NDMSG.size)
    if NDA_DST not in found or NDA_LLADDR not in found or NDA_PORT in found or NDA_VNI in found:
        return None
    return FdbEntry(device, mac_text(found[NDA_LLADDR]), _checked(ip_address, found[NDA_DST]))


def decode_address(message: Message) -> Address | None:
    """An interface's own address; None for another family's."""
    family, length, flags, scope, index = _fixed(IFADDRMSG, message)
    if family not in FAMILY.values():
        return None
    found = attributes(message.body, IFADDRMSG.size)
    # On a point-to-point link IFA_ADDRESS is the other end.
    own = found.get(IFA_LOCAL) or found.get(IFA_ADDRESS)
    return Address(index, _checked(ip_interface, (own, length)), scope, integer(found.get(IFA_FLAGS)) or flags)


def decode_link(message: Message) -> Link | None:
    """An interface; None for a bridge port's or an IPv6 device's report about one."""
    family, _type, index, flags, _change = _fixed(IFINFOMSG, message)
    if family != socket.AF_UNSPEC:
        return None
    found = attributes(message.body, IFINFOMSG.size)
    info = attributes(found.get(IFLA_LINKINFO, b""))
    name, mac, kind = string(found.get(IFLA_IFNAME)), mac_text(found.get(IFLA_ADDRESS)), string(info.get(IFLA_INFO_KIND))
    return Link(index, name, integer(found.get(IFLA_MTU)), mac, bool(flags & IFF_UP), kind)


def link_attributes(message: Message) -> dict[int, bytes]:
    """All that a message about an interface says of it (IFLA_*)."""
    return attributes(message.body, IFINFOMSG.size)


def mac_bytes(mac: str) -> bytes:
    """The six bytes of a MAC in colon notation."""
    return bytes.fromhex(mac.replace(":", ""))


def mac_text(value: bytes | None) -> str:
    """Lower case with colons; empty when it is absent."""
    return value.hex(":") if value else ""


def _fixed(header: struct.Struct, message: Message) -> tuple[int, ...]:
    if len(message.body) < header.size:
        raise MalformedMessage(f"message {message.kind} has {len(message.body)} bytes, expected {header.size} at least")
    return header.unpack_from(message.body)


def _checked(make: Callable[[Any], _Value], value: object) -> _Value:
    try:
        return make(value)
    except ValueError as error:
        raise MalformedMessage(f"{error} in a netlink message") from error
