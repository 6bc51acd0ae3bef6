"""ptp: a veth pair without a bridge: the host is the pod's only neighbour, and routes to it. Keys are the reference's."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from ipaddress import ip_interface, ip_network

from cni import ipam, veth
from cni.gateway import ROUTER_LINK_LOCAL, forward, with_gateways
from cni.interface import check_interface, new_mac, pod_routes
from cni.ledger import HeldLink, Key
from cni.node import Node
from cni.packet_elements import masquerade
from cni.plugin import Request
from cni.result import Dns, Interface, IPInterface, IPNetwork, Result
from cni.spec import CniError, Code
from flanneld.linux.links import link, present_link, random_mac, route_destinations
from flanneld.linux.pod import PodRoute, bring_up
from flanneld.linux.rtnetlink import RT_SCOPE_LINK


@dataclass(frozen=True, slots=True)
class Ptp:
    """The configuration, checked."""

    ip_masq: bool
    mtu: int
    """Bytes; 0: the kernel's default."""
    dns: Dns | None


def parse(request: Request) -> Ptp:
    """Raises CniError (2, 7)."""
    told = request.config
    told.ignore("ipam", "mac")
    told.choice("ipMasqBackend", "nftables", "iptables")
    config = Ptp(told.flag("ipMasq"), told.number("mtu", 0, 65535) or 0, request.dns)
    request.finish_config()
    return config


def add(request: Request, node: Node) -> Result:
    """Make the pair, address both ends, and route between them."""
    config = parse(request)
    veth.require_pod(request, node)
    with ipam.allocated(request, node) as given:
        if not given.ips:
            raise CniError(Code.FAILED, "IPAM plugin returned missing IP config", "ptp needs an address")
        given = with_gateways(given, needed=True, default=False)
        pair = veth.Pair(
            veth.host_name(request.key), request.call.ifname, random_mac(), new_mac(request, given) or random_mac(), config.mtu
        )
        elements = [element for ip in given.ips if config.ip_masq for element in masquerade(ip.address)]
        with node.holding(request, HeldLink(pair.host), *elements):
            request.alive()
            node.table.put(elements)
            veth.make(request, node, pair)
            bring_up(node.netlink, pair.host, _host_addresses(given), [PodRoute(net, scope=RT_SCOPE_LINK) for net in _pods(given)])
            forward({ip.address.version for ip in given.ips})
            veth.set_up(request, node, pair, given, [*_ways_to_host(given), *_routes(given)], subnet_routes=False)
            return _result(request, node, config, pair, given)


def _result(request: Request, node: Node, config: Ptp, pair: veth.Pair, given: Result) -> Result:
    mtu = present_link(node.netlink, pair.host).mtu
    interfaces = (Interface(pair.host, pair.host_mac, mtu=mtu), Interface(pair.pod, pair.pod_mac, request.call.netns, mtu))
    return replace(given.on_interface(1), interfaces=interfaces, dns=given.dns if config.dns is None else config.dns)


def _host_addresses(given: Result) -> list[IPInterface]:
    """The gateways, each alone in its network, so that no route to the pods' subnet comes with them."""
    own = dict.fromkeys(ip_interface(ip.gateway) for ip in given.ips if ip.gateway)
    return [*own, *([ROUTER_LINK_LOCAL] if any(ip.version == 6 for ip in own) else [])]


def _pods(given: Result) -> list[IPNetwork]:
    return [ip_network(ip.address.ip) for ip in given.ips]


def _ways_to_host(given: Result) -> list[PodRoute]:
    """In the pod: the gateway is on the link, and everybody of the subnet is behind it."""
    ways: list[PodRoute] = []
    for ip in given.ips:
        if ip.gateway:
            ways.append(PodRoute(ip_network(ip.gateway), scope=RT_SCOPE_LINK))
            if ip.address.network.num_addresses > 1:
                ways.append(PodRoute(ip.address.network, ip.gateway))
    return list(dict.fromkeys(ways))


def _routes(given: Result) -> list[PodRoute]:
    """The result's routes; their gateways are all on the link, though nothing but ours is said to be."""
    return [replace(route, onlink=route.gateway is not None) for route in pod_routes(given)]


def delete(request: Request, node: Node) -> None:
    """Take the pair away, the addresses too."""
    ipam.free(request, node)
    node.release_of(request.key, request.plugin)
    veth.remove_unknown(request, node)


def check(request: Request, node: Node) -> None:
    """Raise CniError unless pair, addresses and routes are as they were."""
    parse(request)
    result = request.require_prev_result()
    ipam.check(request, node)
    host = next((each for each in result.interfaces if not each.sandbox), None)
    found = link(node.netlink, host.name) if host else None
    if host is None or found is None:
        raise CniError(Code.FAILED, f"the host's end of {request.call.ifname} is gone")
    if not {net for net in _pods(result) if net.version == 4} <= route_destinations(node.netlink, found.index):
        raise CniError(Code.FAILED, f"interface {host.name} has no route to the pod")
    with node.inside(veth.require_pod(request, node)) as inside:
        check_interface(inside, request)


def gc(request: Request, node: Node, valid: Collection[Key]) -> None:
    """Take away what no valid attachment has."""
    node.release_invalid(request, valid)
    ipam.gc(request, node, valid)


def status(request: Request, node: Node) -> None:
    """Raise CniError if no address could be had."""
    parse(request)
    ipam.status(request, node)
