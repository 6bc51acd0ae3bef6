"""Pods that run follow their network's MTU: what `flannel` attached without an `mtu` of its own has that of subnet.env, always.

Who sends gets smaller before who receives, and larger after: a frame that a veth's other end finds too long is dropped, and nobody
is told, while a router (the host, at its bridge) tells. TCP connections go on: the kernel cuts what it sends again to the new size.
"""

from __future__ import annotations

import errno
import os
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path
from typing import Any

from cni.config import decode_config
from cni.files import read_file
from cni.ledger import HeldFile, Key, Netns, Record, State
from cni.node import Node
from cni.plugin import PLUGINS
from cni.result import IPNetwork
from cni.route_mtu import routes_to_change
from cni.spec import CniError
from cni.veth import host_name
from flanneld import FlanneldError, subnet_env
from flanneld.kernel import KernelError
from flanneld.linux.links import link, link_at, master_of, set_link
from flanneld.linux.netlink import Netlink
from flanneld.log import Log, Once

log = Log(__name__)

PLUGIN, TUNING = "flannel", "tuning"
PAIRED = ("bridge", "ptp")
"""Delegates whose pods hang on a veth pair."""


@dataclass(frozen=True, slots=True)
class Follower:
    """An attachment whose MTU is its network's."""

    key: Key
    mtu: int
    """Bytes, as its subnet.env says now."""
    networks: frozenset[IPNetwork]
    """To these its routes have an MTU of their own, by flannel."""
    netns: Netns | None
    host_end: str
    """Of its veth pair; empty: its interface stands on one of the host's, which is not ours to change."""


class PodMtu:
    """Compares and changes what differs. For one thread at a time, while others make and remove pods."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._said = Once(log)
        self._failures: dict[str, str] = {}

    def follow(self) -> None:
        """Bring all pods of flannel's to their network's MTU; what cannot be done now is said, and tried again the next time."""
        if self._node.ledger.earlier_boot:  # they are all gone
            return
        self._failures = {}
        keys = [record.key for record in self._node.ledger.records() if record.plugin == PLUGIN]
        self._bring_bridges([found for key in keys if (found := self._follower(key))], lower_only=True)
        followers, changed = [], Counter[int]()
        for key in keys:
            with self._node.container(key.container_id):
                found = self._follower(key)
                if found is not None:
                    followers.append(found)
                    changed[found.mtu] += self._bring(found)
        self._bring_bridges(followers)
        self._say(+changed)

    def _say(self, changed: Counter[int]) -> None:
        for mtu, pods in changed.items():
            log.info("pods follow their network's MTU", mtu=mtu, pods=pods)
        if self._failures:
            self._said.warning("mtu", "pods keep their MTU", count=len(self._failures), why=next(iter(self._failures.values())))
        else:
            self._said.over("mtu")

    def _follower(self, key: Key) -> Follower | None:
        """The attachment, if its MTU is its network's, and it is done."""
        record = self._node.ledger.record(key, PLUGIN)
        if record is None or record.state is not State.MADE or "mtu" in self._kept(key, TUNING):
            return None
        kept = self._kept(key, PLUGIN)
        try:
            kind, file, networks = str(kept.get("type")), _lease_of(record, kept, self._node.subnet_file), _networks(kept)
            env = None if file is None else subnet_env.read(file)
        except FlanneldError as error:
            self._failures[str(key)] = str(error)
            return None
        except (LookupError, AttributeError, TypeError, ValueError):  # somebody has edited the file
            return None
        if env is None or kind not in PLUGINS:  # another's plugin knows best what it has made
            return None
        return Follower(key, env.mtu, networks, record.netns, host_name(key) if kind in PAIRED else "")

    def _kept(self, key: Key, plugin: str) -> dict[str, Any]:
        """What the plugin has in its file for the attachment; nothing when there is no such file, or no sense in it."""
        record = self._node.ledger.record(key, plugin)
        files = record.of(HeldFile) if record is not None else ()
        try:
            return dict(decode_config(read_file(Path(files[0].path)) or b"{}")) if files else {}
        except (CniError, OSError):
            return {}

    def _bring(self, follower: Follower) -> bool:
        """One attachment, whose container is ours alone meanwhile; whether anything was changed."""
        try:
            return _bring_attachment(self._node, follower)
        except (FlanneldError, OSError) as error:
            self._failures[str(follower.key)] = f"{follower.key}: {error}"
            return False

    def _bring_bridges(self, followers: Collection[Follower], *, lower_only: bool = False) -> None:
        """The bridges that they are in, each to the least MTU of its pods."""
        try:
            with self._node.making_bridges:
                _bring_bridges(self._node.netlink, followers, lower_only=lower_only)
        except KernelError as error:
            self._failures["bridges"] = str(error)


def _lease_of(record: Record, kept: dict[str, Any], usual: Path) -> Path | None:
    """The subnet.env that the MTU is from; None: from the configuration."""
    if record.mtu_from is not None:
        return Path(record.mtu_from) if record.mtu_from else None
    # Written before records said so: the routes have the lease's, and the interface has it too unless it was told another.
    routes = _routes(kept)
    return usual if routes and routes[-1].get("mtu") == kept.get("mtu") else None


def _routes(kept: dict[str, Any]) -> list[dict[str, Any]]:
    """Those that flannel itself had in mind for the pod: one for each of its ranges, after all that were configured."""
    ipam = kept.get("ipam") or {}
    return list(ipam.get("routes") or ())[-len(ipam.get("ranges") or ()) or None :]


def _networks(kept: dict[str, Any]) -> frozenset[IPNetwork]:
    return frozenset(ip_network(route["dst"]) for route in _routes(kept) if "mtu" in route)


def _bring_bridges(nl: Netlink, followers: Collection[Follower], *, lower_only: bool) -> None:
    wanted: dict[int, int] = {}
    for each in followers:
        if each.host_end and (index := master_of(nl, each.host_end)):
            wanted[index] = min(each.mtu, wanted.get(index, each.mtu))
    for index, mtu in wanted.items():
        found = link_at(nl, index)
        if found is not None and found.kind == "bridge" and (mtu < found.mtu or (mtu > found.mtu and not lower_only)):
            set_link(nl, index, mtu=mtu)


def _bring_attachment(node: Node, follower: Follower) -> bool:
    nl, mtu = node.netlink, follower.mtu
    host = link(nl, follower.host_end) if follower.host_end else None
    if follower.host_end and host is None:  # its pod is gone, and soon its record
        return False
    if follower.netns is None:
        raise OSError(errno.ENOENT, "the pod's namespace cannot be seen from here")
    with _opened(follower.netns) as netns:
        if netns is None:
            return False
        if host is not None and host.mtu < mtu:
            set_link(nl, host.index, mtu=mtu)
        with node.inside(netns) as inside:
            changed = _bring_pod(inside, follower.key.ifname, mtu, follower.networks)
        if host is not None and host.mtu > mtu:
            set_link(nl, host.index, mtu=mtu)
    return changed or (host is not None and host.mtu != mtu)


@contextmanager
def _opened(netns: Netns) -> Iterator[int | None]:
    """The pod's namespace, as a descriptor; None when its path leads there no more."""
    try:
        descriptor = os.open(netns.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        yield None
        return
    try:
        at = os.fstat(descriptor)
        yield descriptor if (at.st_dev, at.st_ino) == (netns.device, netns.inode) else None
    finally:
        os.close(descriptor)


def _bring_pod(inside: Netlink, name: str, mtu: int, networks: Collection[IPNetwork]) -> bool:
    """The pod's interface and its routes; for a thread in there. Raises KernelError."""
    found = link(inside, name)
    if found is None:
        return False
    if found.mtu < mtu:
        set_link(inside, found.index, mtu=mtu)
    routes = routes_to_change(inside, found.index, mtu, networks)
    for route in routes:
        inside.change(f"MTU {mtu} of a route by {name}", route)
    if found.mtu > mtu:
        set_link(inside, found.index, mtu=mtu)
    return bool(routes) or found.mtu != mtu
