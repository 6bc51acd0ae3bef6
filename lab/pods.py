"""Pods on a lab's hosts: a network namespace each, plumbed by the code that the CNI plugin calls; must not know fabrics or daemons.

A host's pods are written down in its pods.json, addresses by name; their namespaces are in the host's own /run/netns, so that
`ip netns` there lists them.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_interface
from pathlib import Path

from flanneld import subnet_env
from flanneld.linux import netns
from flanneld.linux.netlink import Netlink
from flanneld.linux.pod import PodLink, attach_pod, detach_pod
from flanneld.subnet_env import SubnetEnv
from lab import LabError
from lab.place import Place
from lab.state import write_json
from lab.topology import IPInterface, IPNetwork

BRIDGE = "cni0"
"""flannel's CNI bridge."""
INTERFACE = "eth0"
SUBNET_FILE = Path("/run/flannel/subnet.env")
NETNS = Path("/run/netns")


@dataclass(frozen=True, slots=True)
class Pod(Place):
    """A pod on a host."""

    host: str
    addresses: tuple[IPInterface, ...]
    """One per family, IPv4 first."""

    def __str__(self) -> str:
        return f"{self.name}@{self.host}"


@dataclass(frozen=True, slots=True)
class LabHost(Place):
    """A host of a lab that is up."""

    directory: Path
    """Its files in the lab's directory: logs, pods.json."""

    def subnet_env(self) -> SubnetEnv | None:
        """What its flanneld wrote for CNI plugins; None: nothing yet."""
        return self.call(subnet_env.read, SUBNET_FILE)

    def pods(self) -> tuple[Pod, ...]:
        return tuple(self._pod(name, addresses) for name, addresses in _read(self.directory / "pods.json").items())

    def pod(self, name: str) -> Pod:
        """The pod of that name, made if there is none; raises LabError, FlanneldError, and leaves nothing half-made then."""
        if not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,9}[a-z0-9])?", name):
            raise LabError(f"pod name {name!r}: expected 1 to 11 of a-z, 0-9 and '-'")  # pod-NAME is an interface: 15 characters
        book = self.directory / "pods.json"
        with _locked(self.directory / "pods.lock"):
            pods = _read(book)
            if name not in pods:
                pods[name] = self._make(name, pods)
                write_json(book, {name: [str(ip) for ip in addresses] for name, addresses in pods.items()})
        return self._pod(name, pods[name])

    def _pod(self, name: str, addresses: tuple[IPInterface, ...]) -> Pod:
        return Pod(name, (*self.namespaces, NETNS / name), self.environment, self.name, addresses)

    def _make(self, name: str, others: Mapping[str, Collection[IPInterface]]) -> tuple[IPInterface, ...]:
        env = self.subnet_env()
        if env is None:
            raise LabError(f"{self.name} has no pod subnet: flanneld has not written {SUBNET_FILE} there")
        taken = {ip for addresses in others.values() for ip in addresses}
        addresses = tuple(_free(subnet, taken) for subnet in env.subnets)
        gateways = tuple(ip_interface((subnet[1], subnet.prefixlen)) for subnet in env.subnets)
        self.call(_attach, NETNS / name, PodLink(INTERFACE, f"pod-{name}", BRIDGE, addresses, gateways, env.mtu))
        return addresses


def _attach(path: Path, wanted: PodLink) -> None:
    """Runs on the host: make the namespace and its link; what a killed run left in their place goes first."""
    path.parent.mkdir(exist_ok=True)
    with Netlink() as nl:
        detach_pod(nl, wanted.host_name)
        netns.delete(path)
        netns.create(path)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                attach_pod(nl, descriptor, wanted)
            finally:
                os.close(descriptor)
        except BaseException:
            netns.delete(path)
            raise


def _free(subnet: IPNetwork, taken: Collection[IPInterface]) -> IPInterface:
    """The first address that nobody has; not the bridge's, nor the broadcast's."""
    for place in range(2, subnet.num_addresses - 1):
        ip = ip_interface((subnet[place], subnet.prefixlen))
        if ip not in taken:
            return ip
    raise LabError(f"no free address left in {subnet}: {len(taken)} pods have them")


def _read(book: Path) -> dict[str, tuple[IPInterface, ...]]:
    if not book.exists():
        return {}
    return {name: tuple(map(ip_interface, addresses)) for name, addresses in json.loads(book.read_text()).items()}


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One process at a time; a dead one holds nothing."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
