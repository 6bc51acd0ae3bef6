"""Leases and an uplink for tests: hosts n = 1, 2, ... on 10.0.0.0/24, with pods in 10.244.n.0/24 and fd00:244:0:n::/64."""

from __future__ import annotations

from collections.abc import Collection
from ipaddress import ip_address, ip_interface, ip_network

from flanneld.backend import Network, Refusal, SourceChecking, Uplink
from flanneld.config import NetworkConfig, parse_network
from flanneld.kernel import Kernel
from flanneld.lease import Family, Lease, LeaseAttrs
from flanneld.program import program

FAMILIES: tuple[Family, ...] = (4, 6)


def network(backend: str = '{"Type": "vxlan"}', families: tuple[Family, ...] = (4,)) -> NetworkConfig:
    v4 = '"Network": "10.244.0.0/16", ' if 4 in families else '"EnableIPv4": false, '
    v6 = '"EnableIPv6": true, "IPv6Network": "fd00:244::/48", ' if 6 in families else ""
    return parse_network(f'{{{v4}{v6}"Backend": {backend}}}')


def uplink(families: tuple[Family, ...] = (4,), mtu: int = 1500, index: int = 2) -> Uplink:
    addresses = tuple(ip_interface({4: "10.0.0.1/24", 6: "fd00:10::1/64"}[family]) for family in families)
    return Uplink("eth0", index, mtu, addresses, tuple(address.ip for address in addresses))


def lease(n: int, backend_type: str = "vxlan", families: tuple[Family, ...] = (4,), segment: str = "10.0.0") -> Lease:
    ips = {4: f"{segment}.{n}", 6: f"fd00:10::{n}"}
    subnets = {4: f"10.244.{n}.0/24", 6: f"fd00:244:0:{n}::/64"}
    published = {"vxlan": f'{{"VNI":1,"VtepMAC":"{vtep_mac(n)}"}}', "bgp": f'{{"AS":64512,"RouterID":"10.0.0.{n}"}}'}
    data = tuple((family, published[backend_type]) for family in families) if backend_type in published else ()
    attrs = LeaseAttrs(tuple(ip_address(ips[family]) for family in families), backend_type, data)
    return Lease(tuple(ip_network(subnets[family]) for family in families), attrs)


def vtep_mac(n: int) -> str:
    return f"0e:00:00:00:00:{n:02x}"


async def apply(attached: Network, kernel: Kernel, peers: Collection[Lease]) -> tuple[Refusal, ...]:
    """What the mesh does for one method alone: bring the kernel to these peers; returns the refusals."""
    if isinstance(attached, SourceChecking):
        attached.hear(peers)
    return program(kernel, attached.owner, [await attached.reach(peers)]).refused
