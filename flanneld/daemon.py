"""The composition root: builds the parts in order and ends them in order; knows everything, decides little.

Order: checks, locks, health, store, network config, uplink, firewall, attach, acquire, adopt, rules, subnet.env, peers; ready after
that. What this host cannot do is found out before the lease is claimed, so that a wrong setting leaves nothing behind.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from flanneld import FlanneldError
from flanneld.backend import Identity
from flanneld.cni_server import JOURNAL, CniServer
from flanneld.config import ConfigError, NetworkConfig
from flanneld.dry_run import pending
from flanneld.flags import Options
from flanneld.health import Health, serve_health
from flanneld.host import Host
from flanneld.linux.kernel import LinuxKernel
from flanneld.linux.lock import hold
from flanneld.linux.netlink import Monitor, Netlink
from flanneld.linux.safe import let_go_unclaimed
from flanneld.linux.uplink import find_uplink, follow_uplink
from flanneld.log import Log
from flanneld.measures import measures
from flanneld.membership import Membership
from flanneld.mesh import Mesh
from flanneld.metrics import Exporter
from flanneld.remembered import state_of
from flanneld.retry import Backoff, retry
from flanneld.store import LeaseStore, NetworkNotConfigured, StoreError, StoreUnavailable
from flanneld.stores.etcd import open_etcd_store

log = Log(__name__)

START_PATIENCE_S = 10.0
"""For how long a store that has never answered is waited for: a wrong address must not look like a running daemon."""
CAP_NET_ADMIN = 12
"""linux/capability.h."""


async def run(options: Options) -> None:
    """Serve one network until cancelled; raises FlanneldError for what waiting cannot mend."""
    if options.dry_run:
        await say_pending(options)
        return
    require_net_admin()
    require_writable(Path(options.subnet_file))
    async with AsyncExitStack() as stack:
        stack.enter_context(only_one(options))
        health = Health("network config", "lease", "rules", "subnet.env", "peers", *(["cni"] if options.cni_socket else []))
        exporter = Exporter()
        await stack.enter_async_context(serve_health(options.healthz_ip, options.healthz_port, health, exporter))
        store = open_store(options)
        stack.push_async_callback(store.close)
        async with asyncio.TaskGroup() as tasks:
            pods = CniServer(Path(options.cni_socket), JOURNAL, Path(options.subnet_file)) if options.cni_socket else None
            if pods is not None:  # from the start: pods come and go while etcd is away
                tasks.create_task(pods.run())
                tasks.create_task(pods_served(pods, health))
            network = await first_network(store)
            health.met("network config")
            await join(Parts(options, store, health, exporter, pods), network)


def open_store(options: Options) -> LeaseStore:
    """The store that the flags ask for; nothing is connected yet. Raises StoreError."""
    if options.kube_subnet_mgr:
        from flanneld.stores.kube import open_kube_store  # with an HTTP library, which nobody else needs

        return open_kube_store(options, os.environ)
    return open_etcd_store(options)


async def say_pending(options: Options) -> None:
    """Print what a start would change; raises FlanneldError for what would keep it from starting."""
    store = open_store(options)
    try:
        changes = await pending(options, store, instance_of(options.etcd_prefix), identity_of(options))
    finally:
        await store.close()
    sys.stdout.writelines(f"{change}\n" for change in changes or ("nothing would change",))


@dataclass(frozen=True, slots=True)
class Parts:
    """What is there before the network is known."""

    options: Options
    store: LeaseStore
    health: Health
    exporter: Exporter
    pods: CniServer | None


async def join(parts: Parts, network: NetworkConfig) -> None:
    """Take this host into the network and keep it there; raises FlanneldError."""
    options, store, health, pods = parts.options, parts.store, parts.health, parts.pods
    families = [pool.family for pool in network.pools]
    async with AsyncExitStack() as stack:
        netlink = stack.enter_context(Netlink())
        uplink = find_uplink(netlink, options, families)
        kernel = LinuxKernel(netlink)
        # From here on nothing that happens in the kernel may be missed.
        monitor = stack.enter_context(Monitor(ours={netlink.portid}))
        tasks = asyncio.TaskGroup()
        mesh = Mesh(kernel, tasks, identity_of(options))
        stack.push_async_callback(mesh.close)
        member = Membership(options, instance_of(options.etcd_prefix), store, kernel, mesh, tasks, health.met)
        async with tasks:
            await member.settle(network, uplink, None)
            let_go_unclaimed()
            if pods is not None:
                pods.subnet_env_changed()
            host = Host(member, store, monitor, health, partial(follow_uplink, netlink, options), pods)
            parts.exporter.add(partial(measures, host, member, store, health, netlink))
            await host.run()


async def pods_served(pods: CniServer, health: Health) -> None:
    """A host is not ready before pods can be attached to it."""
    await pods.settled.wait()
    health.met("cni")


def instance_of(etcd_prefix: str) -> str:
    """What tells our firewall chains from another network's on the same host; "", which is flannel's names, by default."""
    prefix = etcd_prefix.rstrip("/")
    if prefix == Options().etcd_prefix:
        return ""
    return hashlib.sha256(prefix.encode()).hexdigest()[:6]


def identity_of(options: Options) -> Identity:
    """This host, for methods that are not the same on every one."""
    subnet_file = Path(options.subnet_file)
    name = os.environ.get("NODE_NAME") or socket.gethostname()
    return Identity(name, dict(options.node_labels), state_of(subnet_file))


def require_net_admin() -> None:
    """Raise FlanneldError unless we may configure the network of this namespace."""
    status = Path("/proc/self/status").read_text()
    effective = next(int(line.split()[1], 16) for line in status.splitlines() if line.startswith("CapEff:"))
    if not effective >> CAP_NET_ADMIN & 1:
        raise FlanneldError(f"user id {os.geteuid()} may not configure the network, expected root or CAP_NET_ADMIN")


def require_writable(path: Path) -> None:
    """Raise ConfigError unless the file can be written, with what is missing of its directory; nothing is made yet."""
    if path.is_dir():
        raise ConfigError("subnet-file", f"expected a file to write, got the directory {path}")
    nearest = next(parent for parent in path.absolute().parents if parent.exists())
    try:
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        raise ConfigError("subnet-file", f"cannot write {path}: {nearest}: {os.strerror(error.errno or 0).lower()}") from error


@contextmanager
def only_one(options: Options) -> Iterator[None]:
    """Keep other daemons of this host off our subnet file and our network; raises FlanneldError when one has either."""
    subnet_file, prefix = Path(options.subnet_file).resolve(), options.etcd_prefix.rstrip("/")
    with (
        hold(f"subnet-file {subnet_file}", f"the subnet file {subnet_file}"),
        hold(f"etcd-prefix {prefix}", f"the network at etcd prefix {prefix}"),
    ):
        yield


async def first_network(store: LeaseStore) -> NetworkConfig:
    """Wait for somebody to write the network config; raises ConfigError, or StoreError for a store that has never answered."""
    give_up_at = time.monotonic() + START_PATIENCE_S
    answered = False

    async def ask() -> NetworkConfig:
        nonlocal answered
        try:
            return await store.network()
        except NetworkNotConfigured:
            answered = True
            raise
        except StoreUnavailable as error:
            if answered or time.monotonic() < give_up_at:
                raise
            raise StoreError(f"no answer in {START_PATIENCE_S:g} s: {error}") from error

    return await retry(
        ask,
        StoreUnavailable,
        Backoff(first_s=0.5, cap_s=2),
        failed=lambda error: log.warning("waiting for network config", why=error),
    )
