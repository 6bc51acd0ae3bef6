"""Real podman 4 with its CNI backend on a lab's host; must not know what its CNI plugins do.

Its storage, state and settings are in the host's own /run and /var/lib, its containers in a control group of its own, their network
namespaces in the host's own /run/netns.
"""

from __future__ import annotations

import json
import re
import subprocess
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Any

from cni_plugin_sets import NETWORK, PROGRAMS, PluginSet
from flanneld_world import write_file
from host_traces import end_cgroup
from lab.pods import LabHost
from oci_image import IMAGE, SERVE
from pod_checks import NO_PORTS, Ports

NEEDS = ("podman", "conmon", "runc", "busybox", "iptables")
HOME = Path("/run/podman")
CONF_DIR = HOME / "net.d"
VARIABLES = {
    "HOME": str(HOME),  # policy.json is looked for below it, and otherwise only in /etc
    "CONTAINERS_CONF": str(HOME / "containers.conf"),
    "CONTAINERS_STORAGE_CONF": str(HOME / "storage.conf"),
    "CONTAINERS_REGISTRIES_CONF": str(HOME / "registries.conf"),
}


@dataclass(frozen=True)
class PodmanContainer:
    """A container that runs."""

    runtime: PodmanHost
    name: str
    id: str
    """Also CNI_CONTAINERID."""
    address: IPv4Address | IPv6Address

    def exec(self, *argv: str) -> str:
        """What it prints; raises LabError when it fails."""
        return self.runtime.podman("exec", self.name, *argv)

    def remove(self) -> None:
        self.runtime.podman("stop", self.name)
        self.runtime.podman("rm", self.name)


class PodmanHost:
    """A podman to call; `podman_host` makes it."""

    def __init__(self, host: LabHost, cgroup: str) -> None:
        self.host = host
        self.cgroup = cgroup
        self._place = replace(host, environment={**host.environment, **VARIABLES})

    def podman(self, *arguments: str) -> str:
        """What `podman ARGUMENTS` prints; raises LabError when it fails."""
        return self._place.run(["podman", *arguments]).stdout.strip()

    def run_pod(
        self, name: str, ports: Ports = NO_PORTS, command: Sequence[str] = SERVE, network: str = NETWORK
    ) -> PodmanContainer:
        """`podman run`, which returns when the container runs and CNI has answered."""
        published = [f"--publish={here}:{there}" for here, there in ports.items()]
        where = [f"--network={network}", f"--cgroup-parent=/{self.cgroup}", *published]
        container = self.podman(
            "run", "--detach", f"--name={name}", f"--hostname={name}", *where, "--entrypoint=[]", IMAGE, *command
        )
        return PodmanContainer(self, name, container, self.address(name, network))

    def address(self, name: str, network: str = NETWORK) -> IPv4Address | IPv6Address:
        return ip_address(self.inspect(name)["NetworkSettings"]["Networks"][network]["IPAddress"])

    def ports(self, name: str) -> set[str]:
        """As `podman port` tells them: `80/tcp -> 0.0.0.0:8080`."""
        return set(self.podman("port", name).splitlines())

    def inspect(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.podman("inspect", "--type=container", name))[0]
        return found

    def create_network(self, name: str, subnet: str) -> None:
        """A bridge network of podman's own making: bridge, portmap, firewall and tuning, chained."""
        self.podman("network", "create", f"--subnet={subnet}", name)

    def clear(self) -> None:
        """Stop and remove every container, and the networks that were created."""
        self.podman("rm", "--all", "--force", "--time=0")
        for network in json.loads(self.podman("network", "ls", "--format=json")):
            if network["name"] not in (NETWORK, "podman"):
                self.podman("network", "rm", network["name"])


@contextmanager
def podman_host(host: LabHost, plugins: PluginSet, image: Path) -> Iterator[PodmanHost]:
    """Podman on a host whose flanneld is ready, with this image; in the end no container runs."""
    env = host.subnet_env()
    assert env is not None, f"flanneld on {host.name} has written no subnet.env"
    files = {
        "containers.conf": containers_conf(plugins),
        "storage.conf": STORAGE_CONF,
        "registries.conf": "unqualified-search-registries = []\n",
        ".config/containers/policy.json": '{"default": [{"type": "insecureAcceptAnything"}]}',
        "net.d/10-flannel.conflist": plugins.conflist_text(env),
    }
    for path, text in files.items():
        write_file(host, HOME / path, text)
    runtime = PodmanHost(host, f"tartan-{uuid.uuid4().hex[:8]}")
    try:
        runtime.podman("load", f"--input={image}")
        yield runtime
    finally:
        try:
            runtime.clear()
        finally:
            end_cgroup(runtime.cgroup)


def uses_cni() -> bool:
    """Whether this podman has the CNI backend: Debian 13's does not."""
    version = subprocess.run([PROGRAMS / "podman", "--version"], check=False, capture_output=True, text=True).stdout
    return bool(re.search(r"version 4\.", version))


STORAGE_CONF = """\
[storage]
driver = "vfs"
graphroot = "/var/lib/containers/storage"
runroot = "/run/containers/storage"
"""


def containers_conf(plugins: PluginSet) -> str:
    """No systemd, no shared memory of the machine's, no limits that need CAP_SYS_RESOURCE, nothing looked for in /usr or /etc."""
    return f"""\
[containers]
apparmor_profile = "unconfined"
default_ulimits = ["nofile=1024:1024", "nproc=4096:4096"]
log_driver = "none"
seccomp_profile = "unconfined"
[engine]
cgroup_manager = "cgroupfs"
conmon_path = ["{PROGRAMS / "conmon"}"]
events_logger = "none"
lock_type = "file"
runtime = "runc"
tmp_dir = "/run/libpod"
[engine.runtimes]
runc = ["{PROGRAMS / "runc"}"]
[network]
network_backend = "cni"
cni_plugin_dirs = ["{plugins.bin_dir}"]
default_network = "{NETWORK}"
network_config_dir = "{CONF_DIR}"
"""
