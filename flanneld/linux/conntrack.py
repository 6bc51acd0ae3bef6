"""Connections that the kernel tracks: those to ports of this host, found and forgotten; must not know why.

Source: linux/netfilter/nfnetlink_conntrack.h, net/netfilter/nf_conntrack_netlink.c.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from ipaddress import ip_address

from flanneld.kernel import KernelError
from flanneld.lease import Family, IPAddress
from flanneld.linux import rtnetlink as rt
from flanneld.linux.message import Message, attribute, attributes, nested, u32
from flanneld.linux.netlink import Netlink
from flanneld.linux.nft import NFGENMSG_SIZE, NFPROTO

NFNL_SUBSYS_CTNETLINK = 1
IPCTNL_MSG_CT_GET, IPCTNL_MSG_CT_DELETE = 1, 2
CTA_TUPLE_ORIG, CTA_ID, CTA_ZONE, CTA_FILTER = 1, 12, 18, 25
CTA_TUPLE_IP, CTA_TUPLE_PROTO = 1, 2
CTA_IP_DST: dict[Family, int] = {4: 2, 6: 4}
CTA_PROTO_NUM, CTA_PROTO_DST_PORT = 1, 3
CTA_FILTER_ORIG_FLAGS, CTA_FILTER_REPLY_FLAGS = 1, 2
CTA_FILTER_F_CTA_PROTO_NUM, CTA_FILTER_F_CTA_PROTO_DST_PORT = 1 << 3, 1 << 5
"""net/netfilter/nf_internals.h."""


@dataclass(frozen=True, slots=True)
class HostPort:
    """A port of this host."""

    family: Family
    port: int
    address: IPAddress | None = None
    """None: of any address of the host."""


def forget_connections(nl: Netlink, netfilter: Netlink, protocol: int, ports: Collection[HostPort]) -> int:
    """Forget the connections to these ports, as their clients named them; returns how many. `nl` is a socket for routes.

    The next packet of each is translated anew. What the host passes on to others is left alone. A look takes the kernel some
    milliseconds, whatever it finds: it goes through the whole table. Raises KernelError.
    """
    forgotten = 0
    for family in {port.family for port in ports}:
        own = _own_addresses(nl, family)
        forgotten += _forget(netfilter, family, protocol, [port for port in ports if port.family == family], own)
    return forgotten


def _forget(netfilter: Netlink, family: Family, protocol: int, ports: Collection[HostPort], own: Collection[IPAddress]) -> int:
    everywhere = {port.port for port in ports if port.address is None}
    addressed = {(port.address, port.port) for port in ports}
    going = []
    for name, address, number in _connections(netfilter, family, protocol, {port.port for port in ports}):
        if (address, number) in addressed or (number in everywhere and (address in own or address.is_loopback)):
            going.append(_request(IPCTNL_MSG_CT_DELETE, family, name))
    for outcome in netfilter.transact(going):
        if outcome and outcome != errno.ENOENT:  # it ended by itself
            raise KernelError(int(outcome), "removal of a tracked connection", outcome.why)
    return len(going)


def _connections(netfilter: Netlink, family: Family, protocol: int, ports: set[int]) -> Iterator[tuple[bytes, IPAddress, int]]:
    """What names the connection to the kernel, and its destination before translation."""
    for reply in netfilter.dump(_query(family, protocol, ports)):
        found = attributes(reply.body, NFGENMSG_SIZE)
        original = attributes(found.get(CTA_TUPLE_ORIG, b""))
        transport = attributes(original.get(CTA_TUPLE_PROTO, b""))
        number = int.from_bytes(transport.get(CTA_PROTO_DST_PORT, b""), "big")
        # Kernels before 5.8 do not know the filter and tell of all.
        if transport.get(CTA_PROTO_NUM) == bytes([protocol]) and number in ports:
            address = ip_address(attributes(original.get(CTA_TUPLE_IP, b""))[CTA_IP_DST[family]])
            identity = (attribute(kind, found[kind]) for kind in (CTA_ID, CTA_ZONE) if kind in found)
            yield nested(CTA_TUPLE_ORIG, found[CTA_TUPLE_ORIG]) + b"".join(identity), address, number


def _query(family: Family, protocol: int, ports: Collection[int]) -> Message:
    """All of the protocol; of one port, no others."""
    parts, matched = [attribute(CTA_PROTO_NUM, bytes([protocol]))], CTA_FILTER_F_CTA_PROTO_NUM
    if len(ports) == 1:
        parts += [attribute(CTA_PROTO_DST_PORT, port.to_bytes(2, "big")) for port in ports]
        matched |= CTA_FILTER_F_CTA_PROTO_DST_PORT
    matching = nested(CTA_FILTER, u32(CTA_FILTER_ORIG_FLAGS, matched), u32(CTA_FILTER_REPLY_FLAGS, 0))
    return _request(IPCTNL_MSG_CT_GET, family, nested(CTA_TUPLE_ORIG, nested(CTA_TUPLE_PROTO, *parts)), matching)


def _request(kind: int, family: Family, *parts: bytes) -> Message:
    return Message(NFNL_SUBSYS_CTNETLINK << 8 | kind, bytes([NFPROTO[family], 0, 0, 0]) + b"".join(parts))


def _own_addresses(nl: Netlink, family: Family) -> set[IPAddress]:
    number = socket.AF_INET if family == 4 else socket.AF_INET6
    found = map(rt.decode_address, nl.dump(Message(rt.RTM_GETADDR, rt.IFADDRMSG.pack(number, 0, 0, 0, 0))))
    return {address.interface.ip for address in found if address is not None}
