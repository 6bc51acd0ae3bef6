"""Interfaces that stand on another one, their master: MACVLAN, IPVLAN, VLAN; must not know what they are for.

Each function raises KernelError when the kernel refuses. Source: linux/if_link.h (IFLA_MACVLAN_*, IFLA_IPVLAN_*, IFLA_VLAN_*).
"""

from __future__ import annotations

import errno
import sys
from dataclasses import dataclass

from flanneld.kernel import KernelError
from flanneld.linux import rtnetlink as rt
from flanneld.linux.links import IFLA_LINK, get_link, new_link
from flanneld.linux.message import Message, attribute, attributes, integer, u32
from flanneld.linux.netlink import Netlink

IFLA_MACVLAN_MODE, IFLA_MACVLAN_BC_QUEUE_LEN = 1, 7
IFLA_IPVLAN_MODE = 1
IFLA_VLAN_ID = 1
MACVLAN_MODES = {"bridge": 4, "private": 1, "vepa": 2, "passthru": 8}
IPVLAN_MODES = {"l2": 0, "l3": 1, "l3s": 2}
PROBE = "kindprobe"
"""Name of an interface that is never made."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of interface with its settings."""

    name: str
    info: bytes
    """Its IFLA_INFO_DATA."""


def macvlan(mode: str, queue: int = 0) -> Kind:
    """With a MAC of its own. `queue`: packets to many receivers that may wait (the kernel's default for 0)."""
    length = u32(IFLA_MACVLAN_BC_QUEUE_LEN, queue) if queue else b""
    return Kind("macvlan", u32(IFLA_MACVLAN_MODE, MACVLAN_MODES[mode]) + length)


def ipvlan(mode: str) -> Kind:
    """With its master's MAC, told apart by address."""
    return Kind("ipvlan", _u16(IFLA_IPVLAN_MODE, IPVLAN_MODES[mode]))


def vlan(vlan_id: int) -> Kind:
    """The master's frames with that tag (IEEE 802.1Q)."""
    return Kind("vlan", _u16(IFLA_VLAN_ID, vlan_id))


def _u16(kind: int, value: int) -> bytes:
    return attribute(kind, value.to_bytes(2, sys.byteorder))


def new_sublink(name: str, kind: Kind, master: int, *, mtu: int = 0, mac: str | None = None, netns: int | None = None) -> Message:
    """The request to make one, down; with `netns`, an open descriptor, it is born there, and only its master is here.

    The kernel looks for `name` here as well, and refuses one that is taken: choose one that nobody has, and rename.
    """
    return new_link(
        name,
        kind.name,
        u32(IFLA_LINK, master),
        u32(rt.IFLA_MTU, mtu) if mtu else b"",
        attribute(rt.IFLA_ADDRESS, rt.mac_bytes(mac)) if mac else b"",
        u32(rt.IFLA_NET_NS_FD, netns) if netns is not None else b"",
        info=kind.info,
    )


def settings(nl: Netlink, name: str) -> dict[int, int]:
    """An interface's IFLA_INFO_DATA as numbers; empty when there is no such interface."""
    message = get_link(nl, name)
    if message is None:
        return {}
    info = attributes(rt.link_attributes(message).get(rt.IFLA_LINKINFO, b""))
    return {kind: integer(value) for kind, value in attributes(info.get(rt.IFLA_INFO_DATA, b"")).items()}


def is_known(nl: Netlink, kind: str) -> bool:
    """Whether the kernel can make such interfaces. It loads the module for it, and makes none: there is no master."""
    try:
        nl.change(f"probe for {kind}", new_link(PROBE, kind))
    except KernelError as error:
        return error.errno != errno.EOPNOTSUPP
    raise KernelError(errno.EEXIST, f"probe for {kind}", "it was made without a master")
