"""A host of the pod network as BGP sees it, and what it publishes of itself in its lease; must not know sessions.

RFC 6286 (the router id is any number but zero, the AS's own).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from types import MappingProxyType

from bgp.config import BgpConfig
from bgp.path import Asn
from bgp.section import shown
from bgp.selector import ADDRESS, NAME
from bgp.session import BGP_PORT
from bgp.settings import is_asn, parse_router_id
from flanneld.lease import FAMILIES, Family, IPAddress, Lease, Subnets, family_of


@dataclass(frozen=True, slots=True)
class BgpData:
    """What a peer must know of a host besides its addresses: the lease's BackendData, the same for both families."""

    asn: Asn
    router_id: str
    """A dotted quad, not 0.0.0.0."""
    name: str = ""
    labels: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    port: int = BGP_PORT
    """Where it listens."""

    def render(self) -> str:
        """Compact JSON, equal for equal data."""
        fields = {"AS": self.asn, "RouterID": self.router_id, "Name": self.name}
        fields |= {"Labels": dict(sorted(self.labels.items())), "Port": self.port}
        return json.dumps(fields, separators=(",", ":"))


def parse_data(text: str) -> BgpData:
    """Read a peer's BackendData; raises ValueError saying what is wrong with it. Unknown keys are a later version's."""
    try:
        fields = json.loads(text or "null")
    except (ValueError, RecursionError):
        raise ValueError(f"published BackendData {shown(text)}, expected JSON") from None
    if not isinstance(fields, dict):
        raise ValueError(f"published BackendData {shown(text)}, expected an object")
    found = {key.lower(): value for key, value in fields.items() if value is not None}
    asn, name, port = found.get("as"), found.get("name", ""), found.get("port", BGP_PORT)
    if not is_asn(asn):
        raise ValueError(f"published AS {shown(asn)}, expected an AS number that is not reserved")
    if not isinstance(name, str):
        raise ValueError(f"published Name {shown(name)}, expected a string")
    if isinstance(port, bool) or not isinstance(port, int) or not 1 <= port <= 65535:
        raise ValueError(f"published Port {shown(port)}, expected 1 to 65535")
    return BgpData(Asn(asn), _router_id(found.get("routerid")), name, _labels(found.get("labels", {})), port)


@dataclass(frozen=True, slots=True)
class HostView:
    """One host."""

    name: str
    labels: Mapping[str, str]
    addresses: tuple[IPAddress, ...]
    """Its public IPs: at most one per family, IPv4 first."""
    router_id: str
    asn: Asn
    port: int
    subnets: Subnets
    """Of its lease."""

    @property
    def data(self) -> BgpData:
        """What it publishes."""
        return BgpData(self.asn, self.router_id, self.name, self.labels, self.port)

    @property
    def families(self) -> tuple[Family, ...]:
        """Those of its subnets."""
        return tuple(family for family in FAMILIES if any(family_of(subnet) == family for subnet in self.subnets))

    def address(self, family: Family) -> IPAddress | None:
        return next((address for address in self.addresses if address.version == family), None)

    def __str__(self) -> str:
        return f"{self.name or 'host'} ({', '.join(map(str, self.addresses))})"


def own_view(
    config: BgpConfig, name: str, labels: Mapping[str, str], addresses: tuple[IPAddress, ...], subnets: Subnets
) -> HostView:
    """This host, as the config has it."""
    settings = config.of_host(selectable(name, labels, addresses))
    router_id = settings.router_id or default_router_id(addresses)
    return HostView(name, labels, addresses, str(router_id), settings.asn, config.port, subnets)


def peer_view(lease: Lease) -> HostView:
    """A peer, as its lease has it; raises ValueError for BackendData that says nothing."""
    data = parse_data(next((text for _, text in lease.attrs.backend_data), ""))
    return HostView(data.name, data.labels, lease.attrs.public_ips, data.router_id, data.asn, data.port, lease.subnets)


def selectable(name: str, labels: Mapping[str, str], addresses: tuple[IPAddress, ...]) -> Mapping[str, str]:
    """What selectors see of a host: its labels, and as labels its name and addresses."""
    return {**labels, NAME: name, ADDRESS: ",".join(map(str, addresses))}


def default_router_id(addresses: tuple[IPAddress, ...]) -> IPv4Address:
    """The host's IPv4 address; without one, 32 bits that follow from the IPv6 address."""
    own = next((address for address in addresses if isinstance(address, IPv4Address)), None)
    if own is not None:
        return own
    digest = hashlib.sha256(f"router id {addresses}".encode()).digest()
    return IPv4Address(int.from_bytes(digest[:4], "big") or 1)


def _router_id(value: object) -> str:
    try:
        if isinstance(value, str):
            return str(parse_router_id(value))
    except ValueError:
        pass
    raise ValueError(f"published RouterID {shown(value)}, expected a dotted quad, not 0.0.0.0")


def _labels(value: object) -> Mapping[str, str]:
    if not isinstance(value, dict) or not all(isinstance(each, str) for each in value.values()):
        raise ValueError(f"published Labels {shown(value)}, expected an object of strings")
    return MappingProxyType(value)
