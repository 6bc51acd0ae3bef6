"""bridge: a veth pair between the pod and a bridge of the host, which may be the pod's gateway.

Keys are the reference's. What this one does otherwise: the bridge has a MAC of its own from the start, hairpin is on unless it is
switched off, the pod's MAC follows from its address, and masquerading is an element of a set.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

from cni import ipam, veth
from cni.gateway import ensure_addresses, forward, gateways, with_gateways
from cni.interface import check_interface, new_mac, pod_routes
from cni.ledger import HeldLink, Key
from cni.node import Node
from cni.packet_elements import guard_mac, masquerade
from cni.plugin import Request
from cni.result import Dns, Interface, Result
from cni.spec import CniError, Code
from flanneld.kernel import KernelError, Link
from flanneld.linux.links import Port, ensure_bridge, link, master_of, random_mac, set_promiscuous
from flanneld.linux.pod import mac_of

DEFAULT_BRIDGE = "cni0"


@dataclass(frozen=True, slots=True)
class Bridge:
    """The configuration, checked."""

    name: str
    is_gateway: bool
    is_default_gateway: bool
    force_address: bool
    ip_masq: bool
    mtu: int
    """Bytes; 0: as the bridge has it."""
    hairpin: bool
    promisc: bool
    isolated: bool
    mac_spoof_check: bool
    detect_duplicates: bool
    interface: bool
    """False: an interface in the pod that is left down and without addresses."""
    dns: Dns | None


def parse(request: Request) -> Bridge:
    """Raises CniError (2, 7)."""
    told = request.config
    told.ignore("ipam", "mac")
    told.choice("ipMasqBackend", "nftables", "iptables")
    config = Bridge(
        name=told.interface("bridge", DEFAULT_BRIDGE),
        is_gateway=told.flag("isGateway") or told.flag("isDefaultGateway"),
        is_default_gateway=told.flag("isDefaultGateway"),
        force_address=told.flag("forceAddress"),
        ip_masq=told.flag("ipMasq"),
        mtu=told.number("mtu", 0, 65535) or 0,
        hairpin=told.flag("hairpinMode", not told.flag("promiscMode")),
        promisc=told.flag("promiscMode"),
        isolated=told.flag("portIsolation"),
        mac_spoof_check=told.flag("macspoofchk"),
        detect_duplicates=told.flag("enabledad"),
        interface=not told.flag("disableContainerInterface"),
        dns=request.dns,
    )
    request.finish_config()
    if config.hairpin and config.promisc:
        raise CniError(Code.INVALID_CONFIG, "cannot set hairpinMode and promiscMode at the same time")
    if not config.interface and ipam.ipam_type(request):
        raise CniError(Code.INVALID_CONFIG, "cannot use IPAM when disableContainerInterface is set")
    return config


def add(request: Request, node: Node) -> Result:
    """Make the pair, the bridge too if there is none, and set the pod's end up."""
    config = parse(request)
    veth.require_pod(request, node)
    with ipam.allocated(request, node) as given:
        if ipam.ipam_type(request) and not given.ips:
            raise CniError(Code.FAILED, "IPAM plugin returned missing IP config")
        given = with_gateways(given, needed=config.is_gateway, default=config.is_default_gateway)
        pair = veth.Pair(
            veth.host_name(request.key), request.call.ifname, random_mac(), new_mac(request, given) or random_mac(), config.mtu
        )
        elements = (
            *(element for ip in given.ips if config.ip_masq for element in masquerade(ip.address)),
            *(guard_mac(pair.host, pair.pod_mac) if config.mac_spoof_check else ()),
        )
        with node.holding(request, HeldLink(pair.host), *elements):
            request.alive()
            node.table.put(elements)
            return _attach(request, node, config, pair, given)


def _attach(request: Request, node: Node, config: Bridge, pair: veth.Pair, given: Result) -> Result:
    bridge = _ensure_bridge(node, config, given)
    pair = replace(pair, mtu=pair.mtu or bridge.mtu)
    veth.make(request, node, pair, Port(bridge.index, config.hairpin, config.isolated))
    if config.interface:
        veth.set_up(request, node, pair, given, pod_routes(given), detect_duplicates=config.detect_duplicates)
    interfaces = (
        Interface(bridge.name, bridge.mac, mtu=bridge.mtu),
        Interface(pair.host, pair.host_mac, mtu=pair.mtu),
        Interface(pair.pod, pair.pod_mac, request.call.netns, pair.mtu),
    )
    return replace(given.on_interface(2), interfaces=interfaces, dns=given.dns if config.dns is None else config.dns)


def _ensure_bridge(node: Node, config: Bridge, given: Result) -> Link:
    """The bridge, there for the pod; one at a time, since its first two pods may come at once."""
    wanted = gateways(given) if config.is_gateway else []
    with node.making_bridges:
        bridge = ensure_bridge(node.netlink, config.name, mtu=config.mtu, mac=mac_of(wanted[0]) if wanted else None)
        if config.promisc:
            set_promiscuous(node.netlink, bridge.index)
        if wanted:
            ensure_addresses(node.netlink, bridge, wanted, force=config.force_address)
            forward({address.version for address in wanted})
    return bridge


def delete(request: Request, node: Node) -> None:
    """Take the pair away, the addresses too."""
    ipam.free(request, node)
    node.release_of(request.key, request.plugin)
    veth.remove_unknown(request, node)


def check(request: Request, node: Node) -> None:
    """Raise CniError unless bridge, pair, addresses and routes are as they were."""
    config = parse(request)
    result = request.require_prev_result()
    ipam.check(request, node)
    bridge = link(node.netlink, config.name)
    if bridge is None or bridge.kind != "bridge":
        raise CniError(Code.FAILED, f"bridge {config.name} is gone")
    host = next((each for each in result.interfaces if each.name.startswith("veth") and not each.sandbox), None)
    if host is not None and master_of(node.netlink, host.name) != bridge.index:
        raise CniError(Code.FAILED, f"interface {host.name} is not in bridge {config.name}")
    if config.interface:
        with node.inside(veth.require_pod(request, node)) as inside:
            check_interface(inside, request)
    record = node.ledger.record(request.key, request.plugin)
    if record is not None and (missing := node.table.missing(record.elements)):
        raise CniError(Code.FAILED, f"packet filter elements are gone: {', '.join(each.key for each in missing)}")


def gc(request: Request, node: Node, valid: Collection[Key]) -> None:
    """Take away what no valid attachment has."""
    node.release_invalid(request, valid)
    ipam.gc(request, node, valid)


def status(request: Request, node: Node) -> None:
    """Raise CniError if the bridge cannot be had, or no address."""
    config = parse(request)
    try:
        found = link(node.netlink, config.name)
    except KernelError as error:
        raise CniError(Code.NOT_AVAILABLE, str(error)) from error
    if found is not None and found.kind != "bridge":
        raise CniError(Code.NOT_AVAILABLE, f"bridge {config.name}: there is a {found.kind or 'hardware'} device of that name")
    ipam.status(request, node)
