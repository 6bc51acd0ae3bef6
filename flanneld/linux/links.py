"""Interfaces and their addresses over a Netlink socket: look up, make, change, remove; must not know what they are for.

Each function raises KernelError when the kernel refuses. Those that ensure something send only what differs, so that repeating them
notifies nobody. Source: linux/if_link.h, linux/rtnetlink.h.
"""

from __future__ import annotations

import errno
import secrets
import socket
from collections.abc import Collection

from flanneld.kernel import IPInterface, KernelError, Link
from flanneld.linux import rtnetlink as rt
from flanneld.linux.message import NLM_F_CREATE, NLM_F_EXCL, Message, attribute, nested, text, u32
from flanneld.linux.netlink import Netlink

VETH_INFO_PEER = 1
IFLA_BRPORT_MODE = 4
IFLA_INET6_ADDR_GEN_MODE, IN6_ADDR_GEN_MODE_NONE = 8, 1


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
    try:
        return nl.get(f"lookup of {name}", _request(rt.RTM_GETLINK, text(rt.IFLA_IFNAME, name)))
    except KernelError as error:
        if error.errno in (errno.ENODEV, errno.ERANGE):  # ERANGE: no name is that long
            return None
        raise


def addresses(nl: Netlink, index: int) -> tuple[IPInterface, ...]:
    """The interface's addresses, those first that other hosts reach best: see Address.rank."""
    return tuple(address.interface for address in sorted(_addresses(nl, index), key=lambda address: address.rank))


def new_link(name: str, kind: str, *attributes: bytes, info: bytes = b"") -> Message:
    """The request to make an interface of that kind; `info` is the kind's own IFLA_INFO_DATA."""
    link_info = nested(rt.IFLA_LINKINFO, text(rt.IFLA_INFO_KIND, kind), nested(rt.IFLA_INFO_DATA, info) if info else b"")
    return _request(rt.RTM_NEWLINK, text(rt.IFLA_IFNAME, name), *attributes, link_info, flags=NLM_F_CREATE | NLM_F_EXCL)


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


def set_addresses(nl: Netlink, index: int, wanted: Collection[IPInterface]) -> None:
    """Leave the interface with exactly these addresses, and its link-local ones."""
    for address in {found.interface for found in _addresses(nl, index)} - set(wanted):
        if not address.is_link_local:
            gone = _address_message(rt.RTM_DELADDR, index, address)
            _tolerate(errno.EADDRNOTAVAIL, nl, f"removal of {address} from link {index}", gone)
    # Read again: IPv4's secondary addresses go with their primary one.
    present = {found.interface for found in _addresses(nl, index)}
    for address in wanted:
        if address not in present:
            nl.change(f"{address} on link {index}", _address_message(rt.RTM_NEWADDR, index, address))


def ensure_bridge(nl: Netlink, name: str, *, mtu: int, mac: str | None = None, addresses: Collection[IPInterface] = ()) -> Link:
    """A bridge that is up, with exactly these addresses. Without `mac` it keeps its own, whatever ports come and go."""
    if link(nl, name) is None:
        # A bridge without a MAC of its own takes a port's, and changes it under the pods that have resolved it.
        request = new_link(name, "bridge", attribute(rt.IFLA_ADDRESS, rt.mac_bytes(mac or random_mac())))
        _tolerate(errno.EEXIST, nl, f"bridge {name}", request)  # somebody made it since
    found = present_link(nl, name)
    if found.kind != "bridge":
        raise KernelError(errno.EEXIST, f"bridge {name}", f"there is a {found.kind or 'hardware'} device of that name")
    adjust_link(nl, found, mtu=mtu, mac=mac)
    set_addresses(nl, found.index, addresses)
    return present_link(nl, name)


def present_link(nl: Netlink, name: str) -> Link:
    """The interface of that name; raises KernelError (ENODEV)."""
    found = link(nl, name)
    if found is None:
        raise KernelError(errno.ENODEV, f"lookup of {name}", "no such device")
    return found


def add_veth(
    nl: Netlink,
    name: str,
    peer: str,
    *,
    peer_netns: int | None = None,
    mtu: int = 1500,
    mac: str | None = None,
    peer_mac: str | None = None,
) -> None:
    """Make a pair, both ends down; `peer_netns` is an open descriptor of the namespace in which the peer is born."""
    ends = [
        u32(rt.IFLA_MTU, mtu) + (b"" if address is None else attribute(rt.IFLA_ADDRESS, rt.mac_bytes(address)))
        for address in (mac, peer_mac)
    ]
    netns = b"" if peer_netns is None else u32(rt.IFLA_NET_NS_FD, peer_netns)
    peer_end = rt.IFINFOMSG.pack(socket.AF_UNSPEC, 0, 0, 0, 0) + text(rt.IFLA_IFNAME, peer) + ends[1] + netns
    nl.change(f"veth {name}", new_link(name, "veth", ends[0], info=nested(VETH_INFO_PEER, peer_end)))


def set_hairpin(nl: Netlink, index: int) -> None:
    """Let the bridge send a frame back out of the port it came in by, for a pod that reaches itself through a service."""
    header = rt.IFINFOMSG.pack(rt.AF_BRIDGE, 0, index, 0, 0)
    body = header + nested(rt.IFLA_PROTINFO, attribute(IFLA_BRPORT_MODE, b"\1"))
    nl.change(f"hairpin mode of link {index}", Message(rt.RTM_SETLINK, body))


def disable_autoconf(nl: Netlink, index: int) -> None:
    """Make no IPv6 link-local address: the interface then asks for no router and joins no group; a kernel without IPv6 is fine."""
    inet6 = nested(socket.AF_INET6, attribute(IFLA_INET6_ADDR_GEN_MODE, bytes([IN6_ADDR_GEN_MODE_NONE])))
    header = rt.IFINFOMSG.pack(socket.AF_UNSPEC, 0, index, 0, 0)
    request = Message(rt.RTM_SETLINK, header + nested(rt.IFLA_AF_SPEC, inet6))
    _tolerate(errno.EAFNOSUPPORT, nl, f"IPv6 mode of link {index}", request)


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
    return Message(kind, rt.IFINFOMSG.pack(socket.AF_UNSPEC, 0, 0, 0, 0) + b"".join(attributes), flags)


def _addresses(nl: Netlink, index: int) -> list[rt.Address]:
    request = Message(rt.RTM_GETADDR, rt.IFADDRMSG.pack(socket.AF_UNSPEC, 0, 0, 0, index))
    try:
        found = map(rt.decode_address, nl.dump(request))
        return [address for address in found if address is not None and address.index == index]
    except KernelError as error:
        if error.errno == errno.ENODEV:
            return []
        raise


def _address_message(kind: int, index: int, address: IPInterface) -> Message:
    # Without duplicate detection an IPv6 address works at once; both families take the flag.
    header = rt.IFADDRMSG.pack(rt.FAMILY[address.version], address.network.prefixlen, rt.IFA_F_NODAD, 0, index)
    own = address.ip.packed
    body = header + attribute(rt.IFA_LOCAL, own) + attribute(rt.IFA_ADDRESS, own)
    return Message(kind, body, NLM_F_CREATE | NLM_F_EXCL if kind == rt.RTM_NEWADDR else 0)
