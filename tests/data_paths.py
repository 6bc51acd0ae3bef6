"""Two hosts joined in every way there is, by hand and by flanneld, each pair a lab of its own: what benches measure.

How a pair is joined by hand is written as an administrator would type it; pods are plumbed alike everywhere.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from ipaddress import IPv4Address, IPv4Network
from itertools import chain

from flanneld import subnet_env
from lab.demo.traffic import IPAddress
from lab.lab import Lab
from lab.pods import SUBNET_FILE, Pod
from lab.state import release
from lab.topology import generate

NETWORK = IPv4Network("10.244.0.0/16")
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
MASQUERADE = """
nft add table ip hand
nft add chain ip hand out '{{ type nat hook postrouting priority srcnat; }}'
nft add rule ip hand out ip saddr 10.244.0.0/16 ip daddr != 10.244.0.0/16 masquerade
"""
"""Pods cannot do without, and the connection tracking that comes with it has its price."""
SEGMENTATION = ("tso", "gso", "tx-udp-segmentation", "tx-udp_tnl-segmentation", "tx-udp_tnl-csum-segmentation")
"""What ethtool calls the offloads that let a packet larger than the MTU through."""
PLAIN, HAND_VXLAN = "plain routing", "vxlan by hand"


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
    """One way from pod to pod."""

    name: str
    lab: Lab
    source: Pod
    destination: Pod
    """It runs an iperf3 server."""
    daemons: Sequence[int]
    """Process ids of both hosts' flanneld; none where they have no part."""

    @property
    def ip(self) -> IPAddress:
        return self.destination.addresses[0].ip

    def set_underlay(self, underlay: Underlay) -> None:
        """Set the uplinks so."""
        cut, merge = {Underlay.SOFT: ("on", "off"), Underlay.WIRE: ("off", "on")}[underlay]
        for host in self.lab.hosts:
            # A veth merges only what comes from one that cuts (drivers/net/veth.c).
            host.run(["ethtool", "-K", "eth0", *chain.from_iterable((name, cut) for name in SEGMENTATION), "gro", merge])


def lay_cable(lab: Lab) -> None:
    """Join the hosts by a link of their own: the fabric's bridge would spend this machine's time on every packet."""
    first, second = (str(host.namespaces[0]) for host in lab.hosts)
    lab.fabric.run(["ip", "link", "add", "cable", "netns", first, "type", "veth", "peer", "cable", "netns", second])
    for host, own in zip(lab.hosts, SITES, strict=True):
        host.run(["sh", "-ec", CABLE.format(own=own)])


def by_hand(lab: Lab, script: str, mtu: int) -> list[int]:
    """Join the pods as one does who has no flanneld."""
    for host, own, peer in zip(lab.hosts, SITES, reversed(SITES), strict=True):
        host.call(subnet_env.write, SUBNET_FILE, subnet_env.SubnetEnv((NETWORK,), (own.pods,), mtu, ip_masq=True))
        host.run(["sh", "-ec", (script + MASQUERADE).format(own=own, peer=peer)])
    return []


def by_flanneld(lab: Lab) -> list[int]:
    """Join the pods by what is to be measured."""
    daemons = [lab.start_flanneld(host) for host in lab.hosts]
    for host, daemon in zip(lab.hosts, daemons, strict=True):
        lab.await_ready(host, daemon)
    return [daemon.pid for daemon in daemons]


PATHS: Mapping[str, tuple[str, Callable[[Lab], list[int]]]] = {
    PLAIN: ("alloc", partial(by_hand, script=ROUTE, mtu=1500)),
    "host-gw": ("host-gw", by_flanneld),
    HAND_VXLAN: ("alloc", partial(by_hand, script=VXLAN, mtu=1450)),
    "vxlan": ("vxlan", by_flanneld),
    "udp": ("udp", by_flanneld),
}
"""Name -> backend in the network config, and what joins the hosts."""


def open_path(name: str, stack: ExitStack) -> DataPath:
    """Bring up this data path's lab, with an iperf3 server in the second pod."""
    backend, join = PATHS[name]
    lab_name = f"bench-{os.getpid()}-{name.replace(' ', '-')}"
    stack.callback(release, lab_name)  # a signal can come between any two steps, also before the lab is in our hands
    lab = stack.enter_context(Lab.up(generate(2, backend=backend), name=lab_name, start_daemons=False))
    lay_cable(lab)
    daemons = join(lab)
    source, destination = (host.pod("p1") for host in lab.hosts)
    server = destination.start(["iperf3", "-s"], lab.hosts[1].directory / "iperf3.log")
    stack.callback(server.wait)
    stack.callback(lab.down)  # ends it
    return DataPath(name, lab, source, destination, daemons)
