"""vxlan with EVPN as its control, attached: leases and the RIB become leases that vxlan plans; must not know devices, nor sessions.

A peer that says nothing by EVPN, as it speaks none or its session is down, is reached as its lease says, as by the plain method:
hosts can change over one by one, and a Go flannel host is a peer too. Where both say something, EVPN wins.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from typing import Any

from bgp.bfd.client import BfdSpeaker
from bgp.evpn.viewpoint import Viewpoint, published, view
from bgp.evpn.ways import Ways
from bgp.life import live
from bgp.local import LocalState
from bgp.measures import measures
from bgp.neighbours import password_files
from bgp.password import read_passwords
from bgp.questions import Questions
from bgp.router import Router
from bgp.speaker.speaker import Speaker
from flanneld.backend import Carrying, Learning, Network, Plan, Refusal, Wanted
from flanneld.kernel import Entry, Kernel, Owner
from flanneld.lease import Judged, Lease, LeaseAttrs
from flanneld.log import Log, Once
from flanneld.metrics import Metric

log = Log(__name__)

LOOK_S = 5.0
"""How often it is looked for what nobody tells of: another password in its file, a wait that is over."""
DIRECTORY = "evpn"


class EvpnNetwork:
    """One host of the network."""

    def __init__(self, inner: Network, viewpoint: Viewpoint, kernel: Kernel, speaker: Speaker, relook: Callable[[], bool]) -> None:
        """`inner` has the devices; `relook`: look again where addresses are, true if anything is elsewhere than before."""
        self.news: Callable[[], None] = lambda: None
        self.local = LocalState(viewpoint.identity.directory / DIRECTORY)
        self.router = Router(speaker, BfdSpeaker(viewpoint.identity.directory / DIRECTORY), 1, lambda: self.news())
        self.attrs: LeaseAttrs = published(inner.attrs, viewpoint.own(()).data)
        if isinstance(inner, Learning):
            inner.news = lambda: self.news()
        self._inner, self._viewpoint, self._kernel, self._speaker, self._relook = inner, viewpoint, kernel, speaker, relook
        networks = [pool.network for pool in viewpoint.pools]
        self._questions = Questions(self.router, self.local, networks, lambda: self.news())
        self._ways = Ways(viewpoint.settings.vni)
        self._views = Judged(view)
        self._own: Lease | None = None
        self._peers: Collection[Lease] = ()
        self._everybody: Collection[Lease] = ()
        self._aimed_at: object = None
        """What the router's aim was made of."""
        self._began = time.monotonic()
        self._kept: frozenset[Entry] | None = None
        """What the kernel had from before us, until it is known what of it is still so; None: not read yet."""
        self._retired = False
        """Neighbours are to forget us at the end."""
        self._said = Once(log)

    @property
    def mtu(self) -> int:
        return self._inner.mtu

    @property
    def owner(self) -> Owner:
        return self._inner.owner

    async def adopt(self, own: Lease) -> None:
        """Announce it from now on."""
        self._own = own
        await self._inner.adopt(own)

    def speaks(self, peer: Lease) -> bool:
        """As vxlan does: whether it speaks EVPN besides is another question."""
        return self._inner.speaks(peer)

    def hear(self, peers: Collection[Lease]) -> None:
        """Subnets of those that are reached by another method are not EVPN's to say."""
        self._everybody = peers

    async def reach(self, peers: Collection[Lease], *, disturbed: bool = True) -> Wanted:
        """Have sessions with all that speak EVPN; what they and routers have announced, and the others' leases, are wanted."""
        if disturbed and self._relook():
            self.router.relook()
        self._peers = peers
        self._aim()
        reached, behind = self._ways.leases(peers, self.router.adjacencies.rib.choices())
        wanted = await self._inner.reach([*reached, *behind], disturbed=disturbed)
        planned = {id(lease): plan for lease, plan in wanted.plans}
        plans = [(peer, _of(peer, planned[id(lease)])) for peer, lease in zip(peers, reached, strict=True)]
        slots = {entry.slot: entry for _, plan in plans if not isinstance(plan, Refusal) for entry in plan}
        others = self._others([(lease, planned[id(lease)]) for lease in behind], slots)
        kept = (entry for entry in self._still_kept() if entry.slot not in slots)
        return Wanted(plans, (*wanted.entries, *others, *kept))

    def _others(self, behind: Iterable[tuple[Lease, Plan]], slots: dict[object, Entry]) -> list[Entry]:
        """Entries for what is no peer's, as far as they take nothing from peers, nor from each other; `slots` are what is taken."""
        entries: list[Entry] = []
        for lease, plan in behind:
            if why := _why_not(plan, slots):
                self._said.warning(f"{lease}", "evpn route not used", prefix=lease, why=why)
            elif not isinstance(plan, Refusal):
                self._said.over(f"{lease}")
                entries += (entry for entry in plan if entry.slot not in slots)
                slots |= {entry.slot: entry for entry in plan}
        return entries

    def _still_kept(self) -> frozenset[Entry]:
        """Of routers' subnets no lease tells, so after a start they are as they were until all neighbours have told theirs."""
        if self._kept is None:
            owner = self._inner.owner
            self._kept = frozenset(entry for entry in self._kernel.entries(owner) if entry.device in owner.devices)
        over = time.monotonic() - self._began > self._viewpoint.settings.bgp.session.graceful_restart_s
        if self._kept and (over or self.router.adjacencies.settled):
            self._kept = frozenset()
        return self._kept

    def _aim(self) -> None:
        """Tell the router what it is to be now."""
        # With hundreds of hosts it takes a while, and this is called whenever a route has changed.
        basis = self._basis()
        if self._own is None or basis == self._aimed_at:
            return
        self._aimed_at = basis
        own = self._viewpoint.own(self._own.subnets)
        views = {subnet: host for peer, host in self._views.of(self._peers) for subnet in peer.subnets}
        aim = self._viewpoint.aim(own, views, self.local.asked, self._passwords())
        # Nobody can say by EVPN where the subnet of a host is that speaks none.
        others = {subnet for peer in self._everybody for subnet in peer.subnets} - views.keys()
        elsewhere = others | {subnet for subnet, host in views.items() if host is None}
        for warning in aim.neighbourhood.warnings:
            self._said.warning(warning, "bgp", warning=warning)
        for host, why in aim.neighbourhood.refused:
            self._said.warning(f"{host}", "no bgp session", host=host, why=why)
        self.router.follow(replace(aim, policy=replace(aim.policy, elsewhere=frozenset(elsewhere))))

    def _basis(self) -> object:
        """What the aim hangs on."""
        subnets = None if self._own is None else self._own.subnets
        passwords = {} if self._own is None else self._passwords()
        return subnets, passwords, self.local.asked, [id(peer) for peer in self._peers], [id(peer) for peer in self._everybody]

    def _passwords(self) -> Mapping[str, str]:
        """Those that can be read; the others' sessions wait for them."""
        return read_passwords(password_files(self._viewpoint.settings.bgp, self._viewpoint.own(())), self._said)

    async def run(self) -> None:
        """Sessions, and the inner method's data plane, until cancelled."""
        directory, others = self._viewpoint.identity.directory / DIRECTORY, (self._inner.run, self._look)
        await live(directory, self._speaker, self.router, self._questions, *others, retired=lambda: self._retired)

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            if self._kept or self._basis() != self._aimed_at:
                self.news()

    def measures(self) -> Iterable[Metric]:
        """Sessions and paths."""
        return measures(self.router)

    def remove(self) -> None:
        """Nobody speaks vxlan here any more: neighbours are to forget us."""
        self._retired = True
        self._inner.remove()


class CarryingEvpnNetwork(EvpnNetwork):
    """One whose frames pass through user space."""

    def __init__(self, inner: Network, *rest: Any) -> None:
        super().__init__(inner, *rest)
        assert isinstance(inner, Carrying)  # noqa: S101  # the caller chooses by it
        self.path, self.carried = inner.path, inner.carried


def _why_not(plan: Plan, slots: Mapping[object, Entry]) -> str:
    """Why a plan cannot be, beside what has these slots; "" when it can."""
    if isinstance(plan, Refusal):
        return plan.why
    clashes = ((entry, held) for entry in plan if (held := slots.get(entry.slot, entry)) != entry)
    return next((f"needs {entry}, where another needs {held}" for entry, held in clashes), "")


def _of(peer: Lease, plan: Plan) -> Plan:
    """The plan as the peer's own: what it was made from may have been another lease."""
    return replace(plan, lease=peer) if isinstance(plan, Refusal) and plan.lease is not peer else plan
