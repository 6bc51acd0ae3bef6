"""The pod's end of an attachment: its addresses and routes as the result says, in one send; must not know what kind of link."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress

from cni.plugin import Request
from cni.result import IPAddress, Result
from cni.spec import CniError, Code
from flanneld.kernel import Link
from flanneld.linux import links
from flanneld.linux.netlink import Netlink
from flanneld.linux.pod import PodRoute, announce_changes, bring_up, ensure_sysctl, mac_of
from flanneld.linux.rtnetlink import RT_SCOPE_LINK, RT_TABLE_MAIN

DAD_PATIENCE_S = 10.0


def pod_routes(result: Result) -> list[PodRoute]:
    """The result's routes; one without a gateway goes by the gateway of the address of its family, as in the reference."""
    gateways: dict[int, IPAddress] = {}
    for ip in result.ips:
        if ip.gateway is not None:
            gateways.setdefault(ip.address.version, ip.gateway)
    return [
        PodRoute(
            route.dst,
            route.gw or (None if route.scope == RT_SCOPE_LINK else gateways.get(route.dst.version)),
            route.mtu,
            route.advmss,
            route.priority,
            RT_TABLE_MAIN if route.table is None else route.table,
            route.scope,
        )
        for route in result.routes
    ]


def configure(
    inside: Netlink,
    name: str,
    result: Result,
    routes: Sequence[PodRoute],
    *,
    detect_duplicates: bool = False,
    subnet_routes: bool = True,
) -> int:
    """Bring the pod's interface up with the result's addresses; returns its index. For a thread in there. Raises KernelError."""
    families = {ip.address.version for ip in result.ips}
    announce_changes(name, families)
    if 6 in families:
        with suppress(FileNotFoundError):  # a kernel without IPv6 says it better when it refuses the address
            ensure_sysctl(f"ipv6/conf/{name}/disable_ipv6", "0")
        with suppress(OSError):
            ensure_sysctl(f"ipv6/conf/{name}/keep_addr_on_down", "1")
    addresses = [ip.address for ip in result.ips]
    index = bring_up(inside, name, addresses, routes, detect_duplicates=detect_duplicates, subnet_routes=subnet_routes)
    if detect_duplicates:
        _await_unique(inside, name, index)
    return index


def _await_unique(inside: Netlink, name: str, index: int) -> None:
    """Wait until duplicate address detection has come to an end; raises CniError."""
    give_up_at = time.monotonic() + DAD_PATIENCE_S
    while links.tentative(inside, index):
        if time.monotonic() > give_up_at:
            raise CniError(Code.FAILED, f"addresses of {name} are still tentative after {DAD_PATIENCE_S:g} s")
        time.sleep(0.05)


def new_mac(request: Request, result: Result) -> str | None:
    """The MAC that is asked for, else one made from the address."""
    return requested_mac(request) or (mac_of(result.ips[0].address) if result.ips else None)


def requested_mac(request: Request) -> str | None:
    """The MAC that is asked for (by runtimeConfig, args, CNI_ARGS, configuration: in that order); raises CniError (7)."""
    for text in (request.runtime.text("mac"), request.arg("MAC") or request.arg("mac"), request.config.text("mac")):
        if text:
            return checked_mac(text)
    return None


def checked_mac(text: str) -> str:
    """A MAC in colon notation, lower case; raises CniError (7)."""
    octets = text.replace("-", ":").split(":")
    with suppress(ValueError):
        if len(octets) == 6 and all(len(octet) == 2 and int(octet, 16) >= 0 for octet in octets):
            return ":".join(octets).lower()
    raise CniError(Code.INVALID_CONFIG, f"mac: got {text!r}, expected six hexadecimal octets with ':' between")


def check_interface(inside: Netlink, request: Request) -> Link:
    """The pod's interface if it is as the previous result says; for a thread in the pod's namespace. Raises CniError."""
    result = request.require_prev_result()
    name = request.call.ifname
    link = links.link(inside, name)
    if link is None:
        raise CniError(Code.FAILED, f"interface {name} is gone from {request.call.netns}")
    told = next((interface for interface in result.pod_interfaces() if interface.name == name), None)
    if told is None:
        raise CniError(Code.FAILED, f"prevResult has no interface {name} in {request.call.netns}")
    if told.sandbox != request.call.netns:
        raise CniError(Code.FAILED, f"interface {name} is in {told.sandbox} by prevResult, expected {request.call.netns}")
    if told.mac and told.mac.lower() != link.mac:
        raise CniError(Code.FAILED, f"interface {name} has MAC {link.mac}, expected {told.mac}")
    if not link.up:
        raise CniError(Code.FAILED, f"interface {name} is down, expected it up")
    present = set(links.addresses(inside, link.index))
    interfaces = dict(enumerate(interface.name for interface in result.interfaces))
    for ip in result.ips:
        elsewhere = ip.interface is not None and interfaces.get(ip.interface) != name
        if not elsewhere and ip.address not in present:
            raise CniError(Code.FAILED, f"interface {name} has not its address {ip.address}")
    _check_routes(inside, link, pod_routes(result))
    return link


def _check_routes(inside: Netlink, link: Link, routes: Sequence[PodRoute]) -> None:
    present = links.route_destinations(inside, link.index)
    for route in routes:
        if route.table == RT_TABLE_MAIN and route.destination not in present:
            raise CniError(Code.FAILED, f"interface {link.name} has no {route}")
