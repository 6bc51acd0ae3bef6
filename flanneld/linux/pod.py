"""A link in a pod: up, with addresses and routes; and what makes it reachable at once. Must not know where addresses come from."""

from __future__ import annotations

import errno
import socket
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network

from flanneld.kernel import IPInterface, KernelError
from flanneld.lease import IPAddress, IPNetwork
from flanneld.linux import rtnetlink as rt
from flanneld.linux.links import new_address, present_link
from flanneld.linux.message import NLM_F_CREATE, NLM_F_EXCL, Message, attribute, nested, u32
from flanneld.linux.netlink import Netlink

LOOPBACK_INDEX = 1
"""Of `lo`, in every namespace (LOOPBACK_IFINDEX of net/flow.h)."""
DEFAULT_DESTINATION: dict[int, IPNetwork] = {4: IPv4Network("0.0.0.0/0"), 6: IPv6Network("::/0")}
RTPROT_BOOT = 3
"""What `ip route add` gives a route."""
RTA_METRICS, RTA_TABLE = 8, 15
RTAX_MTU, RTAX_ADVMSS = 2, 8
SYSCTL = "/proc/sys/net"


@dataclass(frozen=True, slots=True)
class PodRoute:
    """A route of a pod."""

    destination: IPNetwork
    gateway: IPAddress | None = None
    """None: the destination is on the link."""
    mtu: int = 0
    """Bytes; 0: the link's."""
    advmss: int = 0
    metric: int = 0
    """0: the kernel's default."""
    table: int = rt.RT_TABLE_MAIN
    scope: int | None = None
    """RT_SCOPE_*; None: what fits the gateway."""

    onlink: bool = False
    """Take the gateway as a neighbour even when no address or route says so (RTNH_F_ONLINK)."""

    def __str__(self) -> str:
        return f"route {self.destination}" + (f" via {self.gateway}" if self.gateway else "")


def bring_up(
    nl: Netlink,
    name: str,
    addresses: Sequence[IPInterface] = (),
    routes: Sequence[PodRoute] = (),
    *,
    detect_duplicates: bool = False,
    subnet_routes: bool = True,
) -> int:
    """Set a fresh interface up, address it and route through it, in one send; returns its index. Raises KernelError.

    Without `subnet_routes` the kernel makes no routes to the addresses' own networks.
    """
    index = present_link(nl, name).index
    flags = (0 if detect_duplicates else rt.IFA_F_NODAD) | (0 if subnet_routes else rt.IFA_F_NOPREFIXROUTE)
    requests = [
        Message(rt.RTM_SETLINK, rt.IFINFOMSG.pack(socket.AF_UNSPEC, 0, index, rt.IFF_UP, rt.IFF_UP)),
        *(new_address(index, address, flags) for address in addresses),
        *(new_route(index, route) for route in routes),
    ]
    what = (f"{name} up", *(f"{address} on {name}" for address in addresses), *(f"{route} by {name}" for route in routes))
    for place, outcome in enumerate(nl.transact(requests)):
        # Of two routes for the same the first counts: a pod's second interface often brings another default route.
        if outcome and not (outcome == errno.EEXIST and place > len(addresses)):
            raise KernelError(int(outcome), what[place], outcome.why)
    return index


def new_route(index: int, route: PodRoute) -> Message:
    """The request to make a route through an interface, refused (EEXIST) when there is one in its place."""
    scope = route.scope
    if scope is None:
        scope = rt.RT_SCOPE_LINK if route.gateway is None else rt.RT_SCOPE_UNIVERSE
    network, flags = route.destination, rt.RTNH_F_ONLINK if route.onlink else 0
    table = route.table if route.table < 1 << 8 else 0  # the header has a byte for it
    header = rt.RTMSG.pack(rt.FAMILY[network.version], network.prefixlen, 0, 0, table, RTPROT_BOOT, scope, 1, flags)
    parts = [attribute(rt.RTA_DST, network.network_address.packed), u32(rt.RTA_OIF, index), u32(RTA_TABLE, route.table)]
    parts += [_gateway(network, route.gateway)] if route.gateway else []
    parts += [u32(rt.RTA_PRIORITY, route.metric)] if route.metric else []
    metrics = [u32(kind, value) for kind, value in ((RTAX_MTU, route.mtu), (RTAX_ADVMSS, route.advmss)) if value]
    parts += [nested(RTA_METRICS, *metrics)] if metrics else []
    return Message(rt.RTM_NEWROUTE, header + b"".join(parts), NLM_F_CREATE | NLM_F_EXCL)


def _gateway(network: IPNetwork, gateway: IPAddress) -> bytes:
    if gateway.version == network.version:
        return attribute(rt.RTA_GATEWAY, gateway.packed)
    # IPv4 by way of an IPv6 next hop, RFC 8950.
    return attribute(rt.RTA_VIA, rt.FAMILY[gateway.version].to_bytes(2, sys.byteorder) + gateway.packed)


def announce_changes(name: str, families: Iterable[int]) -> None:
    """Let the kernel tell neighbours of an interface's addresses whenever its MAC is set: by gratuitous ARP, unsolicited NA.

    For a thread in the pod's namespace. A /proc that is read-only is no matter.
    """
    for family, setting in ((4, f"ipv4/conf/{name}/arp_notify"), (6, f"ipv6/conf/{name}/ndisc_notify")):
        if family in families:
            with suppress(OSError):
                _write(setting, "1")


def ensure_sysctl(setting: str, value: str) -> None:
    """Bring net/`setting` of this thread's namespace to a value; raises OSError if it cannot be, and is not that already."""
    with open(f"{SYSCTL}/{setting}", "rb", buffering=0) as file:
        if file.read().strip() == value.encode():
            return
    _write(setting, value)


def _write(setting: str, value: str) -> None:
    with open(f"{SYSCTL}/{setting}", "wb", buffering=0) as file:
        file.write(value.encode())


def default_routes(gateways: Iterable[IPInterface]) -> list[PodRoute]:
    """Everything by way of these, each for its family."""
    return [PodRoute(DEFAULT_DESTINATION[gateway.version], gateway.ip) for gateway in gateways]


def mac_of(ip: IPInterface | IPAddress) -> str:
    """A MAC made from an address, so that whoever gets the address next is reached at once (locally administered, IEEE 802 §8)."""
    return bytes((0x0A, 0x58, *ip.packed[-4:])).hex(":")
