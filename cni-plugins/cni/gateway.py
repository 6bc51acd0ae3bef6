"""The host as its pods' router: gateway addresses of pods and of bridges, forwarding; must not know how pods hang on it."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from dataclasses import replace
from ipaddress import IPv6Interface, ip_interface, ip_network

from cni.result import Ip, IPInterface, IPNetwork, PodRoute, Result
from cni.spec import CniError, Code
from flanneld.kernel import Link
from flanneld.linux import links
from flanneld.linux.netlink import Netlink
from flanneld.linux.pod import ensure_sysctl

DEFAULT: dict[int, IPNetwork] = {4: ip_network("0.0.0.0/0"), 6: ip_network("::/0")}
ROUTER_LINK_LOCAL = IPv6Interface("fe80::1/64")
"""A router asks for neighbours by its link-local address; the kernel's own is of use only two seconds later (RFC 4862)."""
FORWARDING = {4: "ipv4/ip_forward", 6: "ipv6/conf/all/forwarding"}


def with_gateways(given: Result, *, needed: bool, default: bool) -> Result:
    """The addresses with the gateways that are `needed`, a subnet's first where none is said; and, if wanted, default routes."""
    ips = tuple(_with_gateway(ip) if needed else ip for ip in given.ips)
    routes = list(given.routes)
    for ip in ips if default else ():
        destination = DEFAULT[ip.address.version]
        if all(route.dst != destination for route in routes):
            routes.append(PodRoute(destination, ip.gateway))
    return replace(given, ips=ips, routes=tuple(routes))


def _with_gateway(ip: Ip) -> Ip:
    return ip if ip.gateway else replace(ip, gateway=ip.address.network.network_address + 1)


def gateways(given: Result) -> list[IPInterface]:
    """The gateways as addresses of an interface of the host, each once."""
    found = [ip_interface((ip.gateway, ip.address.network.prefixlen)) for ip in given.ips if ip.gateway]
    return list(dict.fromkeys(found))


def ensure_addresses(nl: Netlink, device: Link, wanted: Collection[IPInterface], *, force: bool) -> None:
    """Give a bridge these addresses; with `force` those in their way go. Raises CniError, KernelError."""
    present = links.addresses(nl, device.index)
    for address in wanted:
        if address in present:
            continue
        for other in present:
            if other not in wanted and _in_the_way(other, address):
                if not force:
                    raise CniError(Code.FAILED, f'"{device.name}" already has an IP address different from {address}: {other}')
                links.remove_address(nl, device.index, other)
        links.add_address(nl, device.index, address)
    if any(address.version == 6 for address in wanted) and ROUTER_LINK_LOCAL not in present:
        links.add_address(nl, device.index, ROUTER_LINK_LOCAL)


def _in_the_way(other: IPInterface, address: IPInterface) -> bool:
    if other.version != address.version:
        return False
    return address.version == 4 or (not other.is_link_local and other.network.overlaps(address.network))


def forward(families: Collection[int]) -> None:
    """Let the host forward packets of these families. A /proc that is read-only is no matter where it does so already."""
    for family in families:
        with suppress(FileNotFoundError):
            ensure_sysctl(FORWARDING[family], "1")
