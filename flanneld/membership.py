"""This host as a member of one pod network: config, uplink and lease, and all that follows from the three.

`settle` is the one way there, at the first start and after any change: methods attached, lease published, rules, subnet.env. Doing
it again with the same does nothing. It must not know why something changed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from flanneld import masquerade
from flanneld.backend import Uplink, load_backend, unknown_keys
from flanneld.config import ConfigError, NetworkConfig, parse_network
from flanneld.firewall import clear_other, open_firewall
from flanneld.flags import Options
from flanneld.kernel import OWN_ROUTE_PROTOCOL, ROUTE_PROTOCOL, Kernel, Owner, Route, RouteKind, reconcile
from flanneld.lease import IPNetwork, Lease, LeaseAttrs, SubnetsExhausted, inside
from flanneld.log import Log, Once
from flanneld.masquerade import Firewall, Policy, RuleSet
from flanneld.mesh import Mesh
from flanneld.remembered import MOST_PUBLISHED, Remembered, beside, recall, remember
from flanneld.retry import Backoff, retry
from flanneld.rules import RuleLoop
from flanneld.store import LeaseStore, StoreUnavailable
from flanneld.subnet_env import SubnetEnv, SubnetEnvError, read, write

log = Log(__name__)

RTPROT_BOOT = 3
"""linux/rtnetlink.h: what has no other number."""
BLACKHOLE_METRIC = 1 << 30
"""Far behind the pod bridge's own route, which it must never displace."""


@dataclass(frozen=True, slots=True)
class Situation:
    """What is served."""

    network: NetworkConfig
    uplink: Uplink
    own: Lease


@dataclass(slots=True)
class Membership:
    """One host of one pod network; one task settles it."""

    options: Options
    instance: str
    """What tells our firewall chains from another network's on the same host."""
    store: LeaseStore
    kernel: Kernel
    mesh: Mesh
    tasks: asyncio.TaskGroup
    step: Callable[[str], object]
    """Told what has been done: "lease", "rules", "subnet.env"."""
    _now: Situation | None = None
    rules: RuleLoop | None = None
    _ruling: asyncio.Task[None] | None = None
    _memory: Remembered | None = None
    _disowned: bool = False
    _said: Once = field(default_factory=lambda: Once(log))

    @property
    def situation(self) -> Situation:
        """What is served, once it has been settled."""
        if self._now is None:
            raise RuntimeError("asked before the first settle")
        return self._now

    @property
    def subnet_file(self) -> Path:
        return Path(self.options.subnet_file)

    async def settle(self, network: NetworkConfig, uplink: Uplink, own: Lease | None) -> Situation:
        """Serve this network over this uplink; `own` is our lease, None before we have one.

        The lease returned says what is to be published. Raises FlanneldError; then what was served is served on.
        """
        check_apart(network, uplink)
        for warning in (*network.warnings, *unknown_keys(network, load_backend(network))):
            self._said.warning(warning, "network config", warning=warning)
        firewall = self._firewall(network)
        before = self.recall()
        await self.mesh.serve(network, uplink, former_configs(before) if self._now is None else ())
        own = await self._lease(network, own, before)
        self.step("lease")
        await self.mesh.adopt(own)
        if self._now is None and before.lease is not None and not before.configs:
            self._take_over(network)
        self._forget(network, before)
        await self._rule(firewall, network, own)
        self.step("rules")
        self._upkeep(network, own)
        self.step("subnet.env")
        self._now = Situation(network, uplink, own)
        self.remember(own)
        return self._now

    def recall(self) -> Remembered:
        """What we had when we last ran, or have now."""
        if self._memory is None:
            self._memory = recall_former(self.subnet_file)
        return self._memory

    def remember(self, own: Lease) -> None:
        """Keep for our next run which claim is ours and what is served."""
        before, now = self.recall(), own.attrs.fingerprint()
        published = before.published if before.lease is not None and before.lease.subnets == own.subnets else ()
        published = (*(other for other in published if other != now), now)[-MOST_PUBLISHED:]
        memory = Remembered(Lease(own.subnets, LeaseAttrs(own.attrs.public_ips), created=own.created), published, self.mesh.configs)
        if memory != self._memory:
            self._memory = memory
            try:
                remember(beside(self.subnet_file), memory)
            except SubnetEnvError as error:
                self._said.warning("memory", "memory not written", why=error)

    def disown(self) -> None:
        """The subnet is another host's now: no pod may be started in it any more. Nothing is settled after this."""
        self._disowned = True
        with suppress(OSError):
            self.subnet_file.unlink(missing_ok=True)
            beside(self.subnet_file).unlink(missing_ok=True)

    async def _lease(self, network: NetworkConfig, own: Lease | None, before: Remembered) -> Lease:
        """Our lease with what it is to publish now, or a new one if there is none that fits; the first is waited for."""
        attrs = self.mesh.current.attrs
        if own is not None and self.store.fits(network, own.subnets):
            return Lease(own.subnets, attrs, own.expires_at, own.created)

        async def acquire() -> Lease:
            return await self.store.acquire(network, attrs, own or before.lease, before.published)

        got = await acquire() if own is not None else await waited_for(acquire)
        log.info("lease acquired", subnet=got, backend=network.backend_type, public_ip=attrs.public_ips[0])
        return got

    def _firewall(self, network: NetworkConfig) -> Firewall:
        """The one in use, unless the config wants another kind."""
        if self._now is not None and self.rules is not None and self._now.network.enable_nftables == network.enable_nftables:
            return self.rules.firewall
        return open_firewall(network.enable_nftables, self.instance)

    async def _rule(self, firewall: Firewall, network: NetworkConfig, own: Lease) -> None:
        """Pods find rules and routes in place when subnet.env lets them start."""
        rules = self._rule_sets(network, own)
        if self.rules is not None and (self.rules.firewall, self.rules.rules) == (firewall, rules):
            return
        await firewall.apply(rules)
        if self._ruling is not None:  # before the other kind is cleared, which it would put back
            self._ruling.cancel()
            await asyncio.wait((self._ruling,))
        await clear_other(firewall, self.instance)
        loop = RuleLoop(firewall, rules, lambda: self._upkeep(network, own), self.options.iptables_resync)
        loop.restored = self.rules.restored if self.rules else 0
        self.rules, self._ruling = loop, self.tasks.create_task(loop.run())

    def _rule_sets(self, network: NetworkConfig, own: Lease) -> Sequence[RuleSet]:
        return masquerade.plan((pool.network for pool in network.pools), own.subnets, policy_of(self.options))

    def _upkeep(self, network: NetworkConfig, own: Lease) -> None:
        """What nobody tells us of when it is lost; may be repeated. Raises FlanneldError."""
        if self._disowned:
            return
        self._blackhole(network, own)
        networks = tuple(pool.network for pool in network.pools)
        env = SubnetEnv(networks, own.subnets, self.mesh.current.mtu, self.options.ip_masq)
        if self._env() != env:
            write(self.subnet_file, env)

    def _blackhole(self, network: NetworkConfig, own: Lease) -> None:
        """Keep what is for no pod of ours from following the default route out, if that is wanted."""
        owner = Owner(tuple(pool.network for pool in network.pools), protocol=OWN_ROUTE_PROTOCOL)
        routes = [
            Route(subnet, kind=RouteKind.BLACKHOLE, protocol=OWN_ROUTE_PROTOCOL, metric=BLACKHOLE_METRIC)
            for subnet in own.subnets
            if self.options.ip_blackhole_route
        ]
        for refused in reconcile(self.kernel, owner, routes).refused:
            raise refused

    def _forget(self, network: NetworkConfig, before: Remembered) -> None:
        """Remove our routes in pod networks that are not configured any more: from now on nobody looks there."""
        env = self._env()
        known = {pool.network for config in former_configs(before) for pool in config.pools} | set(env.networks if env else ())
        gone = known - {pool.network for pool in network.pools}
        for protocol in (ROUTE_PROTOCOL, OWN_ROUTE_PROTOCOL) if gone else ():
            present = self.kernel.entries(Owner(tuple(gone), protocol=protocol))
            self.kernel.remove(entry for entry in present if isinstance(entry, Route) and not _within(network, entry.destination))

    def _take_over(self, network: NetworkConfig) -> None:
        """Make the routes ours that Go flannel, which ran here before, has left: those of departed hosts go with our next round.

        It marks them as everybody does who types `ip route`; they are known by what only routes to peers are: exactly a subnet of
        the pool, by a gateway.
        """
        left = self.kernel.entries(Owner(tuple(pool.network for pool in network.pools), protocol=RTPROT_BOOT))
        to_peers = [
            replace(entry, protocol=ROUTE_PROTOCOL)
            for entry in left
            if isinstance(entry, Route) and entry.gateway is not None and any(entry.destination in pool for pool in network.pools)
        ]
        if to_peers:
            log.info("routes of an earlier flannel taken over", routes=len(to_peers))
            self.kernel.add(to_peers)

    def _env(self) -> SubnetEnv | None:
        """What subnet.env says; None when it does not say."""
        try:
            return read(self.subnet_file)
        except SubnetEnvError as error:
            self._said.warning("subnet.env", "subnet.env is written anew", why=error)
            return None


def _within(network: NetworkConfig, subnet: IPNetwork) -> bool:
    return any(inside(subnet, pool.network) for pool in network.pools)


async def waited_for(acquire: Callable[[], Awaitable[Lease]]) -> Lease:
    """A subnet, however long it takes: a pool that is exhausted is a wait too, since other hosts leave."""
    return await retry(
        acquire,
        (SubnetsExhausted, StoreUnavailable),
        Backoff(first_s=0.5, cap_s=15),
        failed=lambda error: log.warning("waiting for a subnet", why=error),
    )


def policy_of(options: Options) -> Policy:
    """Which rules the flags ask for."""
    return Policy(options.ip_masq, options.iptables_forward_rules, not options.ip_masq_fully_random_disable)


def recall_former(subnet_file: Path) -> Remembered:
    """What we had when we last ran; what cannot be read is said, and is nothing."""
    memory = Remembered()
    try:
        memory = recall(beside(subnet_file))
    except SubnetEnvError as error:
        log.warning("memory ignored", why=error)
    try:
        env = read(subnet_file)
    except SubnetEnvError as error:
        log.warning("subnet.env ignored", why=error)
        return memory
    if memory.lease is None and env is not None:  # flannel's way of remembering: a wish
        return replace(memory, lease=Lease(env.subnets, LeaseAttrs(())))
    return memory


def former_configs(memory: Remembered) -> tuple[NetworkConfig, ...]:
    """The configs that are remembered, but for those that are none (any more)."""
    found = []
    for text in memory.configs:
        with suppress(ConfigError):
            found.append(parse_network(text))
    return tuple(found)


def check_apart(network: NetworkConfig, uplink: Uplink) -> None:
    """Raise ConfigError when pods would have the addresses of the hosts' own network."""
    for pool in network.pools:
        for address in uplink.addresses:
            if pool.network.version == address.version and pool.network.overlaps(address.network):
                key = "Network" if pool.family == 4 else "IPv6Network"
                raise ConfigError(key, f"{pool.network} overlaps the network of the uplink {uplink}, expected another range")
