"""What can be set on an interface that is there: MAC, MTU, what it takes, how much waits to be sent; must not know why.

Source: linux/if_link.h, linux/if.h.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass, fields

from flanneld.linux import rtnetlink as rt
from flanneld.linux.links import get_link
from flanneld.linux.message import Message, attribute, integer, u32
from flanneld.linux.netlink import Netlink

IFLA_TXQLEN = 13
IFF_PROMISC, IFF_ALLMULTI = 0x100, 0x200


@dataclass(frozen=True, slots=True)
class LinkSettings:
    """Some of an interface's settings; None: not this one."""

    mac: str | None = None
    mtu: int | None = None
    promisc: bool | None = None
    """Take every frame that comes by."""
    allmulti: bool | None = None
    """Take every multicast frame."""
    tx_queue: int | None = None
    """Packets that wait to be sent, at most."""

    def where_wanted(self, wanted: LinkSettings) -> LinkSettings:
        """Those of ours that `wanted` has too."""
        ours = {each.name: getattr(self, each.name) for each in fields(self) if getattr(wanted, each.name) is not None}
        return LinkSettings(**ours)


def link_settings(nl: Netlink, name: str) -> LinkSettings | None:
    """All of an interface's settings; None when there is no such interface."""
    message = get_link(nl, name)
    if message is None:
        return None
    flags = rt.IFINFOMSG.unpack_from(message.body)[3]
    found = rt.link_attributes(message)
    return LinkSettings(
        rt.mac_text(found.get(rt.IFLA_ADDRESS)),
        integer(found.get(rt.IFLA_MTU)),
        bool(flags & IFF_PROMISC),
        bool(flags & IFF_ALLMULTI),
        integer(found.get(IFLA_TXQLEN)),
    )


def change_settings(nl: Netlink, index: int, wanted: LinkSettings) -> None:
    """Change what is wanted, in one request. Raises KernelError."""
    nl.change(f"{wanted} on link {index}", Message(rt.RTM_SETLINK, encode_settings(index, wanted)))


def encode_settings(index: int, wanted: LinkSettings) -> bytes:
    """The body of the request."""
    flags = mask = 0
    for flag, value in ((IFF_PROMISC, wanted.promisc), (IFF_ALLMULTI, wanted.allmulti)):
        mask |= 0 if value is None else flag
        flags |= flag if value else 0
    body = rt.IFINFOMSG.pack(socket.AF_UNSPEC, 0, index, flags, mask)
    body += b"" if wanted.mac is None else attribute(rt.IFLA_ADDRESS, rt.mac_bytes(wanted.mac))
    body += b"" if wanted.mtu is None else u32(rt.IFLA_MTU, wanted.mtu)
    return body + (b"" if wanted.tx_queue is None else u32(IFLA_TXQLEN, wanted.tx_queue))
