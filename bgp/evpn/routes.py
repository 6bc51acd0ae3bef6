"""EVPN's routes as values and as bytes: pure; must not know attributes, sessions, nor what a route is good for.

RFC 7432 §7.2 (MAC/IP, type 2), §7.3 (inclusive multicast, type 3); RFC 9136 §3.1 (IP prefix, type 5); RFC 8365 §5.1.3 (a VNI takes
the 24 bits of a label). On the wire: type (1), length (1), and then, at the offsets given here:

    2   RD 0 (8)  ESI 8 (10)  tag 18 (4)  MAC bits 22 (1)  MAC 23 (6)  IP bits 29 (1)  IP 30 (0, 4, 16)  VNI (3), another one (3)
    3   RD 0 (8)  tag 8 (4)   IP bits 12 (1)  IP 13 (4, 16)
    5   RD 0 (8)  ESI 8 (10)  tag 18 (4)  prefix bits 22 (1)  prefix 23 (4, 16)  gateway (4, 16)  VNI (3)
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, ip_address, ip_network
from typing import ClassVar, NewType, TypeAlias, assert_never

from flanneld.backends.vtep import Vni
from flanneld.lease import IPAddress, IPNetwork

Rd = NewType("Rd", int)
"""A route distinguisher's 64 bits: two routes that differ in it are two routes, whatever else they say (RFC 4364 §4.2)."""

NO_VNI = Vni(0)
_HEADER = 2
_ZERO_ESI = bytes(10)


class RouteError(ValueError):
    """Bytes that are no EVPN route of a type that is known here."""


@dataclass(frozen=True, slots=True)
class MacIp:
    """Where a MAC address is, and which IP address has it."""

    KIND: ClassVar[int] = 2
    rd: Rd
    mac: str
    """Lower case, colons."""
    ip: IPAddress | None = None
    tag: int = 0
    """Ethernet tag: of a VNI that is one broadcast domain it is 0 (RFC 8365 §5.1.3)."""


@dataclass(frozen=True, slots=True)
class Multicast:
    """A VTEP that wants the frames for everybody."""

    KIND: ClassVar[int] = 3
    rd: Rd
    originator: IPAddress
    """The VTEP."""
    tag: int = 0


@dataclass(frozen=True, slots=True)
class Prefix:
    """A network that is behind a VTEP."""

    KIND: ClassVar[int] = 5
    rd: Rd
    prefix: IPNetwork
    tag: int = 0


Key: TypeAlias = MacIp | Multicast | Prefix
"""What tells a route from others: announced again it is the same one, with other things said of it."""


@dataclass(frozen=True, slots=True)
class EvpnRoute:
    """One route, as an UPDATE announces it."""

    key: Key
    vni: Vni = NO_VNI
    """Of a multicast route it is in an attribute, and 0 here; in a withdrawal it may be anything."""
    gateway: IPAddress | None = None
    """Of a prefix that is behind another address, which is to be looked up itself (RFC 9136 §4.1); None: behind the next hop."""
    segment: bytes = _ZERO_ESI
    """Ethernet segment; not 0: behind several VTEPs."""

    def encode(self) -> bytes:
        """Type, length and value."""
        key = self.key
        value = key.rd.to_bytes(8, "big")
        tag = key.tag.to_bytes(4, "big")
        match key:
            case MacIp():
                packed = key.ip.packed if key.ip is not None else b""
                mac = bytes.fromhex(key.mac.replace(":", ""))
                value += self.segment + tag + b"\x30" + mac + bytes([8 * len(packed)]) + packed + _label(self.vni)
            case Multicast():
                packed = key.originator.packed
                value += tag + bytes([8 * len(packed)]) + packed
            case Prefix():
                packed = key.prefix.network_address.packed
                gateway = self.gateway.packed if self.gateway is not None else bytes(len(packed))
                value += self.segment + tag + bytes([key.prefix.prefixlen]) + packed + gateway + _label(self.vni)
            case _:
                assert_never(key)
        return bytes([key.KIND, len(value)]) + value


def decode_route(data: bytes) -> EvpnRoute | None:
    """Read one route; None for one of a type that says nothing here (1: segments; 4; 6 and on). Raises RouteError."""
    if len(data) < _HEADER or len(data) != _HEADER + data[1]:
        raise RouteError(f"an EVPN route of {len(data)} bytes, expected type, length and as many bytes as that says")
    value = data[_HEADER:]
    match data[0]:
        case MacIp.KIND:
            return _mac_ip(value)
        case Multicast.KIND:
            return _multicast(value)
        case Prefix.KIND:
            return _prefix(value)
        case _:
            return None


def _mac_ip(value: bytes) -> EvpnRoute:
    if len(value) < 33 or value[22] != 48 or value[29] not in (0, 32, 128):
        raise RouteError(f"a MAC/IP route {value.hex()}, expected a MAC of 48 bits and an IP of 0, 32 or 128")
    end = 30 + value[29] // 8
    if len(value) not in (end + 3, end + 6):
        raise RouteError(f"a MAC/IP route of {len(value)} bytes, expected {end + 3} or {end + 6}")
    ip = ip_address(value[30:end]) if value[29] else None
    return EvpnRoute(MacIp(_rd(value), value[23:29].hex(":"), ip, _tag(value[18:])), _vni(value[end:]), segment=value[8:18])


def _multicast(value: bytes) -> EvpnRoute:
    if len(value) not in (17, 29) or value[12] != 8 * (len(value) - 13):
        raise RouteError(f"a multicast route of {len(value)} bytes, expected 17 or 29")
    return EvpnRoute(Multicast(_rd(value), ip_address(value[13:]), _tag(value[8:])))


def _prefix(value: bytes) -> EvpnRoute:
    if len(value) not in (34, 58):
        raise RouteError(f"a prefix route of {len(value)} bytes, expected 34 or 58")
    middle = 23 + (len(value) - 26) // 2
    address, gateway = value[23:middle], ip_address(value[middle:-3])
    if value[22] > 8 * len(address):
        raise RouteError(f"a prefix of {value[22]} bits, expected {8 * len(address)} at most")
    prefix = ip_network((address, value[22]), strict=False)  # bits behind the length say nothing (RFC 9136 §3.1)
    key = Prefix(_rd(value), prefix, _tag(value[18:]))
    return EvpnRoute(key, _vni(value[-3:]), gateway if int(gateway) else None, value[8:18])


def distinguisher(router_id: str, number: int) -> Rd:
    """Type 1: a router's id and a number of its own, 0 to 65535, as RFC 7432 §7.9 wants it for a MAC-VRF."""
    return Rd(1 << 48 | int(IPv4Address(router_id)) << 16 | number)


def _rd(value: bytes) -> Rd:
    return Rd(int.from_bytes(value[:8], "big"))


def _tag(value: bytes) -> int:
    return int.from_bytes(value[:4], "big")


def _vni(value: bytes) -> Vni:
    return Vni(int.from_bytes(value[:3], "big"))


def _label(vni: Vni) -> bytes:
    return vni.to_bytes(3, "big")
