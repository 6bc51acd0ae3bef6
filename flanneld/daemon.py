"""The composition root: builds the parts in order and ends them in order; knows everything, decides little.

Order: checks, locks, health, store, network config, uplink, firewall, attach, acquire, adopt, rules, subnet.env, peers; ready after
that. What this host cannot do is found out before the lease is claimed, so that a wrong setting leaves nothing behind.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path

from flanneld import FlanneldError
from flanneld.backend import Uplink, load_backend, unknown_keys
from flanneld.cni_server import JOURNAL, CniServer
from flanneld.config import ConfigError, NetworkConfig
from flanneld.firewall import open_firewall
from flanneld.flags import Options
from flanneld.health import Health, serve_health
from flanneld.host import Host, instance_of
from flanneld.kernel import OWN_ROUTE_PROTOCOL, ROUTE_PROTOCOL, Kernel, Owner, reconcile
from flanneld.lease import Lease, LeaseAttrs, Subnets, SubnetsExhausted
from flanneld.linux.kernel import LinuxKernel
from flanneld.linux.lock import hold
from flanneld.linux.netlink import Monitor, Netlink
from flanneld.linux.uplink import find_uplink
from flanneld.log import Log
from flanneld.retry import Backoff, retry
from flanneld.store import LeaseStore, NetworkNotConfigured, StoreError, StoreUnavailable
from flanneld.stores.etcd import open_etcd_store
from flanneld.subnet_env import SubnetEnv, SubnetEnvError, read

log = Log(__name__)

START_PATIENCE_S = 10.0
"""For how long a store that has never answered is waited for: a wrong address must not look like a running daemon."""
CAP_NET_ADMIN = 12
"""linux/capability.h."""


async def run(options: Options) -> None:
    """Serve one network until cancelled; raises FlanneldError for what waiting cannot mend."""
    require_net_admin()
    require_writable(Path(options.subnet_file))
    async with AsyncExitStack() as stack:
        stack.enter_context(only_one(options))
        health = Health("network config", "lease", "rules", "subnet.env", "peers")
        await stack.enter_async_context(serve_health(options.healthz_ip, options.healthz_port, health))
        store = open_etcd_store(options)
        stack.push_async_callback(store.close)
        async with asyncio.TaskGroup() as tasks:
            if options.cni_socket:  # from the start: pods come and go while etcd is away
                tasks.create_task(CniServer(Path(options.cni_socket), JOURNAL, Path(options.subnet_file)).run())
            network = await first_network(store)
            health.met("network config")
            await join(options, network, store, health)


async def join(options: Options, network: NetworkConfig, store: LeaseStore, health: Health) -> None:
    """Take this host into the network and keep it there; raises FlanneldError."""
    backend = load_backend(network)
    for warning in (*network.warnings, *unknown_keys(network, backend)):
        log.warning("network config", warning=warning)
    async with AsyncExitStack() as stack:
        netlink = stack.enter_context(Netlink())
        uplink = find_uplink(netlink, options, [pool.family for pool in network.pools])
        check_apart(network, uplink)
        firewall = open_firewall(network.enable_nftables, instance_of(options.etcd_prefix))
        kernel = LinuxKernel(netlink)
        # From here on nothing that happens in the kernel may be missed.
        monitor = stack.enter_context(Monitor(ours={netlink.portid}))
        for device in backend.devices(network):
            stack.enter_context(hold(f"device {device}", f"the device {device}, expected another VNI for each network"))
        attached = await stack.enter_async_context(backend.attach(uplink, network, kernel))
        former = former_env(Path(options.subnet_file))
        own = await first_lease(store, network, attached.attrs, former.subnets if former else ())
        health.met("lease")
        forget(kernel, former, network)
        await Host(options, network, own, uplink, attached, kernel, firewall, health).serve(store, monitor)


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


async def first_lease(store: LeaseStore, network: NetworkConfig, attrs: LeaseAttrs, prefer: Subnets) -> Lease:
    """Wait for a subnet; an exhausted pool is a wait too, since other hosts leave."""

    async def acquire() -> Lease:
        return await store.acquire(network, attrs, prefer)

    own = await retry(
        acquire,
        (SubnetsExhausted, StoreUnavailable),
        Backoff(first_s=0.5, cap_s=15),
        failed=lambda error: log.warning("waiting for a subnet", why=error),
    )
    log.info("lease acquired", subnet=own, backend=network.backend_type, public_ip=attrs.public_ips[0])
    return own


def former_env(path: Path) -> SubnetEnv | None:
    """What we had when we last ran; None when the file does not say."""
    try:
        return read(path)
    except SubnetEnvError as error:
        log.warning("subnet.env ignored", why=error)
        return None


def forget(kernel: Kernel, former: SubnetEnv | None, network: NetworkConfig) -> None:
    """Remove our routes in pod networks that are not configured any more: from now on nobody looks there."""
    gone = set(former.networks if former else ()) - {pool.network for pool in network.pools}
    for protocol in (ROUTE_PROTOCOL, OWN_ROUTE_PROTOCOL):
        reconcile(kernel, Owner(tuple(gone), protocol=protocol), ())


def check_apart(network: NetworkConfig, uplink: Uplink) -> None:
    """Raise ConfigError when pods would have the addresses of the hosts' own network."""
    for pool in network.pools:
        for address in uplink.addresses:
            if pool.network.version == address.version and pool.network.overlaps(address.network):
                key = "Network" if pool.family == 4 else "IPv6Network"
                raise ConfigError(key, f"{pool.network} overlaps the network of the uplink {uplink}, expected another range")
