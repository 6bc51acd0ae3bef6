"""The VXLAN device as flannel makes it (flannel's pkg/backend/vxlan/device.go); must not know leases or peers.

What is compared before a device is kept: VNI, parent, local address, port, GBP, and that it has no default destination and asks no
user space. Source: linux/if_link.h, drivers/net/vxlan/vxlan_core.c.
"""

from __future__ import annotations

import errno
import socket
import sys

from flanneld.kernel import KernelError, Link, VxlanLink
from flanneld.linux import links
from flanneld.linux import rtnetlink as rt
from flanneld.linux.message import Message, attribute, attributes, integer, nested, string, text, u32
from flanneld.linux.netlink import Errno, Netlink
from flanneld.linux.offloads import Offload, offload, set_offload, socket_beside

IFLA_VXLAN_ID, IFLA_VXLAN_GROUP, IFLA_VXLAN_LINK, IFLA_VXLAN_LOCAL, IFLA_VXLAN_LEARNING = 1, 2, 3, 4, 7
IFLA_VXLAN_L2MISS, IFLA_VXLAN_L3MISS, IFLA_VXLAN_PORT, IFLA_VXLAN_GROUP6, IFLA_VXLAN_LOCAL6 = 13, 14, 15, 16, 17
IFLA_VXLAN_GBP, IFLA_VXLAN_COLLECT_METADATA, IFLA_VXLAN_GPE = 23, 25, 27
"""GBP and GPE have no value: they are there or not. The port is in network order."""
KIND = "vxlan"

_IDENTITY = (
    IFLA_VXLAN_ID, IFLA_VXLAN_GROUP, IFLA_VXLAN_LINK, IFLA_VXLAN_LOCAL, IFLA_VXLAN_L2MISS, IFLA_VXLAN_L3MISS, IFLA_VXLAN_PORT,
    IFLA_VXLAN_GROUP6, IFLA_VXLAN_LOCAL6, IFLA_VXLAN_GBP, IFLA_VXLAN_COLLECT_METADATA, IFLA_VXLAN_GPE,
)  # fmt: skip


def ensure_vxlan(nl: Netlink, wanted: VxlanLink) -> Link:
    """Bring the device to `wanted` and up. One that differs in more than MAC, MTU, learning and addresses is made anew.

    Raises KernelError: EEXIST when another device has the VNI and port,
    EADDRINUSE when something else has the port, EOPNOTSUPP when the kernel has no vxlan.
    """
    found = links.get_link(nl, wanted.name)
    if found is not None and _identity(found) != _wanted_identity(wanted):
        links.remove_link(nl, wanted.name)
        found = None
    if found is None:
        _create(nl, wanted)
    elif _learning(found) != wanted.learning:
        nl.change(f"learning of {wanted.name}", _changed_learning(wanted))
    try:
        return _bring_up(nl, wanted)
    except KernelError:
        if found is None:
            links.remove_link(nl, wanted.name)
        raise


def pending_vxlan(nl: Netlink, wanted: VxlanLink) -> tuple[str, ...]:
    """What `ensure_vxlan` would do, in words; nothing when all is as it should be."""
    found = links.get_link(nl, wanted.name)
    device = links.link(nl, wanted.name)
    if found is None or device is None:
        return (f"device {wanted.name}: make",)
    if _identity(found) != _wanted_identity(wanted):
        return (f"device {wanted.name}: make anew, it is another than VNI {wanted.vni}, port {wanted.port}, local {wanted.local}",)
    changes = [] if device.up else [f"device {wanted.name}: bring up"]
    for name, present, should in (("MTU", device.mtu, wanted.mtu), ("MAC", device.mac, wanted.mac)):
        if present != should:
            changes.append(f"device {wanted.name}: {name} {present} -> {should}")
    if _learning(found) != wanted.learning:
        changes.append(f"device {wanted.name}: learning {wanted.learning}")
    if wanted.tx_checksum is not None:
        with socket_beside(nl.fileno()) as any_socket:
            if offload(any_socket, wanted.name, Offload.TX_CHECKSUM) != wanted.tx_checksum:
                changes.append(f"device {wanted.name}: transmit checksum offload {'on' if wanted.tx_checksum else 'off'}")
    present_addresses = {address for address in links.addresses(nl, device.index) if not address.is_link_local}
    if wanted.addresses is not None and present_addresses != set(wanted.addresses):
        changes.append(f"device {wanted.name}: addresses {' '.join(map(str, wanted.addresses))}")
    return tuple(changes)


def _bring_up(nl: Netlink, wanted: VxlanLink) -> Link:
    device = links.present_link(nl, wanted.name)
    try:
        links.adjust_link(nl, device, mtu=wanted.mtu, mac=wanted.mac)
    except KernelError as error:
        if error.errno == errno.EADDRINUSE:
            raise KernelError(error.errno, f"vxlan device {wanted.name}", f"UDP port {wanted.port} is taken") from error
        raise
    if wanted.addresses is not None:
        links.set_addresses(nl, device.index, wanted.addresses)
    if wanted.tx_checksum is not None:
        with socket_beside(nl.fileno()) as any_socket:
            set_offload(any_socket, wanted.name, Offload.TX_CHECKSUM, wanted.tx_checksum)
    return links.present_link(nl, wanted.name)


def _wanted_identity(wanted: VxlanLink) -> dict[int, bytes]:
    return {
        IFLA_VXLAN_ID: wanted.vni.to_bytes(4, sys.byteorder),
        IFLA_VXLAN_LINK: wanted.parent.to_bytes(4, sys.byteorder),
        IFLA_VXLAN_LOCAL if wanted.local.version == 4 else IFLA_VXLAN_LOCAL6: wanted.local.packed,
        IFLA_VXLAN_PORT: wanted.port.to_bytes(2, "big"),
        **({IFLA_VXLAN_GBP: b""} if wanted.gbp else {}),
    }


def _identity(message: Message) -> dict[int, bytes]:
    """What the kernel says of the same attributes, without the switches that are off; empty for another kind of device."""
    kind, options = _link_info(message)
    if kind != KIND:
        return {}
    return {key: options[key] for key in _IDENTITY if key in options and (any(options[key]) or not options[key])}


def _learning(message: Message) -> bool:
    return bool(integer(_link_info(message)[1].get(IFLA_VXLAN_LEARNING)))


def _link_info(message: Message) -> tuple[str, dict[int, bytes]]:
    info = attributes(attributes(message.body, rt.IFINFOMSG.size).get(rt.IFLA_LINKINFO, b""))
    return string(info.get(rt.IFLA_INFO_KIND)), attributes(info.get(rt.IFLA_INFO_DATA, b""))


def _create(nl: Netlink, wanted: VxlanLink) -> None:
    options = {**_wanted_identity(wanted), IFLA_VXLAN_LEARNING: bytes([wanted.learning])}
    info = b"".join(attribute(key, value) for key, value in options.items())
    # A MAC given at creation is not replaced by systemd's MACAddressPolicy.
    mac = attribute(rt.IFLA_ADDRESS, rt.mac_bytes(wanted.mac))
    request = links.new_link(wanted.name, KIND, mac, u32(rt.IFLA_MTU, wanted.mtu), info=info)
    (outcome,) = nl.transact([request])
    if outcome:
        raise KernelError(int(outcome), f"vxlan device {wanted.name}", _reason(nl, wanted, outcome))
    links.disable_autoconf(nl, links.present_link(nl, wanted.name).index)


def _reason(nl: Netlink, wanted: VxlanLink, outcome: Errno) -> str:
    if outcome == errno.EOPNOTSUPP:
        return "this kernel has no vxlan (modprobe vxlan)"
    if outcome == errno.EEXIST:
        for message in links.dump_links(nl):
            identity = _identity(message)
            if all(identity.get(key) == _wanted_identity(wanted)[key] for key in (IFLA_VXLAN_ID, IFLA_VXLAN_PORT)):
                name = string(attributes(message.body, rt.IFINFOMSG.size).get(rt.IFLA_IFNAME))
                return f"{name} has VNI {wanted.vni} on port {wanted.port} already"
    return outcome.why


def _changed_learning(wanted: VxlanLink) -> Message:
    data = nested(rt.IFLA_INFO_DATA, attribute(IFLA_VXLAN_LEARNING, bytes([wanted.learning])))
    info = nested(rt.IFLA_LINKINFO, text(rt.IFLA_INFO_KIND, KIND), data)
    return Message(rt.RTM_NEWLINK, rt.IFINFOMSG.pack(socket.AF_UNSPEC, 0, 0, 0, 0) + text(rt.IFLA_IFNAME, wanted.name) + info)
