"""Leases in Kubernetes, as flannel keeps them: a node's podCIDR is its subnet, its annotations are what peers need; never expires.

Annotations, after the prefix (`flannel.alpha.coreos.com/`): kube-subnet-manager ("true"), backend-type, backend-data,
backend-v6-data (JSON, "null" for none), public-ip, public-ipv6; a user may write public-ip-overwrite and public-ipv6-overwrite,
which are published instead of our own. The network config is a file, mounted from a ConfigMap. All writes go to the node's status,
which is what flannel's role allows.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Coroutine, Mapping
from datetime import UTC, datetime
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from flanneld.config import NetworkConfig, parse_network
from flanneld.flags import Options
from flanneld.kube_api import HistoryGone, KubeApi, KubeError, KubeNotFound, KubeUnavailable, find_access
from flanneld.lease import Lease, LeaseAttrs, Leases, Subnets
from flanneld.log import Log
from flanneld.retry import Backoff
from flanneld.store import LeaseLost, NetworkNotConfigured, Snapshot, StoreError, StoreStatus, StoreUnavailable
from flanneld.stores.nodes import NodeReader, annotation_prefix, notes_of, pod_cidrs

P = ParamSpec("P")
T = TypeVar("T")

log = Log(__name__)

NODES = "/api/v1/nodes"
CONFIG_LOOK_S = 2.0
"""How often the file with the network config is looked at; a changed ConfigMap takes the kubelet a minute to bring anyway."""


def open_kube_store(options: Options, environ: Mapping[str, str]) -> KubeLeaseStore:
    """The store that the flags and the pod's environment describe; nothing is asked yet. Raises StoreError."""
    prefix = annotation_prefix(options.kube_annotation_prefix)
    try:
        api = KubeApi(find_access(options.kube_api_url, options.kubeconfig_file, environ))
    except KubeError as error:
        raise StoreError(str(error)) from error
    return KubeLeaseStore(api, environ, Path(options.net_config_path), prefix, mark_node=options.set_node_network_unavailable)


def _in_store_terms(call: Callable[P, Awaitable[T]]) -> Callable[P, Coroutine[Any, Any, T]]:
    @wraps(call)
    async def translated(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return await call(*args, **kwargs)
        except (KubeUnavailable, HistoryGone) as error:
            raise StoreUnavailable(str(error)) from error
        except KubeError as error:
            raise StoreError(str(error)) from error

    return translated


class KubeLeaseStore:
    """A LeaseStore on a cluster's nodes; our own lease is our own node."""

    def __init__(self, api: KubeApi, environ: Mapping[str, str], config: Path, prefix: str, *, mark_node: bool) -> None:
        """`mark_node`: clear the node's NetworkUnavailable condition once peers are followed."""
        self.status = StoreStatus()
        self._api = api
        self._environ = environ
        self._config = config
        self._mark_node = mark_node
        self._reader = NodeReader(prefix)
        self._name = environ.get("NODE_NAME", "")
        self._nodes: dict[str, Mapping[str, Any]] = {}
        self._changed = asyncio.Event()

    async def close(self) -> None:
        await self._api.close()

    def reconnect(self) -> None:
        """Nothing: a call that finds its connection dead makes another."""

    def fits(self, network: NetworkConfig, subnets: Subnets) -> bool:
        """Always: it is Kubernetes that allots subnets, out of what is its own business."""
        return True

    async def network(self) -> NetworkConfig:
        text = self._config_text()
        if text is None:
            raise NetworkNotConfigured(f"net-config-path {self._config}: no such file")
        return parse_network(text)

    @_in_store_terms
    async def acquire(
        self, network: NetworkConfig, attrs: LeaseAttrs, former: Lease | None = None, published: Collection[str] = ()
    ) -> Lease:
        node = await self._node()
        families = [pool.family for pool in network.pools]
        try:
            assigned = pod_cidrs(node)
        except ValueError as error:
            raise StoreError(f"node {self._name!r}: pod cidr: {error}") from error
        subnets = tuple(subnet for subnet in assigned if subnet.version in families)
        if len(subnets) != len(families):
            raise StoreUnavailable(f"node {self._name!r} pod cidr not assigned for {' and '.join(f'IPv{f}' for f in families)}")
        return await self._publish(node, subnets, attrs)

    @_in_store_terms
    async def hold(self, lease: Lease, attrs: LeaseAttrs, published: Collection[str] = ()) -> Lease:
        return await self._publish(await self._own(lease), lease.subnets, attrs)

    @_in_store_terms
    async def renew(self, lease: Lease) -> Lease:
        await self._own(lease)
        return lease

    async def release(self, lease: Lease) -> None:
        """Nothing: the node keeps its subnet for as long as it is a node."""

    @_in_store_terms
    async def leases(self) -> Leases:
        return self._reader.leases((await self._api.get(NODES))["items"])

    async def watch(self) -> AsyncGenerator[Snapshot, None]:
        """The nodes by one task, which lists and watches for ever; the file by looking at it."""
        shown: Snapshot | None = None
        following = asyncio.create_task(self._follow())
        try:
            await self._changed.wait()
            while True:
                self._changed.clear()
                present = Snapshot(self._reader.leases(self._nodes.values()), self._config_text())
                if present != shown:
                    yield present
                    if shown is None:
                        await self._clear_unavailable()
                    shown = present
                try:
                    async with asyncio.timeout(CONFIG_LOOK_S):
                        await self._changed.wait()
                except TimeoutError:
                    pass
        finally:
            following.cancel()
            await asyncio.wait((following,))

    async def _follow(self) -> None:
        """Keep `_nodes` as the cluster's are, for ever."""
        backoff = Backoff(first_s=0.2, cap_s=5)
        while True:
            try:
                await self._list_and_watch(backoff)
            except HistoryGone:
                self.status.compactions += 1
            except KubeError as error:
                if self.status.reachable:
                    log.warning("store is unreachable", why=error)
                self.status.reachable = False
            await asyncio.sleep(backoff.next())

    async def _list_and_watch(self, backoff: Backoff) -> None:
        listing = await self._api.get(NODES)
        self._nodes = {node["metadata"]["name"]: node for node in listing["items"]}
        self._changed.set()
        version = listing["metadata"]["resourceVersion"]
        if not self.status.reachable:
            log.info("store is back")
        self.status.reachable = True
        self._heard()
        self.status.watches += 1
        while True:
            async with self._api.watch(NODES, version) as events:
                async for event in events:
                    version = event["object"]["metadata"]["resourceVersion"]
                    self._take(event["type"], event["object"])
                    backoff.reset()

    def _take(self, kind: str, node: Mapping[str, Any]) -> None:
        self._heard()
        if kind in ("ADDED", "MODIFIED"):
            self._nodes[node["metadata"]["name"]] = node
        elif kind == "DELETED":
            self._nodes.pop(node["metadata"]["name"], None)
        self._changed.set()

    def _heard(self) -> None:
        self.status.heard_at = time.monotonic()

    async def _node(self) -> Mapping[str, Any]:
        """Ours; raises KubeError, StoreError."""
        if not self._name:
            pod, namespace = self._environ.get("POD_NAME", ""), self._environ.get("POD_NAMESPACE", "")
            if not pod or not namespace:
                raise StoreError("kube-subnet-mgr needs NODE_NAME, or POD_NAME and POD_NAMESPACE, in the environment")
            self._name = (await self._api.get(f"/api/v1/namespaces/{namespace}/pods/{pod}"))["spec"]["nodeName"]
        return await self._api.get(f"{NODES}/{self._name}")

    async def _own(self, lease: Lease) -> Mapping[str, Any]:
        """Our node, which still has that subnet; raises LeaseLost."""
        try:
            node = await self._node()
        except KubeNotFound as error:
            raise LeaseLost(f"lease {lease} is gone: {error}") from error
        if not set(lease.subnets) <= set(pod_cidrs(node)):
            raise LeaseLost(
                f"lease {lease} is lost: node {self._name!r} has {' '.join(map(str, pod_cidrs(node))) or 'no pod cidr'}"
            )
        return node

    async def _publish(self, node: Mapping[str, Any], subnets: Subnets, attrs: LeaseAttrs) -> Lease:
        """Write our annotations, if they are not what they should be."""
        published = self._reader.overwritten(notes_of(node), attrs)
        wanted = self._reader.wanted(published)
        if any(notes_of(node).get(name) != text for name, text in wanted.items()):
            await self._api.patch(f"{NODES}/{self._name}/status", {"metadata": {"annotations": wanted}})
        return Lease(subnets, published)

    async def _clear_unavailable(self) -> None:
        """Tell the scheduler that pods' packets arrive; raises nothing: pods that run are no worse off."""
        if not self._mark_node:
            return
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        condition = {
            "type": "NetworkUnavailable",
            "status": "False",
            "reason": "FlannelIsUp",
            "message": "Flannel is running on this node",
            "lastTransitionTime": now,
            "lastHeartbeatTime": now,
        }
        try:
            await self._api.patch(f"{NODES}/{self._name}/status", {"status": {"conditions": [condition]}})
        except KubeError as error:
            log.warning("node condition not set", node=self._name, why=error)

    def _config_text(self) -> str | None:
        try:
            return self._config.read_text()
        except OSError:
            return None
