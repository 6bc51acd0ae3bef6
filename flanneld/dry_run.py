"""`--dry-run`: what a start would change, as lines; must not change anything.

The parts that plan are the daemon's own; what they would do is written down instead: a kernel that takes notes, a claim that is not
made. `udp` is planned without its sockets: to attach it is to change something. `bgp` hears of no route that the kernel has not.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from flanneld import masquerade
from flanneld.backend import Identity, load_backend
from flanneld.firewall import open_firewall
from flanneld.flags import Options
from flanneld.kernel import Entry, KernelError, Link, NextHop, Owner, VxlanLink, in_words
from flanneld.lease import IPAddress, Lease
from flanneld.linux.kernel import LinuxKernel
from flanneld.linux.links import link_at
from flanneld.linux.netlink import Netlink
from flanneld.linux.uplink import find_uplink
from flanneld.linux.vxlan_device import pending_vxlan
from flanneld.membership import check_apart, policy_of, recall_former
from flanneld.peers import eligible
from flanneld.program import program
from flanneld.store import Claim, LeaseStore, choose_claim
from flanneld.subnet_env import SubnetEnv, SubnetEnvError, read, render

FIRST_PLANNED = (1 << 31) - 1
"""Indexes below this, downwards, are of devices that there would be."""


class NotingKernel:
    """The kernel as it is, with all changes written down and none made."""

    def __init__(self, netlink: Netlink) -> None:
        self.noted: list[str] = []
        self._planned: list[str] = []
        self._netlink = netlink
        self._kernel = LinuxKernel(netlink)

    def entries(self, owner: Owner) -> frozenset[Entry]:
        return self._kernel.entries(owner)

    def add(self, entries: Iterable[Entry]) -> tuple[KernelError, ...]:
        self.noted += sorted(f"add {self._named(entry)}" for entry in entries)
        return ()

    def remove(self, entries: Iterable[Entry], *, known: bool = False) -> tuple[KernelError, ...]:
        self.noted += sorted(f"remove {self._named(entry)}" for entry in entries)
        return ()

    def link(self, name: str) -> Link | None:
        return self._kernel.link(name)

    def ensure_link(self, wanted: VxlanLink) -> Link:
        self.noted += [line for line in pending_vxlan(self._netlink, wanted) if line not in self.noted]
        present = self.link(wanted.name)
        if present is None:
            self._planned.append(wanted.name)
            present = Link(FIRST_PLANNED - len(self._planned), wanted.name, wanted.mtu, wanted.mac, up=True, kind="vxlan")
        return present

    def remove_link(self, name: str) -> None:
        self.noted.append(f"device {name}: remove")

    def next_hop(self, address: IPAddress) -> NextHop:
        return self._kernel.next_hop(address)

    def _named(self, entry: Entry) -> str:
        """The entry in words, with its devices' names instead of their numbers."""
        return in_words(entry, self._device)

    def _device(self, index: int) -> str:
        planned = FIRST_PLANNED - index - 1
        if planned < len(self._planned):
            return self._planned[planned]
        found = link_at(self._netlink, index)
        return found.name if found is not None else "no device"


async def pending(options: Options, store: LeaseStore, instance: str, identity: Identity) -> tuple[str, ...]:
    """What flanneld would change if it were started now; raises FlanneldError for what would keep it from starting."""
    network = await store.network()
    with Netlink() as netlink:
        uplink = find_uplink(netlink, options, [pool.family for pool in network.pools])
        check_apart(network, uplink)
        kernel = NotingKernel(netlink)
        backend = load_backend(network, identity)
        if backend.in_user_space:
            return (f"{network.backend_type}: open a TUN and a socket on {uplink}; what follows from that is not planned here",)
        async with backend.attach(uplink, network, kernel) as attached:
            leases = await store.leases()
            before = recall_former(Path(options.subnet_file))
            claim = choose_claim(network, leases.values(), attached.attrs, before.lease, before.published)
            own = Lease(claim.subnets, attached.attrs)
            await attached.adopt(own)
            peers, _ = eligible(network, own, leases)
            program(kernel, attached.owner, [await attached.reach([peer for peer in peers if attached.speaks(peer)])])
            env = SubnetEnv(tuple(pool.network for pool in network.pools), own.subnets, attached.mtu, options.ip_masq)
    rules = masquerade.plan((pool.network for pool in network.pools), own.subnets, policy_of(options))
    ruled = await open_firewall(network.enable_nftables, instance).pending(rules)
    return (*claimed(claim, own), *kernel.noted, *ruled, *written(Path(options.subnet_file), env))


def claimed(claim: Claim, own: Lease) -> Iterator[str]:
    """What would become of our lease."""
    yield from (f"lease {misfit}: give up, it does not fit the network config" for misfit in claim.misfits)
    if claim.ours is None:
        yield f"lease {own}: create"
    elif claim.ours.attrs != own.attrs:
        yield f"lease {own}: publish {own.attrs}, was {claim.ours.attrs}"


def written(path: Path, env: SubnetEnv) -> Iterator[str]:
    """What would become of subnet.env."""
    try:
        present = read(path)
    except SubnetEnvError:
        present = None
    if present != env:
        yield f"{path}: write {' '.join(render(env).split())}"
