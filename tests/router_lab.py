"""A lab whose hosts run flanneld with the bgp backend, or a router; must not know what they are to tell each other.

h1, h2    flanneld's, 10.0.0.11 and 10.0.0.12, fd00:10::11 ..; leases from 10.244.1.0/24 to 10.244.99.0/24
r1, r2 .. routers', 10.0.0.13 ..; what they announce of the pool is above that
"""

from __future__ import annotations

import os
import signal
import uuid
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from pathlib import Path

from bgp.bfd.settings import MODULE
from bgp.path import Asn
from bgp.process import running_here
from bgp.speaker.child import LAUNCHER
from flanneld.lease import IPAddress, IPNetwork
from flanneld_world import PREFIX, Flanneld, LabEtcd, World, eventually, run, show, write_file
from lab.lab import Lab
from lab.pods import LabHost, Pod
from lab.topology import parse_topology
from router import NextHops, Router
from router_configs import Neighbour, RouterPlan

OURS = Asn(64512)
POOL4: Mapping[str, object] = {
    "Network": "10.244.0.0/16",
    "SubnetMin": "10.244.1.0",
    "SubnetMax": "10.244.99.0",
    "EnableNFTables": True,
}
"""Leases leave room for what routers announce."""
POOL: Mapping[str, object] = {**POOL4, "EnableIPv6": True, "IPv6Network": "fd00:10:244::/48"}
PASSWORD_FILE = Path("/run/bgp-password")
PASSWORD = "k3y-k3y"  # noqa: S105  # not a secret
OUR_PROTOCOL = 84
"""The mark of flanneld's routes in the kernel."""


@dataclass
class RouterLab:
    """The hosts, and what was started on them for one test or a few."""

    world: World
    stack: AsyncExitStack
    """Ends the routers."""
    network: Mapping[str, object]
    """All of flannel's network config but for `Backend`."""
    started: dict[str, Flanneld] = field(default_factory=dict)

    def host(self, name: str) -> LabHost:
        return self.world.lab.host(name)

    def address(self, name: str, *, ipv6: bool = False) -> IPAddress:
        """Of a host's uplink."""
        (spec,) = (host for host in self.world.lab.topology.hosts if host.name == name)
        return spec.addresses[1 if ipv6 else 0].ip

    def address4(self, name: str) -> IPv4Address:
        address = self.address(name)
        assert isinstance(address, IPv4Address)
        return address

    def address6(self, name: str) -> IPv6Address:
        address = self.address(name, ipv6=True)
        assert isinstance(address, IPv6Address)
        return address

    def peer(self, name: str, asn: int = OURS, **settings: object) -> dict[str, object]:
        """An entry of `Peers` for the router on that host."""
        return {"Address": str(self.address(name)), "AS": asn, **settings}

    def configure(self, *peers: Mapping[str, object], **backend: object) -> None:
        """What is in etcd for all flannelds."""
        self.world.configure({**self.network, "Backend": {"Type": "bgp", "Peers": list(peers), **backend}})

    def flanneld(self, name: str) -> Flanneld:
        """Start it, in the place of one that ran; it has a lease, and a pod when this returns."""
        self.started[name] = self.world.start(name).ready()
        self.host(name).pod("p1")
        return self.started[name]

    def pod(self, name: str) -> Pod:
        return self.host(name).pod("p1")

    def subnets(self, name: str) -> tuple[IPNetwork, ...]:
        """What flanneld's lease there is of, IPv4 first."""
        env = self.host(name).subnet_env()
        assert env is not None, f"{name} has no subnet"
        return env.subnets

    def plan(self, name: str, asn: int, *neighbours: Neighbour, originate: tuple[str, ...] = ()) -> RouterPlan:
        """Of the router on that host, which has an address in each prefix that it originates."""
        plan = RouterPlan(str(self.address(name)), Asn(asn), neighbours, tuple(map(ip_network, originate)))
        return replace(plan, next_hop6=self.address6(name))

    async def router(self, name: str, kind: type[Router], plan: RouterPlan) -> Router:
        """Start one, until the end of the test."""
        for prefix in plan.originate:
            run(self.host(name), f"ip addr replace {prefix[1]} dev lo")
        return await self.stack.enter_async_context(kind.planned(self.host(name).namespaces[0], plan))

    def routes(self, name: str) -> dict[IPNetwork, NextHops]:
        """What flanneld there has put into the kernel."""
        return bgp_routes(self.host(name))

    def cut(self, name: str) -> None:
        """Lose all that the host sends and all that is sent to it; neither end of the cable sees anything of that."""
        run(self.world.lab.fabric, f"ip link set {name} nomaster")

    def mend(self, name: str) -> None:
        """Undo `cut`."""
        run(self.world.lab.fabric, f"ip link set {name} master lan")

    def exabgp(self, name: str) -> int:
        """Its process id on that host."""
        return eventually(lambda: speakers_of(self.host(name)), f"exabgp on {name}")[0]

    def kill(self, name: str) -> None:
        """End flanneld and exabgp there, before either can do anything about it."""
        pids = speakers_of(self.host(name))
        self.started[name].process.kill()
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        self.started.pop(name).process.wait()

    def clear(self) -> None:
        """End all flannelds, their exabgps and BFD, and forget their leases and routes."""
        for name in list(self.started):
            self.kill(name)
            for found in self.host(name).call(lambda: list(running_here(MODULE))):
                os.kill(found.pid, signal.SIGKILL)
            for family in ("-4", "-6"):
                run(self.host(name), f"ip {family} route flush proto {OUR_PROTOCOL}")
        self.world.stop()
        self.world.etcd.delete(f"{PREFIX}/subnets/")


SEGMENT = {"name": "lan", "subnet": "10.0.0.0/24", "subnet6": "fd00:10::/64"}


@contextmanager
def router_hosts(*names: str) -> Iterator[World]:
    """A lab with these hosts, and an etcd."""
    topology = parse_topology({"network": POOL, "segment": [SEGMENT], "host": [{"name": name} for name in names]})
    with Lab.up(topology, name=f"t{uuid.uuid4().hex[:8]}", start_daemons=False) as up:
        world = World(up, LabEtcd(up.fabric))
        for host in up.hosts:
            write_file(host, PASSWORD_FILE, PASSWORD)
            host.call(PASSWORD_FILE.chmod, 0o600)
        try:
            yield world
        finally:
            world.stop()


@asynccontextmanager
async def router_lab(world: World, network: Mapping[str, object] = POOL) -> AsyncIterator[RouterLab]:
    """What is started in it ends with it; the hosts stay as they then are."""
    async with AsyncExitStack() as stack:
        lab = RouterLab(world, stack, network)
        try:
            yield lab
        finally:
            lab.clear()


def bgp_routes(host: LabHost) -> dict[IPNetwork, NextHops]:
    """Those to elsewhere that flanneld has put into the kernel there."""
    found: dict[IPNetwork, NextHops] = {}
    for family in ("-4", "-6"):
        for route in show(host, f"ip {family} route show proto {OUR_PROTOCOL}"):
            hops = route.get("nexthops", [route])
            texts = [hop.get("gateway") or hop.get("via", {}).get("host") for hop in hops]
            if any(texts):
                prefix = ip_network(route["dst"])
                found[prefix] = found.get(prefix, frozenset()) | frozenset(ip_address(text) for text in texts if text)
    return found


def speakers_of(host: LabHost) -> list[int]:
    """The process ids of exabgps on a host."""
    found = []
    net = host.namespaces[0].stat().st_ino
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if (entry / "ns/net").stat().st_ino == net and LAUNCHER.encode() in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
    return found
