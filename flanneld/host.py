"""A host that has its lease: everything that runs until the end, as one TaskGroup; must not know how the parts were opened."""

from __future__ import annotations

import asyncio
import hashlib
import time
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path

from flanneld import FlanneldError, masquerade, notify
from flanneld.backend import Network, Uplink
from flanneld.config import NetworkConfig
from flanneld.firewall import clear_other
from flanneld.flags import Options
from flanneld.health import Health
from flanneld.keeper import LeaseKeeper
from flanneld.kernel import OWN_ROUTE_PROTOCOL, Kernel, Owner, Route, RouteKind, reconcile
from flanneld.lease import Lease, inside
from flanneld.linux.events import AddressEvent, Event, LinkEvent, Overrun, RouteEvent
from flanneld.linux.netlink import Monitor
from flanneld.log import Log
from flanneld.masquerade import Firewall, Policy
from flanneld.peers import PeerLoop
from flanneld.rules import RuleLoop
from flanneld.store import LeaseStore
from flanneld.subnet_env import SubnetEnv, write

log = Log(__name__)

BLACKHOLE_METRIC = 1 << 30
"""Far behind the pod bridge's own route, which it must never displace."""
SECONDS_PER_MINUTE = 60


class UplinkLost(FlanneldError):
    """The interface that peers reach us by has left this host."""


def instance_of(etcd_prefix: str) -> str:
    """What tells our firewall chains from another network's on the same host; "", which is flannel's names, by default."""
    prefix = etcd_prefix.rstrip("/")
    if prefix == Options().etcd_prefix:
        return ""
    return hashlib.sha256(prefix.encode()).hexdigest()[:6]


@dataclass(frozen=True, slots=True)
class Host:
    """One host of one pod network, from its lease on."""

    options: Options
    network: NetworkConfig
    own: Lease
    uplink: Uplink
    attached: Network
    kernel: Kernel
    firewall: Firewall
    health: Health

    async def serve(self, store: LeaseStore, monitor: Monitor) -> None:
        """Make our subnet usable, then keep lease, peers and rules as they should be until cancelled; raises FlanneldError."""
        await self.attached.adopt(self.own)
        rules = await self._first_rules()
        self.health.met("rules")
        self._write_subnet_env()
        self.health.met("subnet.env")
        margin_s = self.options.subnet_lease_renew_margin * SECONDS_PER_MINUTE
        keeper = LeaseKeeper(store, self.network, self.own, margin_s, time.time)
        monitor.only(self._devices)

        def state(why: str) -> None:
            self._peers_state(why)
            # The round may have made a device anew, and nobody heard what happened to it since.
            if monitor.only(self._devices):
                peers.disturbed()

        peers = PeerLoop(self.network, self.attached, self.own, state)
        async with asyncio.TaskGroup() as tasks:
            for part in (keeper.run(), peers.run(), rules.run(), self.attached.run()):
                tasks.create_task(part)
            tasks.create_task(self._follow_store(store, keeper, peers))
            tasks.create_task(self._follow_kernel(monitor, peers))

    async def _first_rules(self) -> RuleLoop:
        """Pods find rules and routes in place when subnet.env lets them start."""
        options = self.options
        policy = Policy(options.ip_masq, options.iptables_forward_rules, not options.ip_masq_fully_random_disable)
        rule_sets = masquerade.plan((pool.network for pool in self.network.pools), self.own.subnets, policy)
        await self.firewall.apply(rule_sets)
        await clear_other(self.firewall, instance_of(options.etcd_prefix))
        rules = RuleLoop(self.firewall, rule_sets, self._blackhole, options.iptables_resync)
        self._blackhole()
        return rules

    def _blackhole(self) -> None:
        """Keep what is for no pod of ours from following the default route out, if that is wanted."""
        owner = Owner(tuple(pool.network for pool in self.network.pools), protocol=OWN_ROUTE_PROTOCOL)
        routes = [
            Route(subnet, kind=RouteKind.BLACKHOLE, protocol=OWN_ROUTE_PROTOCOL, metric=BLACKHOLE_METRIC)
            for subnet in self.own.subnets
            if self.options.ip_blackhole_route
        ]
        for refused in reconcile(self.kernel, owner, routes).refused:
            raise refused

    def _write_subnet_env(self) -> None:
        networks = tuple(pool.network for pool in self.network.pools)
        env = SubnetEnv(networks, self.own.subnets, self.attached.mtu, self.options.ip_masq)
        write(Path(self.options.subnet_file), env)

    def _peers_state(self, why: str) -> None:
        """Ready means that peers are programmed; flannel says so before it has looked for any."""
        if why:
            self.health.unmet("peers", why)
        elif self.health.met("peers") and not self.health.reasons:
            log.info("ready", subnet=self.own, mtu=self.attached.mtu)
            notify.ready()

    async def _follow_store(self, store: LeaseStore, keeper: LeaseKeeper, peers: PeerLoop) -> None:
        async with aclosing(store.watch()) as watch:
            async for leases in watch:
                keeper.leases(leases)
                peers.leases(leases)

    async def _follow_kernel(self, monitor: Monitor, peers: PeerLoop) -> None:
        async for batch in monitor:
            if any(map(self.concerned_by, batch)):
                self._require_uplink()
                peers.disturbed()

    @property
    def _devices(self) -> frozenset[int]:
        """What we want to hear of: a busy host's pods are none of it."""
        return self.attached.owner.devices | {self.uplink.index}

    def _require_uplink(self) -> None:
        """Raise UplinkLost when the interface is gone: all that we published hangs on it, so only a new start can help."""
        present = self.kernel.link(self.uplink.name)
        if present is None or present.index != self.uplink.index:
            raise UplinkLost(f"uplink {self.uplink} is gone, expected it to stay")

    def concerned_by(self, news: Event) -> bool:
        """True if what is ours may not be as we left it; a busy host's other news costs nothing."""
        owner = self.attached.owner
        match news:
            case Overrun():
                return True
            case LinkEvent(link, _):
                # A device that goes down takes its routes along without a word.
                return link.index == self.uplink.index or link.index in owner.devices
            case AddressEvent(index, _, _):
                return index == self.uplink.index or index in owner.devices
            case RouteEvent(route, _):
                # So does a stranger's route that replaces one of ours. What is in our own subnet is about single pods.
                ours = any(inside(route.destination, subnet) for subnet in self.own.subnets)
                return owner.owns(route) or (
                    not ours and any(inside(route.destination, pool.network) for pool in self.network.pools)
                )
            case _:
                return owner.owns(news.entry)
