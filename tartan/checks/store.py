"""etcd: does each member answer, and is what it holds the config and the leases of a network; must not know this host."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace

from flanneld.backend import load_backend, unknown_keys
from flanneld.config import ConfigError, NetworkConfig, parse_network
from flanneld.etcd import EtcdClient, EtcdError, KeyValue, TlsFiles
from flanneld.flags import Options
from flanneld.lease import Lease, Subnets
from flanneld.stores.codec import BadLease, decode_lease
from tartan.checks.finding import Finding, error, ok, warning

TIMEOUT_S = 3.0
"""For one try at one member: a daemon would take longer, a person at a terminal does not."""


@dataclass(frozen=True, slots=True)
class Stored:
    """All that etcd holds for a network."""

    config: str | None
    leases: tuple[Lease, ...] = ()
    garbage: tuple[BadLease, ...] = ()
    etcd_leases: tuple[tuple[Subnets, int], ...] = ()
    """The etcd lease of each of ours; 0 for a reservation."""

    def etcd_lease(self, lease: Lease) -> int:
        return dict(self.etcd_leases).get(lease.subnets, 0)


@asynccontextmanager
async def client(options: Options, endpoints: Sequence[str]) -> AsyncIterator[EtcdClient]:
    """A client of these members, as the flags say; raises EtcdError."""
    tls = TlsFiles(options.etcd_cafile, options.etcd_certfile, options.etcd_keyfile)
    user = (options.etcd_username, options.etcd_password)
    async with AsyncExitStack() as stack:
        opened = EtcdClient(endpoints, tls=tls, user=user, timeout_s=TIMEOUT_S)
        stack.push_async_callback(opened.close)
        yield opened


def root(options: Options) -> str:
    """What every key of the network begins with."""
    return f"{options.etcd_prefix.rstrip('/')}/"


async def ask_members(options: Options) -> dict[str, str]:
    """Each endpoint with what is wrong with it, "" for one that answers."""

    async def ask(endpoint: str) -> str:
        try:
            async with client(options, [endpoint]) as member:
                await member.get(f"{root(options)}config")
        except EtcdError as failure:
            return str(failure)
        return ""

    answers = await asyncio.gather(*map(ask, options.etcd_endpoints))
    return dict(zip(options.etcd_endpoints, answers, strict=True))


async def read(options: Options, endpoints: Sequence[str]) -> Stored:
    """What these members hold; raises EtcdError."""
    async with client(options, endpoints) as cluster:
        config = await cluster.get(f"{root(options)}config")
        prefix = f"{root(options)}subnets/"
        return stored(config.value.decode(errors="replace") if config else None, prefix, (await cluster.get_prefix(prefix)).keys)


async def time_left_s(options: Options, endpoints: Sequence[str], etcd_lease: int) -> int:
    """Seconds that an etcd lease has left; raises EtcdError."""
    async with client(options, endpoints) as cluster:
        return await cluster.time_to_live(etcd_lease)


def stored(config: str | None, prefix: str, keys: Sequence[KeyValue]) -> Stored:
    """Keys as leases, and those that are none."""
    leases, garbage, held = [], [], []
    for key in keys:
        try:
            lease = decode_lease(key.key.removeprefix(prefix), key.value)
        except BadLease as bad:
            garbage.append(bad)
        else:
            leases.append(replace(lease, created=key.create_revision))
            held.append((lease.subnets, key.lease))
    return Stored(config, tuple(leases), tuple(garbage), tuple(held))


def check_members(options: Options, answers: dict[str, str]) -> list[Finding]:
    """Of the default endpoints, of which Go flannel has two, one is enough."""
    good = [endpoint for endpoint, why in answers.items() if not why]
    shown_by = f"etcdctl --endpoints={','.join(answers)} endpoint health"
    if not good:
        remedy = "start etcd or mend the way to it; compare --etcd-endpoints, --etcd-cafile, --etcd-certfile, --etcd-username"
        return [error("etcd", f"no member answers: {'; '.join(answers.values())}", shown_by, remedy)]
    found = [ok("etcd", f"{len(good)} of {len(answers)} members answer: {' '.join(good)}")]
    if options.etcd_endpoints != Options().etcd_endpoints:
        remedy = "start that member, or take it out of --etcd-endpoints"
        found += [warning("etcd", f"a member does not answer: {why}", shown_by, remedy) for why in answers.values() if why]
    return found


def check_config(key: str, text: str | None) -> tuple[NetworkConfig | None, list[Finding]]:
    """The network config, if it is one that this flanneld can serve."""
    shown_by = f"etcdctl get {key}"
    if text is None:
        remedy = f"""etcdctl put {key} '{{"Network": "10.244.0.0/16", "Backend": {{"Type": "vxlan"}}}}'; compare --etcd-prefix"""
        return None, [error("network config", f"there is none under the key {key}", shown_by, remedy)]
    try:
        network = parse_network(text)
        backend = load_backend(network)
    except ConfigError as wrong:
        return None, [error("network config", str(wrong), shown_by, f"correct {wrong.key} with etcdctl put {key}")]
    remedy = "correct the spelling, or take the key out"
    ignored = (*network.warnings, *unknown_keys(network, backend))
    networks = " and ".join(str(pool.network) for pool in network.pools)
    return network, [
        ok("network config", f"{networks}, backend {network.backend_type}"),
        *(warning("network config", words, shown_by, remedy) for words in ignored),
    ]


def check_garbage(prefix: str, garbage: Sequence[BadLease]) -> list[Finding]:
    """Keys that no flanneld can read, whose subnets nobody can be leased."""
    return [
        warning("leases", f"cannot be read: {bad}", f"etcdctl get '{prefix}{bad.key}'", f"etcdctl del '{prefix}{bad.key}'")
        for bad in garbage
    ]
