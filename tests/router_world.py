"""Hosts on one Ethernet segment with routers on them; must not know what the routers are to tell each other.

host 1 eth0 10.99.0.1/24, fd99::1/64 -- bridge br0 in a namespace of its own -- eth0 10.99.0.2/24, fd99::2/64 host 2 ..
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address, ip_network

from bgp.path import Asn
from flanneld.lease import IPAddress, IPNetwork
from flanneld.linux.netns import run_in
from lab.fabric import become_router
from router import Router, established, eventually
from router_configs import Neighbour, RouterPlan
from scratch_netns import ScratchNetns, scratch_netns

IPV4 = IPv4Address("10.99.0.0")
IPV6 = IPv6Address("fd99::")
OURS, THEIRS = Asn(64512), Asn(64513)
ANY = Neighbour(IPv4Address(0), OURS)
"""A session, but for whose: `World.pair` says that."""


@dataclass(frozen=True)
class Segment:
    """Hosts by their names of 3 to 15 characters; their numbers are in that order, from 1."""

    lan: ScratchNetns
    hosts: Mapping[str, ScratchNetns]

    def number(self, host: str) -> int:
        return 1 + list(self.hosts).index(host)

    def address(self, host: str, *, ipv6: bool = False) -> IPAddress:
        return (IPV6 if ipv6 else IPV4) + self.number(host)

    def plug_in(self, host: str) -> None:
        netns = self.hosts[host]
        run_in(netns.path, become_router)
        self.lan.ip(f"link add {host} up type veth peer name eth0 netns {netns.name}")
        for line in ("link set lo up", "link set eth0 up"):
            netns.ip(line)
        for address in (f"{self.address(host)}/24", f"{self.address(host, ipv6=True)}/64"):
            netns.ip(f"addr add {address} dev eth0")
        self.mend(host)

    def cut(self, host: str) -> None:
        """Lose all that it sends and all that is sent to it; its own end of the cable sees nothing of that."""
        self.lan.ip(f"link set {host} nomaster")

    def mend(self, host: str) -> None:
        """Undo `cut`."""
        self.lan.ip(f"link set {host} master br0")


@contextmanager
def segment(*hosts: str) -> Iterator[Segment]:
    with ExitStack() as stack:
        lan = stack.enter_context(scratch_netns())
        lan.ip("link add br0 up type bridge")
        made = Segment(lan, {host: stack.enter_context(scratch_netns()) for host in hosts})
        for host in hosts:
            made.plug_in(host)
        yield made


@dataclass(frozen=True)
class World:
    """Hosts, and the routers that were started on them."""

    segment: Segment
    stack: AsyncExitStack
    """Ends the routers."""

    def address(self, host: str, *, ipv6: bool = False) -> IPAddress:
        return self.segment.address(host, ipv6=ipv6)

    def prefix(self, host: str) -> IPNetwork:
        """Its own."""
        return ip_network(f"10.7.{self.segment.number(host)}.0/24")

    def plan(self, host: str, asn: Asn, *neighbours: Neighbour) -> RouterPlan:
        """Of a router that originates the prefix of its host."""
        return RouterPlan(str(self.address(host)), asn, neighbours, originate=(self.prefix(host),))

    async def run(self, host: str, kind: type[Router], plan: RouterPlan) -> Router:
        """Start one, until the end of the world."""
        return await self.stack.enter_async_context(kind.planned(self.segment.hosts[host].path, plan))

    async def pair(
        self, kinds: tuple[type[Router], type[Router]], asn: Asn = OURS, like: Neighbour = ANY, *, ipv6: bool = False
    ) -> tuple[Router, Router]:
        """A router in OURS on the first host, one in this AS on the second, and the session that the first of them opened."""
        hosts = list(self.segment.hosts)
        here, there = (self.address(host, ipv6=ipv6) for host in hosts[:2])
        waits = self.plan(hosts[1], asn, replace(like, address=here, asn=OURS, source=there, passive=True))
        opens = self.plan(hosts[0], OURS, replace(like, address=there, asn=asn, source=here))
        second = await self.run(hosts[1], kinds[1], waits)
        first = await self.run(hosts[0], kinds[0], opens)
        await established(first, there)
        await established(second, here)
        return first, second


@asynccontextmanager
async def router_world(*hosts: str) -> AsyncIterator[World]:
    with segment(*hosts) as made:
        async with AsyncExitStack() as stack:
            yield World(made, stack)


async def knows(router: Router, prefix: IPNetwork, *next_hops: IPAddress) -> None:
    """Wait until it uses exactly these next hops; in the kernel too, if that is its business."""
    await eventually(router.routes, lambda routes: routes.get(prefix) == frozenset(next_hops))
    if router.KERNEL_PROTOCOL is not None:
        await eventually(router.kernel_routes, lambda routes: routes.get(prefix) == frozenset(next_hops))
