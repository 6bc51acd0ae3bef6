"""Interfaces and their addresses over a Netlink socket: look up, make, change, remove; must not know what they are for.

Each function raises KernelError when the kernel refuses. Those that ensure something send only what differs, so that repeating them
notifies nobody. Source: linux/if_link.h, linux/rtnetlink.h.
"""

from __future__ import annotations

import errno
import os
import secrets
import socket
import struct
from collections.abc import Collection
from dataclasses import dataclass

from flanneld.kernel import IPInterface, KernelError, Link
from flanneld.lease import IPNetwork
from flanneld.linux import rtnetlink as rt
from flanneld.linux.message import NLM_F_CREATE, NLM_F_EXCL, Message, attribute, integer, nested, string, text, u32
from flanneld.linux.netlink import Netlink

VETH_INFO_PEER = 1
IFLA_INFO_SLAVE_KIND, IFLA_INFO_SLAVE_DATA = 4, 5
IFLA_LINK = 5
IFLA_STATS64, TRAFFIC = 23, struct.Struct("=8Q")
IFLA_OPERSTATE, IF_OPER_UP = 16, 6
IFF_PROMISC = 0x100
IFLA_BRPORT_MODE, IFLA_BRPORT_ISOLATED = 4, 33
IPV6 = "/proc/sys/net/ipv6"
"""Not there in a kernel without IPv6, which refuses to hear of it."""
DOOMED_GROUP = 0x7A27A9
"""A group of interfaces (`ip link show group`) that nobody else uses: those that are being removed."""
IFLA_INET6_ADDR_GEN_MODE, IN6_ADDR_GEN_MODE_NONE = 8, 1


LONGEST_NAME = 15
"""Bytes: IFNAMSIZ of linux/if.h, less the NUL."""
SKIP_STATISTICS = u32(29, 8)
"""IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS: they are half of what the kernel says of an interface."""
ONE_QUEUE = u32(31, 1) + u32(32, 1)
"""IFLA_NUM_TX_QUEUES, IFLA_NUM_RX_QUEUES: a veth queues nothing, and every queue takes long to make."""


def links(nl: Netlink) -> tuple[Link, ...]:
    """Every interface of the namespace."""
    found = map(rt.decode_link, dump_links(nl))
    return tuple(link for link in found if link is not None)


def dump_links(nl: Netlink) -> list[Message]:
    """All that the kernel tells about every interface."""
    return nl.dump(_request(rt.RTM_GETLINK))


def link(nl: Netlink, name: str) -> Link | None:
    """The interface of that name, or None."""
    message = get_link(nl, name)
    return None if message is None else rt.decode_link(message)


def get_link(nl: Netlink, name: str) -> Message | None:
    """All that the kernel tells about the interface of that name, or None."""
    if len(name) > LONGEST_NAME:
        return None
    try:
        return nl.get(f"lookup of {name}", _request(rt.RTM_GETLINK, text(rt.IFLA_IFNAME, name), SKIP_STATISTICS))
    except KernelError as error:
        if error.errno in (errno.ENODEV, errno.ERANGE):
            return None
        raise


def link_at(nl: Netlink, index: int) -> Link | None:
    """The interface of that index, or None."""
    try:
        return rt.decode_link(nl.get(f"lookup of link {index}", Message(rt.RTM_GETLINK, _header(index))))
    except KernelError as error:
        if error.errno in (errno.ENODEV, errno.EINVAL):  # EINVAL: no index at all
            return None
        raise


@dataclass(frozen=True, slots=True)
class Traffic:
    """What an interface has carried since it was made (struct rtnl_link_stats64, its first eight numbers)."""

    rx_packets: int
    tx_packets: int
    rx_bytes: int
    tx_bytes: int
    rx_errors: int
    tx_errors: int
    rx_dropped: int
    tx_dropped: int


def traffic(nl: Netlink, index: int) -> tuple[str, Traffic] | None:
    """An interface's name and what it has carried; None when there is no such interface."""
    try:
        message = nl.get(f"statistics of link {index}", Message(rt.RTM_GETLINK, _header(index)))
    except KernelError:
        return None
    found = rt.link_attributes(message)
    return string(found.get(rt.IFLA_IFNAME)), Traffic(*TRAFFIC.unpack_from(found[IFLA_STATS64]))


def lower_of(nl: Netlink, name: str) -> int:
    """The index of what the interface stands on, in that one's namespace: a veth's other end; 0: nothing, or no such interface."""
    message = get_link(nl, name)
    return 0 if message is None else integer(rt.link_attributes(message).get(IFLA_LINK))


def addresses(nl: Netlink, index: int) -> tuple[IPInterface, ...]:
    """The interface's addresses, those first that other hosts reach best: see Address.rank."""
    return tuple(address.interface for address in sorted(_addresses(nl, index), key=lambda address: address.rank))


def tentative(nl: Netlink, index: int) -> tuple[IPInterface, ...]:
    """Those of the interface's addresses that are still being checked for duplicates (RFC 4862)."""
    return tuple(address.interface for address in _addresses(nl, index) if address.flags & rt.IFA_F_TENTATIVE)


def route_destinations(nl: Netlink, index: int) -> frozenset[IPNetwork]:
    """Where the main table leads by this interface."""
    found = [rt.decode_route(message) for family in rt.FAMILY.values() for message in _dump_routes(nl, family, index)]
    return frozenset(route.destination for route in found if route is not None)


def _dump_routes(nl: Netlink, family: int, index: int) -> list[Message]:
    try:
        return nl.dump(rt.route_dump(family, device=index))
    except KernelError as error:
        if error.errno == errno.ENOENT:  # nobody has put a route into the table yet
            return []
        raise


def new_link(name: str, kind: str, *attributes: bytes, info: bytes = b"", up: bool = False) -> Message:
    """The request to make an interface of that kind; `info` is the kind's own IFLA_INFO_DATA."""
    link_info = nested(rt.IFLA_LINKINFO, text(rt.IFLA_INFO_KIND, kind), nested(rt.IFLA_INFO_DATA, info) if info else b"")
    header = rt.IFINFOMSG.pack(socket.AF_UNSPEC, 0, 0, rt.IFF_UP if up else 0, rt.IFF_UP if up else 0)
    body = b"".join((header, text(rt.IFLA_IFNAME, name), *attributes, link_info))
    return Message(rt.RTM_NEWLINK, body, NLM_F_CREATE | NLM_F_EXCL)


def set_link(
    nl: Netlink,
    index: int,
    *,
    up: bool | None = None,
    mtu: int | None = None,
    master: int | None = None,
    netns: int | None = None,
    name: str | None = None,
    mac: str | None = None,
) -> None:
    """Change what is given, in one request. `master` 0 takes the interface out of its bridge; `netns` is an open descriptor."""
    attributes = [
        b"" if netns is None else u32(rt.IFLA_NET_NS_FD, netns),
        b"" if mac is None else attribute(rt.IFLA_ADDRESS, rt.mac_bytes(mac)),
        b"" if mtu is None else u32(rt.IFLA_MTU, mtu),
        b"" if name is None else text(rt.IFLA_IFNAME, name),
        b"" if master is None else u32(rt.IFLA_MASTER, master),
    ]
    header = rt.IFINFOMSG.pack(socket.AF_UNSPEC, 0, index, rt.IFF_UP if up else 0, 0 if up is None else rt.IFF_UP)
    given = {"up": up, "mtu": mtu, "master": master, "netns": netns, "name": name, "mac": mac}
    what = ", ".join(f"{key} {value}" for key, value in given.items() if value is not None)
    nl.change(f"{what} for link {index}", Message(rt.RTM_SETLINK, header + b"".join(attributes)))


def adjust_link(nl: Netlink, found: Link, *, mtu: int, mac: str | None = None) -> None:
    """Bring the interface up, to that MTU and that MAC, changing only what differs."""
    mac = None if mac == found.mac else mac
    if mac is not None or mtu != found.mtu or not found.up:
        set_link(nl, found.index, up=True, mtu=None if mtu == found.mtu else mtu, mac=mac)


def remove_link(nl: Netlink, name: str) -> None:
    """Remove the interface; nothing happens when there is none."""
    _tolerate(errno.ENODEV, nl, f"removal of {name}", _request(rt.RTM_DELLINK, text(rt.IFLA_IFNAME, name)))


def remove_links(nl: Netlink, names: Collection[str]) -> None:
    """Remove many interfaces, which the kernel waits for once and not once each; those that are not there are no matter."""
    outcomes = nl.transact(
        [Message(rt.RTM_SETLINK, _header() + text(rt.IFLA_IFNAME, name) + u32(rt.IFLA_GROUP, DOOMED_GROUP)) for name in names]
    )
    for name, outcome in zip(names, outcomes, strict=True):
        if outcome and outcome != errno.ENODEV:
            raise KernelError(int(outcome), f"removal of {name}", outcome.why)
    _tolerate(errno.ENODEV, nl, f"removal of {', '.join(names)}", _request(rt.RTM_DELLINK, u32(rt.IFLA_GROUP, DOOMED_GROUP)))


def set_addresses(nl: Netlink, index: int, wanted: Collection[IPInterface]) -> None:
    """Leave the interface with exactly these addresses, and its link-local ones."""
    for address in {found.interface for found in _addresses(nl, index)} - set(wanted):
        if not address.is_link_local:
            remove_address(nl, index, address)
    # Read again: IPv4's secondary addresses go with their primary one.
    present = {found.interface for found in _addresses(nl, index)}
    for address in wanted:
        if address not in present:
            nl.change(f"{address} on link {index}", new_address(index, address))


def ensure_bridge(nl: Netlink, name: str, *, mtu: int = 0, mac: str | None = None) -> Link:
    """A bridge that is up; one that is made gets this MAC or a random one, and keeps it, whatever ports come and go.

    `mtu` 0 leaves the MTU as it is.
    """
    found = link(nl, name)
    if found is None:
        # A bridge without a MAC of its own takes a port's, and changes it under the pods that have resolved it.
        request = new_link(name, "bridge", attribute(rt.IFLA_ADDRESS, rt.mac_bytes(mac or random_mac())))
        _tolerate(errno.EEXIST, nl, f"bridge {name}", request)  # somebody made it since
        found = present_link(nl, name)
    if found.kind != "bridge":
        raise KernelError(errno.EEXIST, f"bridge {name}", f"there is a {found.kind or 'hardware'} device of that name")
    if found.up and mtu in (0, found.mtu):
        return found
    adjust_link(nl, found, mtu=mtu or found.mtu)
    return present_link(nl, name)


def present_link(nl: Netlink, name: str) -> Link:
    """The interface of that name; raises KernelError (ENODEV)."""
    found = link(nl, name)
    if found is None:
        raise KernelError(errno.ENODEV, f"lookup of {name}", "no such device")
    return found


@dataclass(frozen=True, slots=True)
class Port:
    """A place in a bridge."""

    bridge: int
    """The bridge's index."""
    hairpin: bool = False
    """A frame may leave by the port it came in by: for a pod that reaches itself through a service."""
    isolated: bool = False
    """Isolated ports do not reach each other."""


def add_veth(
    nl: Netlink,
    name: str,
    peer: str,
    *,
    peer_netns: int | None = None,
    mtu: int = 0,
    mac: str | None = None,
    peer_mac: str | None = None,
    port: Port | None = None,
) -> None:
    """Make a pair, in one send; `peer_netns` is an open descriptor of the namespace in which the peer is born.

    Both ends are down, but with a `port` our end is in its bridge, and up. `mtu` 0 is the kernel's default.
    """
    ends = [
        b"".join((ONE_QUEUE, u32(rt.IFLA_MTU, mtu) if mtu else b"", attribute(rt.IFLA_ADDRESS, rt.mac_bytes(own)) if own else b""))
        for own in (mac, peer_mac)
    ]
    netns = b"" if peer_netns is None else u32(rt.IFLA_NET_NS_FD, peer_netns)
    peer_end = _header() + text(rt.IFLA_IFNAME, peer) + ends[1] + netns
    master = u32(rt.IFLA_MASTER, port.bridge) if port else b""
    requests = [new_link(name, "veth", ends[0], master, info=nested(VETH_INFO_PEER, peer_end), up=port is not None)]
    requests += [_port_settings(name, port)] if port else []
    outcomes = nl.transact(requests)
    failed = next((outcome for outcome in outcomes if outcome), None)
    if failed:
        if not outcomes[0]:  # the pair is there, but not as it was to be
            remove_link(nl, name)
        raise KernelError(int(failed), f"veth {name} with peer {peer}", failed.why)


def _port_settings(name: str, port: Port) -> Message:
    """By name, since nobody knows the port's index yet."""
    settings = attribute(IFLA_BRPORT_MODE, bytes([port.hairpin])) + attribute(IFLA_BRPORT_ISOLATED, bytes([port.isolated]))
    info = nested(rt.IFLA_LINKINFO, text(IFLA_INFO_SLAVE_KIND, "bridge"), nested(IFLA_INFO_SLAVE_DATA, settings))
    # No IPv6 of the port's own: it would ask the pod about routers and multicast, and nobody speaks to it.
    silence = _no_autoconf() if os.path.isdir(IPV6) else b""
    return Message(rt.RTM_NEWLINK, _header() + text(rt.IFLA_IFNAME, name) + info + silence)


def is_running(nl: Netlink, name: str) -> bool:
    """Whether packets pass: up, and with a carrier that the rest of the kernel knows of (RFC 2863's operational status)."""
    message = get_link(nl, name)
    return message is not None and rt.link_attributes(message).get(IFLA_OPERSTATE) == bytes([IF_OPER_UP])


def master_of(nl: Netlink, name: str) -> int:
    """The index of what the interface is a port of; 0: nothing, or there is no such interface."""
    message = get_link(nl, name)
    return 0 if message is None else integer(rt.link_attributes(message).get(rt.IFLA_MASTER))


def set_promiscuous(nl: Netlink, index: int) -> None:
    """Take every frame that comes by."""
    header = rt.IFINFOMSG.pack(socket.AF_UNSPEC, 0, index, IFF_PROMISC, IFF_PROMISC)
    nl.change(f"promiscuous mode of link {index}", Message(rt.RTM_SETLINK, header))


def disable_autoconf(nl: Netlink, index: int) -> None:
    """Make no IPv6 link-local address: the interface then asks for no router and joins no group; a kernel without IPv6 is fine."""
    _tolerate(errno.EAFNOSUPPORT, nl, f"IPv6 mode of link {index}", Message(rt.RTM_SETLINK, _header(index) + _no_autoconf()))


def _no_autoconf() -> bytes:
    mode = attribute(IFLA_INET6_ADDR_GEN_MODE, bytes([IN6_ADDR_GEN_MODE_NONE]))
    return nested(rt.IFLA_AF_SPEC, nested(socket.AF_INET6, mode))


def random_mac() -> str:
    """A locally administered unicast MAC."""
    first, *rest = secrets.token_bytes(6)
    return bytes([first & 0xFE | 0x02, *rest]).hex(":")


def _tolerate(harmless: int, nl: Netlink, what: str, request: Message) -> None:
    try:
        nl.change(what, request)
    except KernelError as error:
        if error.errno != harmless:
            raise


def _request(kind: int, *attributes: bytes, flags: int = 0) -> Message:
    return Message(kind, _header() + b"".join(attributes), flags)


def _header(index: int = 0) -> bytes:
    return rt.IFINFOMSG.pack(socket.AF_UNSPEC, 0, index, 0, 0)


def _addresses(nl: Netlink, index: int) -> list[rt.Address]:
    request = Message(rt.RTM_GETADDR, rt.IFADDRMSG.pack(socket.AF_UNSPEC, 0, 0, 0, index))
    try:
        found = map(rt.decode_address, nl.dump(request))
        return [address for address in found if address is not None and address.index == index]
    except KernelError as error:
        if error.errno == errno.ENODEV:
            return []
        raise


def new_address(index: int, address: IPInterface, flags: int = rt.IFA_F_NODAD) -> Message:
    """The request to give an interface an address, refused (EEXIST) when it has it.

    IFA_F_NODAD: without duplicate detection an IPv6 address works at once; both families take the flag.
    """
    return _address_message(rt.RTM_NEWADDR, index, address, flags)


def add_address(nl: Netlink, index: int, address: IPInterface) -> None:
    """Give an interface an address; nothing happens when it has it."""
    _tolerate(errno.EEXIST, nl, f"{address} on link {index}", new_address(index, address))


def remove_address(nl: Netlink, index: int, address: IPInterface) -> None:
    """Take an address from an interface; nothing happens when it has it not."""
    gone = _address_message(rt.RTM_DELADDR, index, address)
    _tolerate(errno.EADDRNOTAVAIL, nl, f"removal of {address} from link {index}", gone)


def _address_message(kind: int, index: int, address: IPInterface, flags: int = 0) -> Message:
    # Flags of more than a byte have an attribute of their own.
    header = rt.IFADDRMSG.pack(rt.FAMILY[address.version], address.network.prefixlen, flags & 0xFF, 0, index)
    own = address.ip.packed
    body = header + attribute(rt.IFA_LOCAL, own) + attribute(rt.IFA_ADDRESS, own) + u32(rt.IFA_FLAGS, flags)
    return Message(kind, body, NLM_F_CREATE | NLM_F_EXCL if kind == rt.RTM_NEWADDR else 0)
