"""What configurations of IPAM plugins share: requested addresses, routes, a resolver file; must not know who reads it."""

from __future__ import annotations

from ipaddress import ip_interface
from pathlib import Path

from cni.config import Section
from cni.plugin import Request
from cni.result import Dns, IPAddress, PodRoute, address_of, network_of
from cni.spec import CniError, Code

U32_MAX = 2**32 - 1


def requested(request: Request) -> tuple[str, ...]:
    """The addresses that the runtime asks for, as it wrote them: the `ips` capability, else args.cni.ips, else IP= in CNI_ARGS."""
    told = request.runtime.texts("ips") or request.config.part("args").part("cni").texts("ips")
    single = (request.call.args or {}).get("IP", "")
    return told or tuple(part for part in single.split(",") if part)


def requested_ips(request: Request) -> tuple[IPAddress, ...]:
    """The same as addresses, a prefix length given with them aside; raises CniError (7)."""
    try:
        return tuple(ip_interface(text).ip for text in requested(request))
    except ValueError as error:
        raise CniError(Code.INVALID_CONFIG, "requested IP", f"{error}, expected addresses as 10.1.2.3 or 10.1.2.3/24") from error


def parse_routes(ipam: Section) -> tuple[PodRoute, ...]:
    """The `routes` list; raises CniError (7)."""
    return tuple(_parse_route(told) for told in ipam.sections("routes"))


def _parse_route(told: Section) -> PodRoute:
    dst = told.parsed("dst", network_of, "a network, as 10.0.0.0/8")
    if dst is None:
        told.wrong("dst", None, "a network, as 10.0.0.0/8")
    gateway = told.parsed("gw", address_of, "an IP address")
    mtu, advmss, priority = (told.number(key, 0, U32_MAX) or 0 for key in ("mtu", "advmss", "priority"))
    return PodRoute(dst, gateway, mtu, advmss, priority, told.number("table", 0, U32_MAX), told.number("scope", 0, 255))


def parse_dns(told: Section) -> Dns:
    """A `dns` object; raises CniError (7)."""
    return Dns(told.texts("nameservers"), told.text("domain"), told.texts("search"), told.texts("options"))


def read_resolv_conf(ipam: Section) -> Dns:
    """What the file `resolvConf` says (resolv.conf(5)); raises CniError (7)."""
    path = ipam.text("resolvConf")
    if not path:
        return Dns()
    try:
        lines = [line.split() for line in Path(path).read_text().splitlines() if not line.lstrip().startswith(("#", ";"))]
    except OSError as error:
        ipam.wrong("resolvConf", path, f"a readable file: {error.strerror}")
    servers: list[str] = []
    options: list[str] = []
    search: list[str] = []
    domain = ""
    for word, *values in filter(None, lines):
        match word:
            case "nameserver":
                servers += values[:1]
            case "domain":
                domain = values[0] if values else ""
            case "search":
                search += values
            case "options":
                options += values
    return Dns(tuple(servers), domain, tuple(search), tuple(options))
