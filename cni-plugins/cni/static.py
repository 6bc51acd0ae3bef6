"""static: the addresses that the configuration or the runtime names, and no state. Keys are the reference's.

Addresses of the runtime (`ips`) replace those of `args`, which replace all others; those of CNI_ARGS (IP=) come after the
configured ones.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from ipaddress import ip_address, ip_interface

from cni.config import Section
from cni.ipam_config import parse_dns, parse_routes
from cni.ledger import Key
from cni.node import Node
from cni.plugin import Request
from cni.result import Dns, Ip, IPAddress, IPInterface, PodRoute, Result
from cni.spec import CniError, Code, at_least


@dataclass(frozen=True, slots=True)
class Static:
    """The `ipam` object, checked, with what was asked for."""

    ips: tuple[Ip, ...]
    routes: tuple[PodRoute, ...]
    dns: Dns


def parse(request: Request) -> Static:
    """Raises CniError (2, 7)."""
    ipam = request.config.part("ipam")
    if not ipam.values:
        raise CniError(Code.INVALID_CONFIG, "IPAM config missing 'ipam' key", "expected an object with addresses")
    ipam.ignore("type")
    configured = tuple(_parse_address(told) for told in ipam.sections("addresses"))
    config = Static(_asked(request) or (*configured, *_by_args(request)), parse_routes(ipam), parse_dns(ipam.section("dns")))
    ipam.finish()
    families = [ip.address.version for ip in config.ips]
    if not at_least(request.version, "0.3.0") and len(set(families)) < len(families):
        raise CniError(Code.INVALID_CONFIG, f"CNI version {request.version} does not support more than 1 address per family")
    return config


def _parse_address(told: Section) -> Ip:
    told.ignore("version")  # before 1.0.0 it stood here as in results, and says nothing that the address does not
    return Ip(_cidr("ipam.addresses", told.text("address")), told.parsed("gateway", ip_address, "an IP address"))


def _asked(request: Request) -> tuple[Ip, ...]:
    """What replaces all other addresses."""
    texts = request.runtime.texts("ips") or request.config.part("args").part("cni").texts("ips")
    return tuple(Ip(_cidr("ips", text)) for text in texts)


def _by_args(request: Request) -> tuple[Ip, ...]:
    """Those of CNI_ARGS: IP= and GATEWAY=, lists with ',' between; a gateway is for the addresses in whose network it is."""
    args = request.call.args or {}
    gateways = [_gateway(text.strip()) for text in args.get("GATEWAY", "").split(",") if text.strip()]
    addresses = [_cidr("IP", text.strip()) for text in args.get("IP", "").split(",") if text.strip()]
    return tuple(Ip(address, next((ip for ip in gateways if ip in address.network), None)) for address in addresses)


def _gateway(text: str) -> IPAddress:
    try:
        return ip_address(text)
    except ValueError as error:
        raise CniError(Code.INVALID_CONFIG, f"GATEWAY: got {text!r}, expected an IP address") from error


def _cidr(key: str, text: str) -> IPInterface:
    try:
        if "/" in text:
            return ip_interface(text)
    except ValueError:
        pass
    raise CniError(Code.INVALID_CONFIG, f"{key}: expected an address in CIDR notation, as 10.1.2.3/24, got: {text!r}")


def add(request: Request, node: Node) -> Result:
    """Say which addresses they are."""
    config = parse(request)
    return Result(ips=config.ips, routes=config.routes, dns=config.dns)


def delete(request: Request, node: Node) -> None:
    """Nothing is held."""


def check(request: Request, node: Node) -> None:
    """Raise CniError unless the attachment has these addresses."""
    present = {ip.address for ip in request.require_prev_result().ips}
    for ip in parse(request).ips:
        if ip.address not in present:
            raise CniError(Code.FAILED, f"prevResult has not the address {ip.address}")


def gc(request: Request, node: Node, valid: Collection[Key]) -> None:
    """Nothing is held."""


def status(request: Request, node: Node) -> None:
    """The configuration makes sense; there is nothing else to fail."""
    parse(request)
