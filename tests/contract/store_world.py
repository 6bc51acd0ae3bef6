"""What the lease store suite needs from each implementation: many hosts' stores on one cluster, and an administrator's hand."""

from __future__ import annotations

import json
import uuid
from contextlib import AsyncExitStack
from ipaddress import ip_address, ip_network
from typing import Protocol

from etcd_server import EtcdServer
from flanneld.config import NetworkConfig, parse_network
from flanneld.etcd import EtcdClient
from flanneld.lease import Lease, LeaseAttrs, Subnets
from flanneld.store import LeaseStore
from flanneld.stores.codec import encode_attrs, encode_key
from flanneld.stores.etcd import EtcdLeaseStore
from flanneld.stores.memory import MemoryCluster, MemoryLeaseStore

CONFIG = json.dumps({"Network": "10.5.0.0/16"})
NETWORK = parse_network(CONFIG)
SMALL = parse_network(json.dumps({"Network": "10.5.0.0/24", "SubnetLen": 28}))
"""15 subnets."""
DUAL = parse_network(json.dumps({"Network": "10.5.0.0/22", "SubnetLen": 27, "EnableIPv6": True, "IPv6Network": "fd00:5::/48"}))
"""31 IPv4 subnets beside 65,535 of IPv6: two claims meet in the one and not in the other."""


class World(Protocol):
    """One cluster."""

    def store(self) -> LeaseStore:
        """Another host's connection."""

    async def configure(self, config: str) -> None:
        """Write the network config."""

    async def reserve(self, subnets: Subnets, attrs: LeaseAttrs) -> None:
        """Write a lease that does not expire, over whatever is there."""

    async def remove(self, subnets: Subnets) -> None:
        """Delete a lease, as its expiry would."""

    async def close(self) -> None:
        """Close every store."""


class MemoryWorld:
    def __init__(self) -> None:
        self.cluster = MemoryCluster()

    def store(self) -> LeaseStore:
        return MemoryLeaseStore(self.cluster)

    async def configure(self, config: str) -> None:
        self.cluster.configure(config)

    async def reserve(self, subnets: Subnets, attrs: LeaseAttrs) -> None:
        self.cluster.put(Lease(subnets, attrs))

    async def remove(self, subnets: Subnets) -> None:
        self.cluster.remove(subnets)

    async def close(self) -> None:
        pass


class EtcdWorld:
    """A prefix of its own in a running etcd."""

    def __init__(self, server: EtcdServer) -> None:
        self.server = server
        self.prefix = f"/{uuid.uuid4().hex}"
        self._stack = AsyncExitStack()

    def client(self) -> EtcdClient:
        client = EtcdClient([self.server.endpoint])
        self._stack.push_async_callback(client.close)
        return client

    def store(self) -> EtcdLeaseStore:
        return EtcdLeaseStore(self.client(), self.prefix)

    def key(self, subnets: Subnets) -> str:
        return f"{self.prefix}/subnets/{encode_key(subnets)}"

    async def configure(self, config: str) -> None:
        self.server.ctl("put", f"{self.prefix}/config", config)

    async def reserve(self, subnets: Subnets, attrs: LeaseAttrs) -> None:
        self.server.ctl("put", self.key(subnets), encode_attrs(attrs).decode())

    async def remove(self, subnets: Subnets) -> None:
        self.server.ctl("del", self.key(subnets))

    async def close(self) -> None:
        await self._stack.aclose()


def host(number: int, *, ipv6: bool = False, data: str = "") -> LeaseAttrs:
    """What host `number` publishes."""
    ipv4 = ip_address(f"192.0.2.{number}")
    public_ips = (ipv4, ip_address(f"2001:db8::{number}")) if ipv6 else (ipv4,)
    return LeaseAttrs(public_ips, "vxlan", ((4, data),) if data else ())


def nets(*texts: str) -> Subnets:
    return tuple(map(ip_network, texts))


def wish(subnets: Subnets) -> Lease:
    """What a host that knows only its subnets from last time brings along."""
    return Lease(subnets, LeaseAttrs(()))


def claimable(network: NetworkConfig, subnets: Subnets) -> bool:
    return len(subnets) == len(network.pools) and all(net in pool for net, pool in zip(subnets, network.pools, strict=True))
