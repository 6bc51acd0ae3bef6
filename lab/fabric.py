"""What is between the hosts: a router with a bridge per segment, and the world outside; must not know what hosts run.

    outside 203.0.113.2 --- 203.0.113.1 fabric 10.0.0.1 (bridge lan1) --- h1 10.0.0.11, h2 10.0.0.12

Neither the fabric nor the outside has a route to a pod: what a pod sends out comes back only if its host masquerades it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from ipaddress import ip_interface
from pathlib import Path

from flanneld.linux.links import add_veth, ensure_bridge, present_link, set_addresses, set_link
from flanneld.linux.netns import create, netlink_in, run_in
from flanneld.linux.pod import PodRoute, bring_up, default_routes
from lab.machines import Host, IPInterface, Router, Segment
from lab.topology import OUTSIDE, Topology

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
    """Give a host's network namespace its uplink, in its segment, with its default gateways."""
    run_in(netns, become_router)
    _lay_cable(topology.segment(host), fabric, host.name, netns, UPLINK)
    with netlink_in(netns) as nl:
        bring_up(nl, "lo")
        bring_up(nl, UPLINK, host.addresses, default_routes(topology.gateways(host)))


def plug_in_router(topology: Topology, router: Router, fabric: Path, netns: Path) -> None:
    """Give a router's network namespace an interface in each of its segments, named as the segment.

    What it knows no way to goes to the lab's own router: hosts reach etcd and the outside before any BGP session is up.
    """
    run_in(netns, become_quiet_router)
    number = topology.routers.index(router)
    joined = topology.joined(router)
    for place, segment in enumerate(joined):
        _lay_cable(segment, fabric, f"router{number}.{place}", netns, segment.name)  # no host can have such a name
    with netlink_in(netns) as nl:
        bring_up(nl, "lo")
        led: set[int] = set()
        for segment, addresses in joined.items():
            families = {ip.version for ip in addresses} - led
            bring_up(nl, segment.name, addresses, default_routes(own for own in segment.routers if own.version in families))
            led |= families


def _lay_cable(segment: Segment, fabric: Path, end: str, netns: Path, name: str) -> None:
    """A cable from the segment's bridge to `name` in `netns`; `end` is what the bridge's end is called."""
    with netlink_in(fabric) as nl, _open(netns) as inside:
        add_veth(nl, end, name, peer_netns=inside, mtu=segment.mtu)
        set_link(nl, present_link(nl, end).index, master=present_link(nl, segment.name).index, up=True)


def become_router(settings: Mapping[str, int] = SETTINGS) -> None:
    """Make this network namespace a router; interfaces come after."""
    for key, value in settings.items():
        setting = Path("/proc/sys/net") / key
        if setting.exists():  # a kernel may have no IPv6
            setting.write_text(str(value))


def become_quiet_router() -> None:
    """One that sends no redirects: to it, the lab's own router is behind the segment that the packet came from."""
    become_router({**SETTINGS, "ipv4/conf/all/send_redirects": 0, "ipv4/conf/default/send_redirects": 0})


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
