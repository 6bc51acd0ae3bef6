"""Devices and routes of flanneld and Go flannel; must not know files or firewalls, but for what subnet.env says."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from functools import partial
from ipaddress import ip_network

from flanneld.kernel import OWN_ROUTE_PROTOCOL, ROUTE_PROTOCOL, IPInterface, Link, Owner, Route, RouteKind, in_words
from flanneld.lease import inside, overlap
from flanneld.linux.kernel import LinuxKernel
from flanneld.linux.links import addresses, links, remove_link
from flanneld.linux.netlink import Netlink
from flanneld.subnet_env import SubnetEnv
from tartan.leftovers import Leftover

DEVICES = (
    (re.compile(r"flannel(-v6)?\.\d+"), "vxlan"),
    (re.compile(r"flannel\d+"), "tun"),
    (re.compile(r"flannel\.\d+"), "tun"),
    (re.compile(r"flannel-wg(-v6)?"), "wireguard"),
    (re.compile(r"flannel\.ipip"), "ipip"),
)
"""The names that flannel gives its devices, and the kind of each: one of another kind is somebody else's."""
ALL = (ip_network("0.0.0.0/0"), ip_network("::/0"))
RTPROT_BOOT = 3
"""linux/rtnetlink.h: what has no other number, as Go flannel's routes and everything that somebody typed."""

KNOWN_BY = {
    ROUTE_PROTOCOL: f"protocol {ROUTE_PROTOCOL}, flanneld's own number",
    OWN_ROUTE_PROTOCOL: f"protocol {OWN_ROUTE_PROTOCOL}, flanneld's own number",
    RTPROT_BOOT: "it leads to one subnet of the pod network, by a neighbour of this host, as Go flannel's host-gw routes do",
}


def is_flannels(link: Link) -> bool:
    """True if flannel would give a device of that kind that name."""
    return any(name.fullmatch(link.name) and kind == link.kind for name, kind in DEVICES)


def devices(nl: Netlink) -> Iterator[Leftover]:
    """The devices; all that is on them goes with them."""
    for link in links(nl):
        if is_flannels(link):
            yield Leftover(f"device {link.name} ({link.kind}), with its routes and neighbours", partial(remove_link, nl, link.name))


def routes(nl: Netlink, env: SubnetEnv | None) -> Iterator[Leftover]:
    """The routes over devices that are not flannel's."""
    present = {link.index: link for link in links(nl)}
    going = {index for index, link in present.items() if is_flannels(link)}
    own = {index: addresses(nl, index) for index in present}
    for protocol, known_by in KNOWN_BY.items():
        for route in _routes(nl, protocol):
            if route.device in going or (protocol == RTPROT_BOOT and not is_to_peer(route, env, own.get(route.device, ()))):
                continue
            yield Leftover(_words(route, present), partial(_remove_route, nl, route), known_by)


def _words(route: Route, present: Mapping[int, Link]) -> str:
    return in_words(route, lambda index: present[index].name if index in present else "no device")


def is_to_peer(route: Route, env: SubnetEnv | None, own: Collection[IPInterface]) -> bool:
    """True for what only a route to a peer is: to a subnet of the pod network as large as ours, and another, by a neighbour."""
    if env is None or route.kind is not RouteKind.UNICAST or route.onlink:
        return False
    gateway = route.gateway
    if gateway is None or not any(gateway.version == address.version and gateway in address.network for address in own):
        return False
    destination = route.destination
    return not overlap((destination,), env.subnets) and any(
        inside(destination, network) and destination.prefixlen == subnet.prefixlen
        for network, subnet in zip(env.networks, env.subnets, strict=True)
    )


def _routes(nl: Netlink, protocol: int) -> list[Route]:
    found = LinuxKernel(nl).entries(Owner(ALL, protocol=protocol))
    return sorted((entry for entry in found if isinstance(entry, Route)), key=str)


def _remove_route(nl: Netlink, route: Route) -> None:
    for refused in LinuxKernel(nl).remove([route]):
        raise refused
