"""What an ADD made, as values, and their JSON in each version's shape; sans-IO, must not know who made it.

Source: CNI spec 1.1.0 section 5; before 1.0.0 an ip says its version, before 0.3.0 there is one ip4 and one ip6.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
    ip_address,
    ip_interface,
    ip_network,
)
from typing import Any, TypeAlias, TypeVar

from cni.spec import CniError, Code, at_least

IPAddress: TypeAlias = IPv4Address | IPv6Address
IPInterface: TypeAlias = IPv4Interface | IPv6Interface
IPNetwork: TypeAlias = IPv4Network | IPv6Network
Json: TypeAlias = Mapping[str, Any]

T = TypeVar("T")


@lru_cache(maxsize=1024)
def address_of(text: str) -> IPAddress:
    """The address, remembered: one pod after the other brings the same gateways. Raises ValueError."""
    return ip_address(text)


@lru_cache(maxsize=256)
def interface_of(text: str) -> IPInterface:
    """The address with its prefix length, remembered for the next plugin of the chain. Raises ValueError."""
    return ip_interface(text)


@lru_cache(maxsize=1024)
def network_of(text: str) -> IPNetwork:
    """The network that an address with a prefix length is in, remembered likewise. Raises ValueError."""
    return ip_network(text, strict=False)


@dataclass(frozen=True, slots=True)
class Interface:
    """A link that belongs to the attachment, in the pod or on the host."""

    name: str
    mac: str = ""
    sandbox: str = ""
    """Path of the pod's namespace; empty on the host."""
    mtu: int = 0
    """Bytes; since 1.1.0."""
    socket_path: str = ""
    pci_id: str = ""


@dataclass(frozen=True, slots=True)
class Ip:
    """An address of the pod."""

    address: IPInterface
    gateway: IPAddress | None = None
    interface: int | None = None
    """Whose it is: a place in the result's interfaces."""


@dataclass(frozen=True, slots=True)
class PodRoute:
    """A route inside the pod."""

    dst: IPNetwork
    gw: IPAddress | None = None
    """None: the gateway of the address of that family."""
    mtu: int = 0
    advmss: int = 0
    priority: int = 0
    table: int | None = None
    scope: int | None = None


@dataclass(frozen=True, slots=True)
class Dns:
    """What a resolver needs."""

    nameservers: tuple[str, ...] = ()
    domain: str = ""
    search: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Result:
    """What an ADD made."""

    interfaces: tuple[Interface, ...] = ()
    ips: tuple[Ip, ...] = ()
    routes: tuple[PodRoute, ...] = ()
    dns: Dns = field(default_factory=Dns)

    def on_interface(self, place: int) -> Result:
        """With every address on that interface: an IPAM plugin does not know any."""
        return replace(self, ips=tuple(replace(ip, interface=place) for ip in self.ips))

    def pod_interfaces(self) -> tuple[Interface, ...]:
        return tuple(interface for interface in self.interfaces if interface.sandbox)


def encode_result(result: Result, version: str) -> dict[str, object]:
    """The result's JSON in that version's shape."""
    if not at_least(version, "0.3.0"):
        return _encode_first(result, version)
    shown: dict[str, object] = {"cniVersion": version}
    if result.interfaces:
        shown["interfaces"] = [_encode_interface(interface, version) for interface in result.interfaces]
    if result.ips:
        shown["ips"] = [_encode_ip(ip, version) for ip in result.ips]
    if result.routes:
        shown["routes"] = [_encode_route(route, version) for route in result.routes]
    return shown | {"dns": _encode_dns(result.dns)}


def _encode_first(result: Result, version: str) -> dict[str, object]:
    """0.1.0 and 0.2.0: the first address of each family."""
    shown: dict[str, object] = {"cniVersion": version}
    for family in (4, 6):
        ip = next((ip for ip in result.ips if ip.address.version == family), None)
        if ip is None:
            continue
        routes = [_encode_route(route, version) for route in result.routes if route.dst.version == family]
        of_family: dict[str, object] = {"ip": str(ip.address)}
        of_family |= {"gateway": str(ip.gateway)} if ip.gateway else {}
        shown[f"ip{family}"] = of_family | ({"routes": routes} if routes else {})
    return shown | {"dns": _encode_dns(result.dns)}


def _encode_interface(interface: Interface, version: str) -> dict[str, object]:
    shown: dict[str, object] = {"name": interface.name}
    shown |= {"mac": interface.mac} if interface.mac else {}
    if at_least(version, "1.1.0"):
        extra = {"mtu": interface.mtu, "socketPath": interface.socket_path, "pciID": interface.pci_id}
        shown |= {key: value for key, value in extra.items() if value}
    return shown | ({"sandbox": interface.sandbox} if interface.sandbox else {})


def _encode_ip(ip: Ip, version: str) -> dict[str, object]:
    shown: dict[str, object] = {} if at_least(version, "1.0.0") else {"version": str(ip.address.version)}
    shown |= {} if ip.interface is None else {"interface": ip.interface}
    shown["address"] = str(ip.address)
    return shown | ({"gateway": str(ip.gateway)} if ip.gateway else {})


def _encode_route(route: PodRoute, version: str) -> dict[str, object]:
    shown: dict[str, object] = {"dst": str(route.dst)}
    shown |= {"gw": str(route.gw)} if route.gw else {}
    if at_least(version, "1.1.0"):
        shown |= {key: value for key in ("mtu", "advmss", "priority") if (value := getattr(route, key))}
        shown |= {key: value for key in ("table", "scope") if (value := getattr(route, key)) is not None}
    return shown


def _encode_dns(dns: Dns) -> dict[str, object]:
    shown = {"nameservers": list(dns.nameservers), "domain": dns.domain, "search": list(dns.search), "options": list(dns.options)}
    return {key: value for key, value in shown.items() if value}


def decode_result(told: Json, version: str) -> Result:
    """A result of any version's shape; raises CniError (6) that names what is wrong in it.

    `version` is that of the config it came with, which counts when the result does not say its own.
    """
    said = told.get("cniVersion") or version
    try:
        if not at_least(said, "0.3.0"):
            return _decode_first(told)
        interfaces = tuple(_decode_interface(each) for each in told.get("interfaces") or ())
        ips = tuple(_decode_ip(each) for each in told.get("ips") or ())
        routes = tuple(_decode_route(each) for each in told.get("routes") or ())
        return Result(interfaces, ips, routes, decode_dns(told.get("dns") or {}))
    except (ValueError, TypeError, AttributeError, LookupError, OverflowError) as error:
        raise CniError(Code.DECODE, "prevResult cannot be decoded", str(error)) from error


def _decode_first(told: Json) -> Result:
    ips: list[Ip] = []
    routes: list[PodRoute] = []
    for part in (told.get("ip4"), told.get("ip6")):
        if part:
            ips.append(Ip(interface_of(_text(part["ip"])), _optional(address_of, part.get("gateway"))))
            routes += [_decode_route(each) for each in part.get("routes") or ()]
    return Result(ips=tuple(ips), routes=tuple(routes), dns=decode_dns(told.get("dns") or {}))


def _decode_interface(told: Json) -> Interface:
    name, mac, sandbox, socket_path, pci_id = (
        _text(told.get(key) or "") for key in ("name", "mac", "sandbox", "socketPath", "pciID")
    )
    return Interface(name, mac, sandbox, int(told.get("mtu") or 0), socket_path, pci_id)


def _decode_ip(told: Json) -> Ip:
    interface = told.get("interface")
    address = interface_of(_text(told["address"]))
    return Ip(address, _optional(address_of, told.get("gateway")), None if interface is None else int(interface))


def _decode_route(told: Json) -> PodRoute:
    numbers = [int(told.get(key) or 0) for key in ("mtu", "advmss", "priority")]
    options = [None if told.get(key) is None else int(told[key]) for key in ("table", "scope")]
    return PodRoute(network_of(_text(told["dst"])), _optional(address_of, told.get("gw")), *numbers, *options)


def decode_dns(told: Json) -> Dns:
    """The dns object of a result or of a config; raises TypeError, ValueError."""
    lists = [_texts(told.get(key)) for key in ("nameservers", "search", "options")]
    return Dns(lists[0], str(told.get("domain") or ""), lists[1], lists[2])


def _texts(value: Sequence[str] | None) -> tuple[str, ...]:
    if value is not None and (isinstance(value, str) or not all(isinstance(each, str) for each in value)):
        raise ValueError(f"got {value!r}, expected a list of strings")
    return tuple(value or ())


def _text(value: object) -> str:
    """`ipaddress` takes numbers too."""
    if not isinstance(value, str):
        raise TypeError(f"got {value!r}, expected text")
    return value


def _optional(read: Callable[[str], T], text: str | None) -> T | None:
    return read(_text(text)) if text else None
