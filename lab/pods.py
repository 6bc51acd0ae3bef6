"""Pods on a lab's hosts: a network namespace each, attached by the CNI plugins as a runtime does; must not know fabrics or daemons.

A host's pods are written down in its pods.json, addresses by name; their namespaces are in the host's own /run/netns, so that
`ip netns` there lists them.
"""

from __future__ import annotations

import fcntl
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_interface
from pathlib import Path

from cni.cache import Attachment
from cni.chain import Chain
from cni.conflist import find_conflist
from cni.install import FLANNEL_CONFLIST, install
from cni.invoke import Executables
from cni.result import decode_result
from cni.spec import CniError
from flanneld import subnet_env
from flanneld.linux import netns
from flanneld.linux.netlink import Netlink
from flanneld.linux.pod import bring_up
from flanneld.subnet_env import SubnetEnv
from lab import LabError
from lab.machines import IPInterface
from lab.place import Place
from lab.state import write_json

CNI_BIN, CNI_CONF = Path("/run/cni/bin"), Path("/run/cni/net.d")
"""Private to each host, as /opt/cni/bin and /etc/cni/net.d are not."""
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

    def pod(self, name: str, ports: Mapping[int, int] | None = None) -> Pod:
        """The pod of that name, made if there is none; raises LabError, FlanneldError, and leaves nothing half-made then.

        `ports` leads TCP ports of the host to ports of a pod that is made.
        """
        if not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", name):
            raise LabError(f"pod name {name!r}: expected 1 to 63 of a-z, 0-9 and '-'")
        with self._book() as pods:
            if name not in pods:
                if self.subnet_env() is None:
                    raise LabError(f"{self.name} has no pod subnet: flanneld has not written {SUBNET_FILE} there")
                pods[name] = self.call(_attach, name, ports or {})
            return self._pod(name, pods[name])

    def remove_pod(self, name: str) -> None:
        """Take a pod away: its namespace, and all that the plugins made; nothing happens when there is none. Raises LabError."""
        with self._book() as pods:
            if name in pods:
                self.call(_detach, name)
                del pods[name]

    @contextmanager
    def _book(self) -> Iterator[dict[str, tuple[IPInterface, ...]]]:
        """The host's pods, to look at and to change; written down at the end, if all went well."""
        book = self.directory / "pods.json"
        with _locked(self.directory / "pods.lock"):
            pods = _read(book)
            yield pods
            write_json(book, {name: [str(ip) for ip in addresses] for name, addresses in pods.items()})

    def _pod(self, name: str, addresses: tuple[IPInterface, ...]) -> Pod:
        return Pod(name, (*self.namespaces, NETNS / name), self.environment, self.name, addresses)


def furnish_for_pods() -> None:
    """Runs on a host that is being made: plugins and kube-flannel's configuration, where CNI_PATH and NETCONFPATH say they are."""
    install(CNI_BIN)
    CNI_CONF.mkdir(parents=True)
    (CNI_CONF / FLANNEL_CONFLIST.name).write_bytes(FLANNEL_CONFLIST.read_bytes())


def _attach(name: str, ports: Mapping[int, int]) -> tuple[IPInterface, ...]:
    """Runs on the host: make the pod's namespace and have the plugins attach it; what a killed run left there goes first."""
    path, chain = NETNS / name, _chain()
    mappings = [{"hostPort": host, "containerPort": pod, "protocol": "tcp"} for host, pod in ports.items()]
    path.parent.mkdir(exist_ok=True)
    if path.exists():
        _detach(name)
    netns.create(path)
    try:
        netns.run_in(path, _loopback_up)
        result = chain.add(Attachment(name, str(path), INTERFACE, capabilities={"portMappings": mappings}))
    except CniError as error:
        netns.delete(path)
        raise LabError(f"pod {name}: {error}") from error
    except BaseException:
        netns.delete(path)
        raise
    return tuple(ip.address for ip in decode_result(result, chain.network.version).ips)


def _detach(name: str) -> None:
    """Runs on the host: have the plugins undo what they did, then end the namespace."""
    try:
        _chain().delete(Attachment(name, str(NETNS / name), INTERFACE))
    except CniError as error:
        raise LabError(f"pod {name}: {error}") from error
    netns.delete(NETNS / name)


def _chain() -> Chain:
    return Chain(find_conflist(CNI_CONF), Executables((str(CNI_BIN),)))


def _loopback_up() -> None:
    with Netlink() as nl:
        bring_up(nl, "lo")


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
