"""Two hosts joined in every way there is, by hand and by flanneld, each pair a lab of its own: what benches measure.

How a pair is joined by hand is written as an administrator would type it; pods are plumbed alike everywhere.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial
from ipaddress import IPv4Address, IPv4Network
from itertools import chain
from pathlib import Path
from typing import Any, TypeAlias

from flanneld import subnet_env
from lab import LabError
from lab.demo.traffic import IPAddress
from lab.lab import Lab
from lab.pods import SUBNET_FILE, Pod
from lab.state import release
from lab.topology import generate

NETWORK = IPv4Network("10.244.0.0/16")
UDP_PORT = 8285
CABLE = """
ip link set eth0 down
ip link set eth0 name etcd
ip link set etcd up
ip link set cable name eth0
ip address add {own.host}/24 dev eth0
ip link set eth0 up
"""
"""flanneld of a lab takes the interface of this name; what had it so far is needed as the way to etcd."""
ROUTE = """
ip route add {peer.pods} via {peer.host}
"""
VXLAN = """
ip link add vx0 address {own.mac} mtu 1450 type vxlan id 1 local {own.host} dev eth0 dstport 8472 nolearning
ip address add {own.pods.network_address}/32 dev vx0
ip link set vx0 up
ip neighbour add {peer.pods.network_address} lladdr {peer.mac} dev vx0
bridge fdb add {peer.mac} dev vx0 dst {peer.host}
ip route add {peer.pods} via {peer.pods.network_address} dev vx0 onlink
"""
TUN = """
ip tuntap add dev flannel0 mode tun
ip address add {own.pods.network_address}/32 dev flannel0
ip link set flannel0 mtu 1472 up
ip route add 10.244.0.0/16 dev flannel0
"""
MASQUERADE = """
nft add table ip hand
nft add chain ip hand out '{{ type nat hook postrouting priority srcnat; }}'
nft add rule ip hand out ip saddr 10.244.0.0/16 ip daddr != 10.244.0.0/16 masquerade
"""
"""Pods cannot do without, and the connection tracking that comes with it has its price."""
SEGMENTATION = ("tso", "gso", "tx-udp-segmentation", "tx-udp_tnl-segmentation", "tx-udp_tnl-csum-segmentation")
"""What ethtool calls the offloads that let a packet larger than the MTU through."""


class Underlay(StrEnum):
    """How packets cross from host to host."""

    SOFT = "soft"
    """Up to 64 KB, as veths do by themselves."""
    WIRE = "wire"
    """Up to the MTU: cut by the sending uplink and merged by the receiving one, in software, as plain NICs have it."""


@dataclass(frozen=True, slots=True)
class Site:
    """A host, as the commands above name things."""

    host: IPv4Address
    pods: IPv4Network
    mac: str


SITES = tuple(Site(IPv4Address(f"192.168.0.{n}"), IPv4Network(f"10.244.{n}.0/24"), f"02:00:00:00:00:0{n}") for n in (1, 2))


@dataclass(frozen=True, slots=True)
class DataPath:
    """One way from pod to pod, that is there."""

    name: str
    lab: Lab
    source: Pod
    destination: Pod
    """It runs an iperf3 server."""
    daemons: Sequence[int]
    """What carries or directs packets on both hosts, each the first process of a session; none where only the kernel does."""

    @property
    def ip(self) -> IPAddress:
        return self.destination.addresses[0].ip

    def set_underlay(self, underlay: Underlay) -> None:
        """Set the uplinks so."""
        cut, merge = {Underlay.SOFT: ("on", "off"), Underlay.WIRE: ("off", "on")}[underlay]
        for host in self.lab.hosts:
            # A veth merges only what comes from one that cuts (drivers/net/veth.c).
            host.run(["ethtool", "-K", "eth0", *chain.from_iterable((name, cut) for name in SEGMENTATION), "gro", merge])

    def facts(self) -> dict[str, object]:
        """What the sender's flanneld has said about how it carries packets; empty when it has not."""
        said = said_by(self.lab.flanneld_log(self.lab.hosts[0]), "data path")
        return {key: value for key, value in said[-1].items() if key not in ("time", "level", "event")} if said else {}


Join: TypeAlias = Callable[[Lab, Path], Sequence["subprocess.Popen[str]"]]
"""Joins the hosts of a lab that has a cable; the directory has the compiled programs. Returns what it started."""


@dataclass(frozen=True, slots=True)
class Way:
    """One way from pod to pod, as it is to be."""

    backend: Mapping[str, object]
    """Of the network config."""
    join: Join

    @property
    def network(self) -> Mapping[str, object]:
        """The whole network config."""
        return {"Network": str(NETWORK), "EnableNFTables": True, "Backend": self.backend}


def lay_cable(lab: Lab) -> None:
    """Join the hosts by a link of their own: the fabric's bridge would spend this machine's time on every packet."""
    first, second = (str(host.namespaces[0]) for host in lab.hosts)
    lab.fabric.run(["ip", "link", "add", "cable", "netns", first, "type", "veth", "peer", "cable", "netns", second])
    for host, own in zip(lab.hosts, SITES, strict=True):
        host.run(["sh", "-ec", CABLE.format(own=own)])


def by_hand(lab: Lab, _: Path, script: str, mtu: int) -> list[subprocess.Popen[str]]:
    """Join the pods as one does who has no flanneld."""
    for host, own, peer in zip(lab.hosts, SITES, reversed(SITES), strict=True):
        host.call(subnet_env.write, SUBNET_FILE, subnet_env.SubnetEnv((NETWORK,), (own.pods,), mtu, ip_masq=True))
        host.run(["sh", "-ec", script.format(own=own, peer=peer)])
    return []


def by_c_loop(lab: Lab, programs: Path) -> list[subprocess.Popen[str]]:
    """Join the pods by the program that stands for flannel's."""
    by_hand(lab, programs, TUN + MASQUERADE, 1472)
    started = []
    for host, own, peer in zip(lab.hosts, SITES, reversed(SITES), strict=True):
        command = [
            str(programs / "one_packet"),
            "flannel0",
            str(own.host),
            str(UDP_PORT),
            f"{peer.pods.network_address}={peer.host}",
        ]
        started.append(host.start(command, host.directory / "one_packet.log"))
    return started


def by_flanneld(lab: Lab, _: Path) -> list[subprocess.Popen[str]]:
    """Join the pods by what is to be measured. Raises LabError also when flanneld does something else than it is told to."""
    daemons = [lab.start_flanneld(host, "--log-format=json") for host in lab.hosts]
    asked = lab.topology.network["Backend"]
    for host, daemon in zip(lab.hosts, daemons, strict=True):
        lab.await_ready(host, daemon)
        log = lab.flanneld_log(host)
        for line in said_by(log, "network config"):
            raise LabError(f"flanneld on {host.name}: {line.get('warning', line)}")
        for line in said_by(log, "data path"):
            if isinstance(asked, Mapping) and line.get("path") != asked.get("DataPath", line.get("path")):
                raise LabError(f"flanneld on {host.name} carries packets by {line.get('path')} instead: {line.get('why')}")
    return daemons


def said_by(log: Path, event: str) -> list[dict[str, Any]]:
    """Each time that a daemon, which logs JSON, said so; a hand-made path has no log."""
    lines = log.read_text().splitlines() if log.exists() else []
    return [line for line in (json.loads(text) for text in lines if text.startswith("{")) if line.get("event") == event]


NONE: Mapping[str, object] = {"Type": "alloc"}
PLAIN, HAND_HOST_GW, HAND_VXLAN, C_LOOP = "plain routing", "host-gw by hand", "vxlan by hand", "flannel udp (C loop)"
PATHS: Mapping[str, Way] = {
    PLAIN: Way(NONE, partial(by_hand, script=ROUTE, mtu=1500)),
    HAND_HOST_GW: Way(NONE, partial(by_hand, script=ROUTE + MASQUERADE, mtu=1500)),
    "host-gw": Way({"Type": "host-gw"}, by_flanneld),
    HAND_VXLAN: Way(NONE, partial(by_hand, script=VXLAN + MASQUERADE, mtu=1450)),
    "vxlan": Way({"Type": "vxlan"}, by_flanneld),
    "vxlan userspace": Way({"Type": "vxlan", "Mode": "userspace"}, by_flanneld),
    C_LOOP: Way(NONE, by_c_loop),
    "udp": Way({"Type": "udp"}, by_flanneld),
    "udp tun": Way({"Type": "udp", "DataPath": "tun"}, by_flanneld),
    "udp native": Way({"Type": "udp", "DataPath": "native"}, by_flanneld),
    "udp ebpf": Way({"Type": "udp", "DataPath": "ebpf"}, by_flanneld),
}
"""By name; `udp` alone is what flanneld chooses by itself."""


def open_path(name: str, stack: ExitStack, programs: Path) -> DataPath:
    """Bring up this data path's lab, with an iperf3 server in the second pod.

    Raises LabError, FlanneldError, OSError when it does not start; the caller ends what is there by closing the stack.
    """
    way = PATHS[name]
    lab_name = f"bench-{os.getpid()}-{re.sub('[^a-z0-9]+', '-', name.lower())}"[:32].rstrip("-")
    stack.callback(release, lab_name)  # a signal can come between any two steps, also before the lab is in our hands
    topology = replace(generate(2), network=way.network)
    lab = stack.enter_context(Lab.up(topology, name=lab_name, start_daemons=False))
    lay_cable(lab)
    daemons = way.join(lab, programs)
    source, destination = (host.pod("p1") for host in lab.hosts)
    server = destination.start(["iperf3", "-s"], lab.hosts[1].directory / "iperf3.log")
    for child in (server, *daemons):
        stack.callback(child.wait)
    stack.callback(lab.down)  # ends them
    return DataPath(name, lab, source, destination, [daemon.pid for daemon in daemons])
