"""The MTU that a pod's routes have of their own, changed in place; must not know why.

For IPv4 a route's MTU (RTAX_MTU) counts instead of its interface's, so it has to change with that; IPv6's the kernel takes along.
"""

from __future__ import annotations

import errno
from collections.abc import Collection

from cni.result import IPNetwork
from flanneld.kernel import KernelError
from flanneld.linux import rtnetlink as rt
from flanneld.linux.message import NLM_F_REPLACE, Message, attribute, attributes, integer, nested, u32
from flanneld.linux.netlink import Netlink
from flanneld.linux.pod import RTA_METRICS, RTA_TABLE, RTAX_MTU

RTA_PREFSRC, RTA_PREF = 7, 20
KEPT = (rt.RTA_DST, rt.RTA_OIF, rt.RTA_GATEWAY, rt.RTA_VIA, rt.RTA_PRIORITY, RTA_PREFSRC, RTA_TABLE, RTA_PREF)
"""What makes a route, besides its metrics; the rest of what the kernel says of one is news about it."""


def routes_to_change(inside: Netlink, index: int, mtu: int, networks: Collection[IPNetwork]) -> list[Message]:
    """Requests for those by an interface to these networks that have another MTU; one without any has the interface's.

    Raises KernelError.
    """
    found = []
    for version in {network.version for network in networks}:
        for message in _dump(inside, rt.route_dump(rt.FAMILY[version], device=index)):
            route = rt.decode_route(message)
            if route is not None and route.destination in networks and 0 != _mtu_of(message) != mtu:
                found.append(_with_mtu(message, mtu))
    return found


def _dump(inside: Netlink, request: Message) -> list[Message]:
    try:
        return inside.dump(request)
    except KernelError as error:
        if error.errno == errno.ENOENT:  # nobody has put a route into the table yet
            return []
        raise


def _mtu_of(route: Message) -> int:
    metrics = attributes(route.body, rt.RTMSG.size).get(RTA_METRICS, b"")
    return integer(attributes(metrics).get(RTAX_MTU))


def _with_mtu(route: Message, mtu: int) -> Message:
    """The request to put a route in its own place, all as the kernel told it but for the MTU."""
    *header, flags = rt.RTMSG.unpack_from(route.body)
    told = attributes(route.body, rt.RTMSG.size)
    metrics = {kind: attribute(kind, value) for kind, value in attributes(told[RTA_METRICS]).items()}
    metrics[RTAX_MTU] = u32(RTAX_MTU, mtu)
    parts = [attribute(kind, told[kind]) for kind in KEPT if kind in told]
    body = rt.RTMSG.pack(*header, flags & rt.RTNH_F_ONLINK) + b"".join(parts) + nested(RTA_METRICS, *metrics.values())
    return Message(rt.RTM_NEWROUTE, body, NLM_F_REPLACE)
