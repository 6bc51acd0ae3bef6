"""What a lab is to be, as values: its pod network, its segments, its hosts; must not know how hosts are made.

The file is TOML, the same for hosts that are namespaces and hosts that are virtual machines:

    [network]                     # flannel's network config, word for word; what is left out gets DEFAULT_NETWORK's value
    Network = "10.244.0.0/16"
    [network.Backend]
    Type = "vxlan"

    [[segment]]                   # one L2 network; the first address of each of its subnets is the router's
    name = "lan"
    subnet = "10.0.0.0/24"
    subnet6 = "fd00:10::/64"      # left out: no IPv6
    mtu = 1500

    [[host]]
    name = "h1"
    segment = "lan"               # left out: the first segment
    address = "10.0.0.11"         # left out: .11 for the segment's first host, .12 for the second...; address6 likewise
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from ipaddress import IPv4Interface, IPv4Network, IPv6Interface, IPv6Network, ip_address, ip_interface, ip_network
from itertools import combinations
from pathlib import Path
from typing import TypeAlias, TypeVar

from lab import LabError

T = TypeVar("T")
IPInterface: TypeAlias = IPv4Interface | IPv6Interface
IPNetwork: TypeAlias = IPv4Network | IPv6Network

DEFAULT_NETWORK: Mapping[str, object] = {"Network": "10.244.0.0/16", "EnableNFTables": True, "Backend": {"Type": "vxlan"}}
OUTSIDE = (ip_network("203.0.113.0/24"), ip_network("2001:db8:113::/64"))
"""Where the world outside lives: behind the router, without a route to any pod (RFC 5737, RFC 3849: documentation)."""
NOT_FOR_HOSTS = tuple(map(ip_network, ("0.0.0.0/8", "127.0.0.0/8", "224.0.0.0/3", "::/8", "fe80::/10", "ff00::/8")))
"""What every kernel keeps for loopback, link-local addresses, multicast and the future (RFC 6890)."""
RESERVED = ("fabric", "outside", "lo", "all", "default")
"""Names that mean something else: to the lab, or as an interface, to the kernel."""
FIRST_HOST = 11
"""A host's place in its segment, if the file leaves it out: 10.0.0.11, fd00:10::11."""


class TopologyError(LabError):
    """A setting has a value it cannot have. `key` names it by its path in the file: `host[2].address`."""

    def __init__(self, key: str, why: str) -> None:
        super().__init__(f"{key}: {why}")
        self.key = key


@dataclass(frozen=True, slots=True)
class Segment:
    """One L2 network."""

    name: str
    routers: tuple[IPInterface, ...]
    """The router's address in each of the segment's subnets, IPv4 first: the hosts' default gateway."""
    mtu: int = 1500
    """Bytes."""


@dataclass(frozen=True, slots=True)
class Host:
    """One machine of the lab."""

    name: str
    segment: str
    addresses: tuple[IPInterface, ...]
    """One in each of its segment's subnets, IPv4 first."""


@dataclass(frozen=True, slots=True)
class Topology:
    """A lab's description, checked: every host's segment is there, names and addresses are used once."""

    network: Mapping[str, object]
    """flannel's network config; flanneld checks it."""
    segments: tuple[Segment, ...]
    hosts: tuple[Host, ...]

    def segment(self, host: Host) -> Segment:
        return next(segment for segment in self.segments if segment.name == host.segment)

    def with_backend(self, backend: str) -> Topology:
        """The same with another backend type, as flannel's defaults configure it."""
        network = {key: value for key, value in self.network.items() if key.lower() != "backend"}
        return replace(self, network={**network, "Backend": {"Type": backend}})


def generate(hosts: int = 3, *, backend: str = "vxlan", segments: int = 1, ipv6: bool = False) -> Topology:
    """The lab one gets without a file: h1, h2..., spread in order over the segments 10.0.0.0/24, 10.0.1.0/24..."""
    if not 1 <= hosts <= 200:
        raise TopologyError("hosts", f"{hosts} is out of range, expected 1 to 200")
    if not 1 <= segments <= hosts:
        raise TopologyError("segments", f"{segments} is out of range, expected 1 to {hosts} for {hosts} hosts")
    network: dict[str, object] = {**DEFAULT_NETWORK, "Backend": {"Type": backend}}
    if ipv6:
        network |= {"EnableIPv6": True, "IPv6Network": "fd00:10:244::/48"}
    lan: list[dict[str, object]] = [{"name": f"lan{place + 1}", "subnet": f"10.0.{place}.0/24"} for place in range(segments)]
    for place, segment in enumerate(lan if ipv6 else ()):
        segment["subnet6"] = f"fd00:10:{place}::/64"
    machines = [{"name": f"h{place + 1}", "segment": f"lan{place * segments // hosts + 1}"} for place in range(hosts)]
    return parse_topology({"network": network, "segment": lan, "host": machines})


def read_topology(path: Path) -> Topology:
    """Read a topology file; raises TopologyError, LabError naming the file."""
    try:
        return parse_topology(tomllib.loads(path.read_text(encoding="utf-8")))
    except TopologyError as error:
        raise LabError(f"{path}: {error}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise LabError(f"{path}: not TOML: {error}") from error
    except RecursionError:
        raise LabError(f"{path}: nested too deep, expected tables and values") from None
    except OSError as error:
        raise LabError(f"{path}: {error.strerror}") from error


def parse_topology(document: Mapping[str, object]) -> Topology:
    """Check a document of the form above; raises TopologyError for the first thing that is wrong."""
    top = _Table("", document)
    network = _network(top)
    tables = {key: [_Table(f"{key}[{n}]", item) for n, item in enumerate(top.take(key, list), 1)] for key in ("segment", "host")}
    top.finish()
    for key, found in tables.items():
        if not found:
            raise TopologyError(key, "the list is empty, expected at least one")
    segments = tuple(map(_segment, tables["segment"]))
    _check_apart(segments)
    hosts: list[Host] = []
    for table in tables["host"]:
        hosts.append(_host(table, segments, hosts))
    _check_once([segment.name for segment in segments] + [host.name for host in hosts])
    return Topology(network, segments, tuple(hosts))


def document(topology: Topology) -> dict[str, object]:
    """The opposite of `parse_topology`, with nothing left out; fit for TOML and JSON."""
    segments = [
        {"name": segment.name, "mtu": segment.mtu} | {_key("subnet", ip): str(ip.network) for ip in segment.routers}
        for segment in topology.segments
    ]
    hosts = [
        {"name": host.name, "segment": host.segment} | {_key("address", ip): str(ip.ip) for ip in host.addresses}
        for host in topology.hosts
    ]
    return {"network": dict(topology.network), "segment": segments, "host": hosts}


def _network(top: _Table) -> dict[str, object]:
    given: dict[str, object] = top.take("network", dict, {})
    try:
        json.dumps(given, allow_nan=False)
    except (TypeError, ValueError) as error:  # TOML has dates and infinities
        raise TopologyError("network", f"not JSON: {error}") from error
    set_keys = {key.lower() for key in given}  # keys match without regard to case, as in Go's JSON
    return {key: value for key, value in DEFAULT_NETWORK.items() if key.lower() not in set_keys} | given


class _Table:
    """One table of the document, read key by key, so that errors name the whole path and what nobody reads is unknown."""

    def __init__(self, path: str, items: object) -> None:
        if not isinstance(items, Mapping):
            raise TopologyError(path, f"{items!r} is not a table")
        self._path = path
        self._items: dict[str, object] = dict(items)
        self._known: list[str] = []

    def error(self, key: str, why: str) -> TopologyError:
        return TopologyError(f"{self._path}.{key}" if self._path else key, why)

    def take(self, key: str, kind: type[T], default: T | None = None) -> T:
        self._known.append(key)
        value = self._items.pop(key, default)
        if value is None:
            raise self.error(key, "missing")
        if not isinstance(value, kind) or isinstance(value, bool):
            raise self.error(key, f"{value!r} is not {_KINDS[kind]}")
        return value

    def parse(self, key: str, parse: Callable[[str], T]) -> T:
        """Take a text and read it; the parser's ValueError becomes ours."""
        text = self.take(key, str)
        try:
            return parse(text)
        except ValueError as error:
            raise self.error(key, str(error)) from error

    def has(self, key: str) -> bool:
        self._known.append(key)
        return key in self._items

    def finish(self) -> None:
        for key in self._items:
            raise self.error(key, f"unknown key, expected one of {', '.join(dict.fromkeys(self._known))}")


_KINDS: Mapping[type, str] = {str: "a string", int: "an integer", dict: "a table", list: "an array of tables"}


def _key(stem: str, ip: IPInterface) -> str:
    return stem if ip.version == 4 else f"{stem}6"


def _name(text: str) -> str:
    """A host name (RFC 1123 label) that is an interface name too (IFNAMSIZ: 15 characters)."""
    if not re.fullmatch(r"[a-z]([a-z0-9-]{0,13}[a-z0-9])?", text):
        raise ValueError(f"{text!r} is not a name, expected 1 to 15 of a-z, 0-9 and '-', a letter first")
    if text in RESERVED:
        raise ValueError(f"{text!r} is taken, expected a name other than {', '.join(RESERVED)}")
    return text


def _segment(table: _Table) -> Segment:
    name = table.parse("name", _name)
    subnets = [_subnet(table, "subnet", IPv4Network)]
    if table.has("subnet6"):
        subnets.append(_subnet(table, "subnet6", IPv6Network))
    mtu, least = table.take("mtu", int, 1500), 1280 if len(subnets) == 2 else 576  # RFC 8200 §5, RFC 791 §3.2
    if not least <= mtu <= 65535:
        raise table.error("mtu", f"{mtu} is out of range, expected {least} to 65535")
    table.finish()
    return Segment(name, tuple(ip_interface((subnet[1], subnet.prefixlen)) for subnet in subnets), mtu)


def _subnet(table: _Table, key: str, kind: type[IPv4Network | IPv6Network]) -> IPNetwork:
    text = table.take(key, str)
    try:
        subnet = kind(text)
    except ValueError as error:
        raise table.error(key, f"{text!r} is not an {kind.__name__.removesuffix('Network')} subnet: {error}") from error
    if subnet.num_addresses < 8:
        raise table.error(key, f"{subnet} is too small, expected 8 addresses or more")
    return subnet


def _check_apart(segments: Iterable[Segment]) -> None:
    named = [(f"segment {segment.name}", ip.network) for segment in segments for ip in segment.routers]
    named += [("the lab's outside", subnet) for subnet in OUTSIDE]
    named += [("what no host can have", subnet) for subnet in NOT_FOR_HOSTS]
    for (one, ours), (other, theirs) in combinations(named, 2):
        if ours.version == theirs.version and ours.overlaps(theirs):
            raise TopologyError("segment", f"{one} ({ours}) overlaps {other} ({theirs})")


def _host(table: _Table, segments: tuple[Segment, ...], others: list[Host]) -> Host:
    name = table.parse("name", _name)
    wanted = table.take("segment", str, segments[0].name)
    segment = next((segment for segment in segments if segment.name == wanted), None)
    if segment is None:
        raise table.error("segment", f"there is no segment {wanted!r}, expected one of {', '.join(s.name for s in segments)}")
    place = FIRST_HOST + sum(host.segment == wanted for host in others)
    addresses = tuple(_address(table, router, place) for router in segment.routers)
    taken = {ip: host.name for host in others for ip in host.addresses} | dict.fromkeys(segment.routers, "the router")
    for ip in addresses:
        if ip in taken:
            raise table.error(_key("address", ip), f"{ip.ip} is already the address of {taken[ip]}")
    table.finish()
    return Host(name, wanted, addresses)


def _address(table: _Table, router: IPInterface, place: int) -> IPInterface:
    key, subnet = _key("address", router), router.network
    if table.has(key):
        ip = table.parse(key, ip_address)
        if ip not in subnet or ip in (subnet.network_address, subnet.broadcast_address) or "%" in str(ip):
            raise table.error(key, f"{ip} is not a host's address in {subnet}")
        return ip_interface((ip, subnet.prefixlen))
    offset = place if subnet.version == 4 else int(str(place), 16)  # the address is to read the same: .11, ::11
    if offset >= subnet.num_addresses - 1:
        raise table.error(key, f"missing, and {subnet} has no room for the usual one, which ends in {place}")
    return ip_interface((subnet[offset], subnet.prefixlen))


def _check_once(names: Iterable[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise TopologyError("name", f"{name!r} is used twice, expected every segment and host to have its own")
        seen.add(name)
