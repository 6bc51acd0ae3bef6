"""A lease as flannel keeps it in etcd: the last part of the key is its subnets, the value (Go's JSON) its attributes; no I/O.

Key: `10.5.72.0-24`, dual-stack `10.77.54.0-24&fd77:0:0:30::-64`, IPv6 alone `0.0.0.0-0&fd77:0:0:30::-64`.
Value: compact JSON in this order: PublicIP, PublicIPv6 (null when there is none), then, left out when empty, BackendType,
BackendData and BackendV6Data. Reading is as tolerant as Go's: names in any case, unknown names ignored.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import NoReturn

from flanneld import FlanneldError
from flanneld.lease import Family, IPAddress, Lease, LeaseAttrs, Subnets

_KEY = re.compile(r"([0-9.]+)-([0-9]{1,3})(?:&([0-9A-Fa-f:.]+)-([0-9]{1,3}))?")
_NO_IPV4_SUBNET = IPv4Network((0, 0))
_NO_IPV4 = IPv4Address(0)
_DATA_FIELDS: tuple[tuple[Family, str], ...] = ((4, "BackendData"), (6, "BackendV6Data"))


class BadLease(FlanneldError):
    """What is stored under `key` is no lease."""

    def __init__(self, key: str, why: str, subnets: Subnets = ()) -> None:
        super().__init__(f"lease {key!r:.100}: {why:.200}")
        self.key = key
        self.subnets = subnets
        """Whose value it is that cannot be read; () when the key itself cannot."""


def encode_key(subnets: Subnets) -> str:
    """The last part of the lease's key."""
    named: Subnets = subnets if subnets[0].version == 4 else (_NO_IPV4_SUBNET, *subnets)
    return "&".join(f"{subnet.network_address}-{subnet.prefixlen}" for subnet in named)


def decode_key(key: str) -> Subnets:
    """The subnets that the last part of a key names; raises BadLease."""
    match = _KEY.fullmatch(key)
    if match is None:
        raise BadLease(key, "expected a key like 10.5.72.0-24 or 10.5.72.0-24&fd00:0:0:48::-64")
    address, length, address6, length6 = match.groups()
    try:
        ipv4 = IPv4Network((address, int(length)))
        ipv6 = () if address6 is None else (IPv6Network((address6, int(length6))),)
    except ValueError as error:
        raise BadLease(key, str(error)) from None
    subnets: Subnets = ipv6 if ipv4 == _NO_IPV4_SUBNET else (ipv4, *ipv6)
    if not subnets or any(net.prefixlen == 0 for net in subnets):
        raise BadLease(key, "a subnet cannot be everything: expected a prefix length above 0")
    return subnets


def encode_attrs(attrs: LeaseAttrs) -> bytes:
    """The lease's value, byte for byte as Go flannel writes it."""
    ipv6 = attrs.public_ip(6)
    fields = {"PublicIP": f'"{attrs.public_ip(4) or _NO_IPV4}"', "PublicIPv6": f'"{ipv6}"' if ipv6 else "null"}
    if attrs.backend_type:
        fields["BackendType"] = json.dumps(attrs.backend_type)
    fields |= {name: attrs.data(family) for family, name in _DATA_FIELDS if attrs.data(family)}
    return ("{" + ",".join(f'"{name}":{value}' for name, value in fields.items()) + "}").encode()


def decode_lease(key: str, value: bytes) -> Lease:
    """Read a key's last part and its value; raises BadLease for whatever is wrong with them."""
    subnets = decode_key(key)
    try:
        return Lease(subnets, _decode_attrs(value))
    except ValueError as error:
        raise BadLease(key, str(error), subnets) from None
    except RecursionError:
        raise BadLease(key, "the JSON is nested too deeply", subnets) from None


def _decode_attrs(value: bytes) -> LeaseAttrs:
    document = json.loads(value.decode(), parse_constant=_refuse_constant)
    if not isinstance(document, dict):
        raise ValueError(f"expected a JSON object, got {type(document).__name__}")
    fields: dict[str, object] = {name.lower(): field for name, field in document.items()}
    ipv4 = IPv4Address(_text(fields, "PublicIP") or _NO_IPV4)
    ipv6 = _text(fields, "PublicIPv6")
    public_ips: list[IPAddress] = [] if ipv4 == _NO_IPV4 else [ipv4]
    if ipv6:
        public_ips.append(_ipv6(ipv6))
    if not public_ips:
        raise ValueError("neither PublicIP nor PublicIPv6 has an address")
    # Missing and null are one thing to Go, which leaves the field as it was.
    data = tuple((family, _compact(fields[name.lower()])) for family, name in _DATA_FIELDS if fields.get(name.lower()) is not None)
    return LeaseAttrs(tuple(public_ips), _text(fields, "BackendType"), data)


def _text(fields: Mapping[str, object], name: str) -> str:
    field = fields.get(name.lower())
    if field is not None and not isinstance(field, str):
        raise ValueError(f"{name}: expected a string, got {_compact(field)}")
    if field and not field.isprintable():
        raise ValueError(f"{name}: expected printable text, got {field!r}")
    return field or ""


def _ipv6(text: str) -> IPv6Address:
    address = IPv6Address(text)
    if address.scope_id:
        raise ValueError(f"PublicIPv6: expected an address without a zone, got {text!r}")
    return address


def _compact(field: object) -> str:
    return json.dumps(field, separators=(",", ":"))


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
