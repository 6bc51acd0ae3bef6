"""The veth pair through which the programs borrow the kernel's merging and cutting of super-packets (see tunnel.bpf.c).

It is named by the uplink, so that the next daemon finds what a killed one has left. No packet of it is for the stack: programs at
both ends pass everything on.
"""

from __future__ import annotations

import errno
import os
import socket
from dataclasses import dataclass

from flanneld.kernel import KernelError, Link
from flanneld.linux import rtnetlink as rt
from flanneld.linux.links import (
    IFLA_LINK,
    VETH_INFO_PEER,
    disable_autoconf,
    get_link,
    new_link,
    present_link,
    remove_link,
    set_link,
)
from flanneld.linux.message import Message, integer, nested, string, text, u32
from flanneld.linux.netlink import Netlink
from flanneld.linux.offloads import Offload, set_offload

KIND = "veth"
MTU = 65535
"""Bytes, the most that there is: what the TUN sends must pass, whatever its MTU."""
IFLA_IFALIAS = 20
IFLA_NUM_TX_QUEUES, IFLA_NUM_RX_QUEUES = 31, 32
MOST_QUEUES = 32
CLSACT_IS_OURS = "the uplink's clsact is ours"
"""Stands in the pair's alias, which a killed daemon leaves to the next."""


@dataclass(frozen=True, slots=True)
class Pair:
    """The indexes of its ends."""

    a: int
    """Towards the underlay. It sends single packets of TCP, which the other end merges (a veth merges from no end that has TSO)."""
    b: int
    """Towards the TUN. It merges, and cuts and finishes what it sends."""


def names(uplink: int) -> tuple[str, str]:
    """What the ends are called; 15 bytes at most."""
    return f"flgro{uplink:x}a", f"flgro{uplink:x}b"


def ensure_pair(nl: Netlink, any_socket: socket.socket, uplink: int) -> tuple[Pair, bool]:
    """The pair, up and set; and whether anything was to be done for that. Raises KernelError.

    `any_socket` is one of the namespace. Somebody else's interface of such a name is left alone, and an error (EEXIST).
    """
    a, b = names(uplink)
    pair = _present(nl, a, b)
    changed = pair is None
    if pair is None:
        pair = _make(nl, a, b)
    for name, offload, on in (
        (a, Offload.TSO, False),
        (b, Offload.TX_CHECKSUM, False),
        (b, Offload.TSO, False),
        (b, Offload.GRO, True),
    ):
        changed |= set_offload(any_socket, name, offload, on)
    return pair, changed


def _present(nl: Netlink, a: str, b: str) -> Pair | None:
    """The pair, if both ends are as `_make` leaves them; else whatever is there goes."""
    found = [message for name in (a, b) if (message := get_link(nl, name)) is not None]
    ends = [link for message in found if (link := rt.decode_link(message)) is not None]
    for end in ends:
        if end.kind != KIND:
            raise KernelError(errno.EEXIST, f"veth {end.name}", f"there is a {end.kind or 'hardware'} device of that name")
    are_set = len(ends) == 2 and all(end.up and end.mtu == MTU for end in ends)
    if are_set and integer(rt.link_attributes(found[0]).get(IFLA_LINK)) == ends[1].index:
        return Pair(ends[0].index, ends[1].index)
    for end in ends:
        remove_link(nl, end.name)
    return None


def _make(nl: Netlink, a: str, b: str) -> Pair:
    """A queue for each processor: each then merges what it has received itself."""
    queues = min(os.cpu_count() or 1, MOST_QUEUES)
    setting = u32(IFLA_NUM_TX_QUEUES, queues) + u32(IFLA_NUM_RX_QUEUES, queues) + u32(rt.IFLA_MTU, MTU)
    peer = rt.IFINFOMSG.pack(socket.AF_UNSPEC, 0, 0, 0, 0) + text(rt.IFLA_IFNAME, b) + setting
    nl.change(f"veth {a} with peer {b}", new_link(a, KIND, setting, info=nested(VETH_INFO_PEER, peer)))
    return Pair(_raised(nl, a).index, _raised(nl, b).index)


def _raised(nl: Netlink, name: str) -> Link:
    found = present_link(nl, name)
    disable_autoconf(nl, found.index)
    set_link(nl, found.index, up=True)
    return found


def remove_pair(nl: Netlink, uplink: int) -> None:
    """Both ends go; nothing happens when there are none. Raises KernelError."""
    for name in names(uplink):
        message = get_link(nl, name)
        found = rt.decode_link(message) if message is not None else None
        if found is not None and found.kind == KIND:
            remove_link(nl, name)


def note_clsact(nl: Netlink, pair: Pair) -> None:
    """Leave word that the uplink had no clsact before us."""
    header = rt.IFINFOMSG.pack(socket.AF_UNSPEC, 0, pair.a, 0, 0)
    nl.change(f"alias of link {pair.a}", Message(rt.RTM_SETLINK, header + text(IFLA_IFALIAS, CLSACT_IS_OURS)))


def clsact_is_ours(nl: Netlink, uplink: int) -> bool:
    """Whether that word was left, by us or by a daemon before; False: it is another's, or nobody knows."""
    message = get_link(nl, names(uplink)[0])
    return message is not None and string(rt.link_attributes(message).get(IFLA_IFALIAS)) == CLSACT_IS_OURS
