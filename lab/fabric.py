"""What is between the hosts: a router with a bridge per segment, and the world outside; must not know what hosts run.

    outside 203.0.113.2 --- 203.0.113.1 fabric 10.0.0.1 (bridge lan1) --- h1 10.0.0.11, h2 10.0.0.12

Neither the fabric nor the outside has a route to a pod: what a pod sends out comes back only if its host masquerades it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_interface
from pathlib import Path

from flanneld.linux.links import add_veth, ensure_bridge, present_link, set_addresses, set_link
from flanneld.linux.netns import create, netlink_in, run_in
from flanneld.linux.pod import PodRoute, bring_up, default_routes
from lab.topology import OUTSIDE, Host, IPInterface, Topology

UPLINK = "eth0"
"""A host's one interface, and the outside's."""
SETTINGS = {
    "ipv4/ip_forward": 1,
    "ipv6/conf/all/forwarding": 1,
    # A router asks for neighbours by its link-local address, which duplicate detection would keep from use for two seconds.
    "ipv6/conf/all/accept_dad": 0,
    "ipv6/conf/default/accept_dad": 0,
}
"""Of a router's network namespace (ip-sysctl.rst)."""


def build_fabric(topology: Topology, fabric: Path, outside: Path) -> None:
    """Make both namespaces, kept by these files, and wire them."""
    for path in (fabric, outside):
        path.parent.mkdir()
        create(path)
    run_in(fabric, become_router)
    routers = [router for segment in topology.segments for router in segment.routers]
    with netlink_in(fabric) as nl:
        bring_up(nl, "lo")
        for segment in topology.segments:
            set_addresses(nl, ensure_bridge(nl, segment.name, mtu=segment.mtu).index, segment.routers)
        with _open(outside) as netns:
            add_veth(nl, "outside", UPLINK, peer_netns=netns)
        gateways = outside_addresses(topology, 1)
        bring_up(nl, "outside", gateways)
    with netlink_in(outside) as nl:
        bring_up(nl, "lo")
        vias = [
            PodRoute(router.network, gateway.ip) for router in routers for gateway in gateways if gateway.version == router.version
        ]
        bring_up(nl, UPLINK, outside_addresses(topology, 2), vias)


def plug_in(topology: Topology, host: Host, fabric: Path, netns: Path) -> None:
    """Give a host's network namespace its uplink, in its segment, with the router as default gateway."""
    segment = topology.segment(host)
    run_in(netns, become_router)
    with netlink_in(fabric) as nl, _open(netns) as inside:
        add_veth(nl, host.name, UPLINK, peer_netns=inside, mtu=segment.mtu)
        set_link(nl, present_link(nl, host.name).index, master=present_link(nl, segment.name).index, up=True)
    with netlink_in(netns) as nl:
        bring_up(nl, "lo")
        bring_up(nl, UPLINK, host.addresses, default_routes(segment.routers))


def become_router() -> None:
    """Make this network namespace a router; interfaces come after."""
    for key, value in SETTINGS.items():
        setting = Path("/proc/sys/net") / key
        if setting.exists():  # a kernel may have no IPv6
            setting.write_text(str(value))


def outside_addresses(topology: Topology, place: int) -> tuple[IPInterface, ...]:
    """1: the router's towards the outside, 2: the outside's own; one per family of the segments."""
    families = {router.version for segment in topology.segments for router in segment.routers}
    return tuple(ip_interface((subnet[place], subnet.prefixlen)) for subnet in OUTSIDE if subnet.version in families)


@contextmanager
def _open(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
