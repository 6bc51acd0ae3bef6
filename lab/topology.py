"""What a lab is to be, as values: its pod network, its segments, its hosts and routers; must not know how hosts are made.

The file is TOML, the same for hosts that are namespaces and hosts that are virtual machines:

    [network]                     # flannel's network config, word for word; what is left out gets DEFAULT_NETWORK's value
    Network = "10.244.0.0/16"
    [network.Backend]
    Type = "vxlan"

    [[segment]]                   # one L2 network; the first address of each of its subnets is the lab's own router's
    name = "lan"
    subnet = "10.0.0.0/24"
    subnet6 = "fd00:10::/64"      # left out: no IPv6
    mtu = 1500

    [[host]]
    name = "h1"
    segment = "lan"               # left out: the first segment
    address = "10.0.0.11"         # left out: .11 for the segment's first host, .12 for the second...; address6 likewise
    labels = { rack = "r1" }      # left out: none; flanneld's `--node-labels`
    asn = 65001                   # left out: any; the AS in which routers are to find it (flanneld's own is the network's to say)

    [[router]]                    # left out: none but the lab's own, which speaks to nobody
    name = "leaf1"
    kind = "bird"                 # left out: bird
    asn = 65101
    addresses = ["10.0.0.254"]    # one in each segment that it joins; the first of IPv4 is its router id
    bfd = true                    # left out: false

A router is the default gateway of the hosts on its segments, and speaks BGP with them and with all routers on its segments.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from ipaddress import ip_network
from itertools import combinations
from pathlib import Path

from lab import LabError
from lab.machines import Host, IPInterface, Router, Segment, family_key, parse_host, parse_router, parse_segment
from lab.table import Table, TopologyError

DEFAULT_NETWORK: Mapping[str, object] = {"Network": "10.244.0.0/16", "EnableNFTables": True, "Backend": {"Type": "vxlan"}}
OUTSIDE = (ip_network("203.0.113.0/24"), ip_network("2001:db8:113::/64"))
"""Where the world outside lives: behind the router, without a route to any pod (RFC 5737, RFC 3849: documentation)."""
NOT_FOR_HOSTS = tuple(map(ip_network, ("0.0.0.0/8", "127.0.0.0/8", "224.0.0.0/3", "::/8", "fe80::/10", "ff00::/8")))
"""What every kernel keeps for loopback, link-local addresses, multicast and the future (RFC 6890)."""


@dataclass(frozen=True, slots=True)
class Topology:
    """A lab's description, checked: every host's segment is there, names and addresses are used once."""

    network: Mapping[str, object]
    """flannel's network config; flanneld checks it."""
    segments: tuple[Segment, ...]
    hosts: tuple[Host, ...]
    routers: tuple[Router, ...] = ()

    @property
    def machines(self) -> tuple[Host | Router, ...]:
        """Hosts, then routers."""
        return (*self.hosts, *self.routers)

    def segment(self, host: Host) -> Segment:
        return next(segment for segment in self.segments if segment.name == host.segment)

    def joined(self, router: Router) -> dict[Segment, tuple[IPInterface, ...]]:
        """The segments that a router joins, in the order of its addresses, which are there."""
        found: dict[Segment, tuple[IPInterface, ...]] = {}
        for ip in router.addresses:
            segment = next(one for one in self.segments if ip.network in [own.network for own in one.routers])
            found[segment] = (*found.get(segment, ()), ip)
        return found

    def gateways(self, host: Host) -> tuple[IPInterface, ...]:
        """A host's default gateways, one per family: the first router of its segment, or else the lab's own."""
        return tuple(
            next((ip for router in self.routers if (ip := router.at(own.network))), own) for own in self.segment(host).routers
        )

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
    top = Table("", document)
    network = _network(top)
    lists = {"segment": top.take("segment", list), "host": top.take("host", list), "router": top.take("router", list, [])}
    top.finish()
    tables = {key: [Table(f"{key}[{n}]", item) for n, item in enumerate(items, 1)] for key, items in lists.items()}
    for key in ("segment", "host"):
        if not tables[key]:
            raise TopologyError(key, "the list is empty, expected at least one")
    segments = tuple(map(parse_segment, tables["segment"]))
    _check_apart(segments)
    hosts: list[Host] = []
    for table in tables["host"]:
        hosts.append(parse_host(table, segments, hosts))
    routers: list[Router] = []
    for table in tables["router"]:
        routers.append(parse_router(table, segments, [*hosts, *routers]))
    _check_once([named.name for group in (segments, hosts, routers) for named in group])
    return Topology(network, segments, tuple(hosts), tuple(routers))


def document(topology: Topology) -> dict[str, object]:
    """The opposite of `parse_topology`, with nothing left out; fit for TOML and JSON."""
    segments = [
        {"name": segment.name, "mtu": segment.mtu} | {family_key("subnet", ip): str(ip.network) for ip in segment.routers}
        for segment in topology.segments
    ]
    hosts = [
        {"name": host.name, "segment": host.segment, "labels": dict(host.labels)}
        | {family_key("address", ip): str(ip.ip) for ip in host.addresses}
        | ({} if host.asn is None else {"asn": host.asn})
        for host in topology.hosts
    ]
    routers = [
        {"name": router.name, "kind": router.kind, "asn": router.asn, "bfd": router.bfd}
        | {"addresses": [str(ip.ip) for ip in router.addresses]}
        for router in topology.routers
    ]
    return {"network": dict(topology.network), "segment": segments, "host": hosts, "router": routers}


def _network(top: Table) -> dict[str, object]:
    given: dict[str, object] = top.take("network", dict, {})
    try:
        json.dumps(given, allow_nan=False)
    except (TypeError, ValueError) as error:  # TOML has dates and infinities
        raise TopologyError("network", f"not JSON: {error}") from error
    set_keys = {key.lower() for key in given}  # keys match without regard to case, as in Go's JSON
    return {key: value for key, value in DEFAULT_NETWORK.items() if key.lower() not in set_keys} | given


def _check_apart(segments: Iterable[Segment]) -> None:
    named = [(f"segment {segment.name}", ip.network) for segment in segments for ip in segment.routers]
    named += [("the lab's outside", subnet) for subnet in OUTSIDE]
    named += [("what no host can have", subnet) for subnet in NOT_FOR_HOSTS]
    for (one, ours), (other, theirs) in combinations(named, 2):
        if ours.version == theirs.version and ours.overlaps(theirs):
            raise TopologyError("segment", f"{one} ({ours}) overlaps {other} ({theirs})")


def _check_once(names: Iterable[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise TopologyError("name", f"{name!r} is used twice, expected every segment, host and router to have its own")
        seen.add(name)
