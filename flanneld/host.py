"""A host in its pod network: everything that runs until the end, as one TaskGroup; must not know how the parts were opened.

What happens is only ever a reason to look again, at the network config, at the uplink, at the lease. `_settle` compares them with
what is served, and has `Membership` serve what there is now.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import aclosing, suppress
from typing import Protocol

from flanneld import FlanneldError, notify
from flanneld.backend import Uplink
from flanneld.config import ConfigError, NetworkConfig, parse_network
from flanneld.health import Health
from flanneld.keeper import LeaseKeeper, Listener
from flanneld.kernel import Entry
from flanneld.lease import Family, Lease, Subnets, inside
from flanneld.linux.events import AddressEvent, Event, FdbEvent, LinkEvent, NeighbourEvent, Overrun, RouteEvent
from flanneld.linux.netlink import Monitor
from flanneld.log import Log, Once
from flanneld.membership import Membership, Situation
from flanneld.peers import PeerLoop
from flanneld.retry import Backoff
from flanneld.store import LeaseLost, LeaseStore

log = Log(__name__)

SECONDS_PER_MINUTE = 60
FAREWELL_S = 5.0
"""From the loss of the lease to our end: for so long probes can read why."""
UPLINK_LOOK_S = 0.5
"""How often a lost uplink is looked for: the one that comes in its place is none whose notices we hear."""
PRECEDENCE_S = 2.0
"""How long leases wait for a config that came before them."""
RETIRE_LOOK_S = 2.0
"""How often it is looked whether a former backend is still needed."""


class Pods(Protocol):
    """Who serves pods on this host."""

    def pods(self, subnets: Subnets) -> tuple[str, ...]:
        """Those with an address in these subnets, in words."""

    def subnet_env_changed(self) -> None:
        """Running pods may have to follow."""


class Host:
    """One host of one pod network, which it has joined, until cancelled."""

    def __init__(
        self,
        member: Membership,
        store: LeaseStore,
        monitor: Monitor,
        health: Health,
        follow: Callable[[Uplink, Sequence[Family]], Uplink],
        pods: Pods | None,
    ) -> None:
        """`follow` returns what the given uplink has become, with addresses of these families; raises FlanneldError."""
        self._member = member
        self._store = store
        self._monitor = monitor
        self._health = health
        self._follow = follow
        self._pods = pods
        now = member.situation
        margin_s = member.options.subnet_lease_renew_margin * SECONDS_PER_MINUTE
        self.keeper = LeaseKeeper(
            store, now.own, margin_s, time.time, Listener(self._lease_state, member.remember), member.recall().published
        )
        self.peers = PeerLoop(now.network, member.mesh, now.own, self._peers_state)
        member.mesh.news = self.peers.news
        self._config: str | None = now.network.text
        """The network config's text, as the store shows it."""
        self._look = asyncio.Event()
        self._looked = asyncio.Event()
        """Set while nothing is to be looked at."""
        self.changes = Counter[str]()
        """How often a change was applied, and refused."""
        self._amiss = False
        """What is served is not what was to be served."""
        self._said = Once(log)

    async def run(self) -> None:
        """Keep lease, methods, peers and rules as they should be until cancelled; raises FlanneldError."""
        self._monitor.only(self._devices)
        self._look_again()
        async with asyncio.TaskGroup() as tasks:
            for part in (self._keep_lease(), self.peers.run(), self._settle_for_ever(), self._retire_for_ever()):
                tasks.create_task(part)
            tasks.create_task(self._announce())
            tasks.create_task(self._follow_store())
            tasks.create_task(self._follow_kernel())

    async def _keep_lease(self) -> None:
        """Keep it; when it is lost for good, say so loudly and long enough, and end."""
        try:
            await self.keeper.run()
        except LeaseLost as error:
            lost = self.keeper.lease
            pods = self._pods.pods(lost.subnets) if self._pods else ()
            log.error("lease lost", subnet=lost, why=error, pods=", ".join(pods) or "none")
            self._member.disown()
            await asyncio.sleep(FAREWELL_S)
            raise

    async def _follow_store(self) -> None:
        async with aclosing(self._store.watch()) as watch:
            async for snapshot in watch:
                if snapshot.config != self._config:
                    self._config = snapshot.config
                    self._look_again()
                    # A peer that changed over did so for this config: it is to be served before the peer is looked at.
                    with suppress(TimeoutError):
                        async with asyncio.timeout(PRECEDENCE_S):
                            await self._looked.wait()
                self.keeper.leases(snapshot.leases)
                self.peers.leases(snapshot.leases, relisted=snapshot.relisted)

    async def _follow_kernel(self) -> None:
        async for batch in self._monitor:
            for news in batch:
                if (cause := self.concern(news)) is not None:
                    self.peers.disturbed(cause)
                    if cause in ("link", "address", "overrun"):
                        self._look_again()

    def _look_again(self) -> None:
        self._look.set()
        self._looked.clear()

    async def _settle_for_ever(self) -> None:
        backoff = Backoff(first_s=0.2, cap_s=5)
        pause_s: float | None = None
        while True:
            try:
                async with asyncio.timeout(pause_s):
                    await self._look.wait()
            except TimeoutError:
                pass
            self._look.clear()
            pause_s = None if await self._settle() else backoff.next()
            if pause_s is None:
                backoff.reset()
            if not self._look.is_set():
                self._looked.set()

    async def _settle(self) -> bool:
        """Serve what there is now; false when it has to be tried again."""
        now = before = self._member.situation
        network = self._wanted_network(now.network)
        uplink = self._present_uplink(now.uplink, network)
        own = self.keeper.lease
        same = (network, network.text, uplink or now.uplink) == (now.network, now.network.text, now.uplink)
        if same and own.subnets == now.own.subnets and not self._amiss:
            return uplink is not None
        self._amiss = True
        try:
            now = await self._member.settle(network, uplink or now.uplink, own)
        except FlanneldError as error:
            self.changes["refused"] += 1
            self._said.warning("settle", "change not applied", why=error)
            return False
        self._amiss = False
        self._said.over("settle")
        if now.uplink.addresses != before.uplink.addresses:
            self._store.reconnect()
        self._settled(own, now)
        return uplink is not None

    def _settled(self, before: Lease, now: Situation) -> None:
        """Everybody goes by the new situation."""
        self.changes["applied"] += 1
        log.info("change applied", backend=now.network.backend_type, uplink=now.uplink, mtu=self._member.mesh.current.mtu)
        if now.own.subnets != before.subnets:
            self.keeper.replaced(now.own)
        self.keeper.publish(now.own.attrs)
        self.peers.settled(now.network, now.own)
        if self._pods is not None:
            self._pods.subnet_env_changed()
        self._watch_devices()

    def _wanted_network(self, served: NetworkConfig) -> NetworkConfig:
        """What the store wants, if it can be read; else what is served."""
        if self._config is None:
            self._said.warning("config", "network config is gone, keeping what is served")
            return served
        try:
            wanted = served if self._config == served.text else parse_network(self._config)
        except ConfigError as error:
            self._said.warning("config", "network config not applied", why=error)
            return served
        self._said.over("config")
        return wanted

    def _present_uplink(self, served: Uplink, network: NetworkConfig) -> Uplink | None:
        """The uplink as it is now; None while there is none, which is looked for again."""
        try:
            uplink = self._follow(served, [pool.family for pool in network.pools])
        except FlanneldError as error:
            self._said.warning("uplink", "uplink lost", uplink=served, why=error)
            self._health.unmet("uplink", str(error))
            return None
        if self._said.over("uplink"):
            log.info("uplink is back", uplink=uplink)
        self._health.met("uplink")
        return uplink

    async def _retire_for_ever(self) -> None:
        while True:
            await asyncio.sleep(RETIRE_LOOK_S)
            if await self._member.mesh.retire():
                self._member.remember(self.keeper.lease)
                self._watch_devices()

    def _lease_state(self, why: str) -> None:
        if why:
            self._health.unmet("lease", why)
        else:
            self._health.met("lease")

    def _peers_state(self, why: str) -> None:
        """Ready means that peers are programmed; flannel says so before it has looked for any."""
        if why:
            self._health.unmet("peers", why)
        else:
            self._health.met("peers")
        self._watch_devices()

    async def _announce(self) -> None:
        await self._health.complete.wait()
        log.info("ready", subnet=self.keeper.lease, mtu=self._member.mesh.current.mtu)
        notify.ready()

    @property
    def _devices(self) -> frozenset[int]:
        """What we want to hear of: a busy host's pods are none of it."""
        return self._member.mesh.owner.devices | {self._member.situation.uplink.index}

    def _watch_devices(self) -> None:
        """A round may have made a device anew, and nobody heard what happened to it since."""
        if self._monitor.only(self._devices):
            self.peers.disturbed("link")

    def concern(self, news: Event) -> str | None:
        """Why what is ours may not be as we left it, in a word; None when the news is not about us."""
        owner, now = self._member.mesh.owner, self._member.situation
        match news:
            case Overrun():
                return "overrun"
            case LinkEvent(link, _):
                # A device that goes down takes its routes along without a word.
                return "link" if link.index == now.uplink.index or link.index in owner.devices else None
            case AddressEvent(index, _, _):
                return "address" if index == now.uplink.index or index in owner.devices else None
            case RouteEvent(route, deleted):
                # So does a stranger's route that replaces one of ours. What is in our own subnet is about single pods.
                ours = any(inside(route.destination, subnet) for subnet in now.own.subnets)
                strange = not ours and any(inside(route.destination, pool.network) for pool in now.network.pools)
                return "route" if (owner.owns(route) or strange) and not self._expected(route, deleted) else None
            case NeighbourEvent(entry, deleted):
                return "neighbour" if owner.owns(entry) and not self._expected(entry, deleted) else None
            case FdbEvent(entry, deleted):
                return "fdb" if owner.owns(entry) and not self._expected(entry, deleted) else None

    def _expected(self, entry: Entry, deleted: bool) -> bool:
        """The echo of what we did ourselves: the kernel does not sign all of it."""
        return self._member.mesh.expects(entry, deleted=deleted)
