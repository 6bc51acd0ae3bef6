"""The vxlan device that takes a tunnel's marks off super-packets (see tunnel.bpf.c): a receiver alone, which sends nothing.

It is of use only where hosts are joined by virtual interfaces; packets from hardware have no such marks. It is named by the uplink,
as the pair is.
"""

from __future__ import annotations

import errno
import random
from dataclasses import dataclass

from flanneld.kernel import KernelError
from flanneld.linux import rtnetlink as rt
from flanneld.linux.links import disable_autoconf, get_link, link_at, new_link, present_link, remove_link, set_link
from flanneld.linux.message import attribute, attributes
from flanneld.linux.netlink import Netlink
from flanneld.linux.vxlan_device import IFLA_VXLAN_COLLECT_METADATA, IFLA_VXLAN_GPE, IFLA_VXLAN_LEARNING, IFLA_VXLAN_PORT, KIND

VIRTUAL = frozenset({"veth", "netkit", "macvlan", "ipvlan", "bridge"})
"""Kinds of interfaces that may lead to another network namespace of this machine."""
PORTS = range(61000, 65536)
"""Above what Linux gives to clients by itself (ip_local_port_range)."""
TRIES = 20


@dataclass(frozen=True, slots=True)
class Cleaner:
    """The device, up, and the UDP port that its socket has."""

    index: int
    port: int


OPTIONS = {IFLA_VXLAN_COLLECT_METADATA: b"\1", IFLA_VXLAN_GPE: b"", IFLA_VXLAN_LEARNING: b"\0"}
"""It takes every VNI, and packets of IP without Ethernet."""


def name(uplink: int) -> str:
    """What it is called; 15 bytes at most."""
    return f"flgro{uplink:x}v"


def is_virtual(nl: Netlink, uplink: int) -> bool:
    """Whether packets may come in there that no hardware has seen. A cleaner elsewhere would only slow the uplink's GRO down."""
    found = link_at(nl, uplink)
    return found is not None and found.kind in VIRTUAL


def ensure_cleaner(nl: Netlink, uplink: int) -> tuple[Cleaner | None, bool]:
    """The device; and whether it was to be made. None: this kernel has no vxlan. Raises KernelError.

    Somebody else's interface of such a name is left alone, and an error (EEXIST).
    """
    found = _present(nl, uplink)
    if found is not None:
        return found, False
    remove_cleaner(nl, uplink)
    try:
        return _make(nl, name(uplink)), True
    except KernelError as error:
        if error.errno == errno.EOPNOTSUPP:
            return None, False
        raise


def remove_cleaner(nl: Netlink, uplink: int) -> None:
    """It goes; nothing happens when there is none. Raises KernelError."""
    message = get_link(nl, name(uplink))
    found = rt.decode_link(message) if message is not None else None
    if found is not None and found.kind == KIND:
        remove_link(nl, found.name)


def _present(nl: Netlink, uplink: int) -> Cleaner | None:
    message = get_link(nl, name(uplink))
    found = rt.decode_link(message) if message is not None else None
    if message is None or found is None:
        return None
    if found.kind != KIND:
        raise KernelError(errno.EEXIST, f"vxlan {found.name}", f"there is a {found.kind or 'hardware'} device of that name")
    info = attributes(rt.link_attributes(message)[rt.IFLA_LINKINFO])
    options = attributes(info.get(rt.IFLA_INFO_DATA, b""))
    if not found.up or IFLA_VXLAN_GPE not in options:
        return None
    return Cleaner(found.index, int.from_bytes(options[IFLA_VXLAN_PORT], "big"))


def _make(nl: Netlink, called: str) -> Cleaner:
    for tried, port in enumerate(random.sample(PORTS, TRIES)):
        info = b"".join(attribute(key, value) for key, value in {**OPTIONS, IFLA_VXLAN_PORT: port.to_bytes(2, "big")}.items())
        nl.change(f"vxlan device {called}", new_link(called, KIND, info=info))
        index = present_link(nl, called).index
        disable_autoconf(nl, index)
        try:
            set_link(nl, index, up=True)
        except KernelError as error:
            remove_link(nl, called)
            if error.errno != errno.EADDRINUSE or tried == TRIES - 1:
                raise
        else:
            return Cleaner(index, port)
    raise AssertionError
