"""A pod's network: a bridge, a veth pair into its namespace, addresses, routes; must not know where addresses come from."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Interface, IPv6Network
from typing import TypeAlias

from flanneld.kernel import IPInterface, Route
from flanneld.lease import IPAddress, IPNetwork
from flanneld.linux.links import add_veth, ensure_bridge, present_link, remove_link, set_addresses, set_hairpin, set_link
from flanneld.linux.netlink import Netlink
from flanneld.linux.netns import netlink_in
from flanneld.linux.rtnetlink import encode_entry

Via: TypeAlias = tuple[IPNetwork, IPAddress]
"""A destination and its next hop."""

DEFAULT_DESTINATION: dict[int, IPNetwork] = {4: IPv4Network("0.0.0.0/0"), 6: IPv6Network("::/0")}
ROUTER_LINK_LOCAL = IPv6Interface("fe80::1/64")
"""A router asks for neighbours by its link-local address; the kernel's own is of use only two seconds later (RFC 4862)."""
BOOT_PROTOCOL = 3
"""RTPROT_BOOT: what `ip route add` gives a route."""


@dataclass(frozen=True, slots=True)
class PodLink:
    """One interface of a pod, and what it hangs on."""

    name: str
    """In the pod: eth0."""
    host_name: str
    """Of its other end, on the host."""
    bridge: str
    addresses: tuple[IPInterface, ...]
    """The pod's, one per family."""
    gateways: tuple[IPInterface, ...]
    """The bridge's, one per family: the pod's default gateways."""
    mtu: int
    """Bytes, of the bridge and both ends."""


def attach_pod(nl: Netlink, netns: int, wanted: PodLink) -> str:
    """Give the pod's namespace (an open descriptor) its interface, up, with addresses and default routes; returns its MAC.

    `nl` is a socket of the host's namespace. The bridge is made as needed and stays. Raises KernelError, leaving no pair behind.
    """
    local = [ROUTER_LINK_LOCAL] if any(gateway.version == 6 for gateway in wanted.gateways) else []
    addresses = (*wanted.gateways, *local)
    bridge = ensure_bridge(nl, wanted.bridge, mtu=wanted.mtu, mac=mac_of(wanted.gateways[0]), addresses=addresses)
    mac = mac_of(wanted.addresses[0])
    add_veth(nl, wanted.host_name, wanted.name, peer_netns=netns, mtu=wanted.mtu, peer_mac=mac)
    try:
        port = present_link(nl, wanted.host_name)
        set_link(nl, port.index, master=bridge.index, up=True)
        set_hairpin(nl, port.index)
        with netlink_in(netns) as inside:
            bring_up(inside, "lo")
            bring_up(inside, wanted.name, wanted.addresses, default_routes(wanted.gateways))
    except BaseException:
        detach_pod(nl, wanted.host_name)
        raise
    return mac


def detach_pod(nl: Netlink, host_name: str) -> None:
    """Take the pod's interface away, both ends; nothing happens when there is none."""
    remove_link(nl, host_name)


def bring_up(nl: Netlink, name: str, addresses: Iterable[IPInterface] = (), routes: Iterable[Via] = ()) -> None:
    """Address an interface, set it up, and route through it; raises KernelError."""
    index = present_link(nl, name).index
    wanted = tuple(addresses)
    if wanted:
        set_addresses(nl, index, wanted)
    set_link(nl, index, up=True)
    entries = [Route(destination, index, gateway, protocol=BOOT_PROTOCOL) for destination, gateway in routes]
    nl.change(f"routes of {name}", *map(encode_entry, entries))


def default_routes(gateways: Iterable[IPInterface]) -> list[Via]:
    """Everything by way of these, each for its family."""
    return [(DEFAULT_DESTINATION[gateway.version], gateway.ip) for gateway in gateways]


def mac_of(ip: IPInterface) -> str:
    """A MAC made from an address, so that whoever gets the address next is reached at once (locally administered, IEEE 802 §8)."""
    return bytes((0x0A, 0x58, *ip.packed[-4:])).hex(":")
