"""Which CNI plugins a container runtime is given: Debian's reference plugins, and ours; must not know runtimes.

Another set is another entry of PLUGIN_SETS, which the tests of tests/interop run through.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from cni.install import FLANNEL_CONFLIST
from cni_world import REFERENCE_DIRECTORY
from flanneld.subnet_env import SubnetEnv
from lab.pods import CNI_BIN

NETWORK = "cbr0"
"""What kube-flannel's conflist, and so ours, calls the network; the runtimes find it by this name."""
PROGRAMS = Path(sys.executable).parent
"""Where `./dev` puts the programs that it takes out of Debian packages; labs have it first in PATH."""


@dataclass(frozen=True, slots=True)
class PluginSet:
    """A directory of plugins, and how to configure them on a host."""

    name: str
    bin_dir: Path
    """As a lab's host sees it: what is in /run is the host's own."""
    needs: tuple[str, ...]
    """Which of them this machine must have before a lab is up; containerd before 2.0 wants `loopback` besides the conflist's."""
    conflist: Callable[[SubnetEnv], object]
    """The network configuration list for a host with this subnet.env, as JSON."""
    permanent: str
    """Regular expression for those of `host_traces.traces` that are rightly left for the next pod; matched as a whole."""

    def __str__(self) -> str:
        return self.name

    def lacks(self, *plugins: str) -> tuple[str, ...]:
        """Which of these (without names: of those it needs) are not there."""
        return tuple(plugin for plugin in plugins or self.needs if not os.access(self.bin_dir / plugin, os.X_OK))

    def conflist_text(self, env: SubnetEnv) -> str:
        return json.dumps(self.conflist(env), indent=1)


def missing(plugins: PluginSet, programs: Iterable[str]) -> str:
    """Why these plugins cannot be tried here with these programs; empty when they can."""
    path = f"{PROGRAMS}:{os.environ.get('PATH', os.defpath)}"
    absent = [program for program in programs if shutil.which(program, path=path) is None]
    absent += [f"{plugins.bin_dir}/{plugin}" for plugin in plugins.lacks()]
    return f"no {', no '.join(absent)}: ./dev test fetches Debian's" if absent else ""


def reference_conflist(env: SubnetEnv) -> object:
    """What the flannel meta plugin would delegate to on this host, written out: Debian has no such plugin."""
    ipam = {
        "type": "host-local",
        "ranges": [[{"subnet": str(subnet)}] for subnet in env.subnets],
        "routes": [{"dst": str(network)} for network in env.networks],
    }
    bridge = {"type": "bridge", "bridge": "cni0", "mtu": env.mtu, "hairpinMode": True, "isDefaultGateway": True, "ipam": ipam}
    portmap = {"type": "portmap", "capabilities": {"portMappings": True}}
    return {"name": NETWORK, "cniVersion": "0.3.1", "plugins": [bridge, portmap]}


def flannel_conflist(_: SubnetEnv) -> object:
    """kube-flannel's, word for word; the plugin reads subnet.env itself."""
    return json.loads(FLANNEL_CONFLIST.read_text())


REFERENCE = PluginSet(
    name="reference",
    bin_dir=REFERENCE_DIRECTORY,
    needs=("bridge", "host-local", "loopback", "portmap"),
    conflist=reference_conflist,
    # host-local remembers where to go on, portmap and firewall keep their chains; a pod's own rules name an address or a port.
    permanent="|".join(
        (
            r"link cni\S+",
            r"file /var/lib/cni/networks/\w+/(lock|last_reserved_ip\.\d)",
            r"(nft|ip6?tables-save) (?!.*(\d\.\d|dport|CNI-[A-Z]*-?[0-9a-f]{16})).*",
        )
    ),
)
TARTAN = PluginSet(
    name="tartan",
    bin_dir=CNI_BIN,
    needs=(),  # every host of a lab comes with them
    conflist=flannel_conflist,
    # No rule is a pod's: pods are elements of sets and maps, while `near4` and `near6` are about networks.
    permanent="|".join(
        (
            r"link cni\S+",
            r"file /var/lib/cni/networks/\w+/last_reserved_ip\.\d",
            r"nft table inet tartan-cni(-firewall)?(: chain .*|: (map|set) \w+|: set near[46]: .*)?",
        )
    ),
)
PLUGIN_SETS = (REFERENCE, TARTAN)
