"""The bgp method, attached: leases and the RIB become sessions to have and entries to program; must not know how either is done."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Iterable

from bgp.admission import ImportPolicy
from bgp.aim import Aim
from bgp.bfd.client import BfdSpeaker
from bgp.config import BgpConfig
from bgp.exports import Origination
from bgp.hosts import HostView, own_view, peer_view
from bgp.kept import KeptRoutes
from bgp.life import live
from bgp.local import LocalState
from bgp.measures import measures
from bgp.neighbours import Neighbourhood, neighbours, password_files
from bgp.password import read_passwords
from bgp.questions import Questions
from bgp.router import Router
from bgp.routes import RoutePlanner, ends
from bgp.speaker.speaker import Speaker
from flanneld.backend import Identity, Plan, Refusal, Uplink, Wanted
from flanneld.config import NetworkConfig
from flanneld.kernel import Kernel, Owner, Route
from flanneld.lease import IPNetwork, Judged, Lease, LeaseAttrs, Subnets, family_of
from flanneld.log import Log, Once
from flanneld.metrics import Metric

log = Log(__name__)

BACKEND_TYPE = "bgp"
PATIENCE_S = 10.0
"""For so long a peer that has not been reached yet is waited for: we are not ready, or reach it by the method that it has left."""
LINGER_S = 10.0
"""A host that has changed over to another method is told of our subnets so long: it reaches us by BGP until we change over too."""
LOOK_S = 5.0
"""How often it is looked for what nobody tells of: another password in its file, a wait that is over."""


class BgpNetwork:
    """One host of the network, by BGP."""

    def __init__(
        self, config: BgpConfig, identity: Identity, uplink: Uplink, network: NetworkConfig, kernel: Kernel, speaker: Speaker
    ) -> None:
        self.news: Callable[[], None] = lambda: None
        self._directory = identity.directory / "bgp"
        self.local = LocalState(self._directory)
        self.router = Router(speaker, BfdSpeaker(self._directory), config.max_paths, lambda: self.news())
        self.mtu = uplink.mtu
        self._config, self._identity, self._uplink, self._network = config, identity, uplink, network
        own = own_view(config, identity.name, identity.labels, uplink.public_ips, ())
        data = own.data.render()
        self.attrs = LeaseAttrs(uplink.public_ips, BACKEND_TYPE, tuple((family_of(ip), data) for ip in uplink.public_ips))
        networks = tuple(pool.network for pool in network.pools)
        self.owner = Owner((*networks, *config.services))
        self._questions = Questions(self.router, self.local, self.owner.networks, lambda: self.news())
        self._speaker = speaker
        self._planner = RoutePlanner(kernel, lambda ip: any(ip in pool for pool in networks))
        self._own: Lease | None = None
        self._peers: Collection[Lease] = ()
        self._everybody: Collection[Lease] = ()
        self._leaving: dict[Subnets, tuple[Lease, float]] = {}
        """Peers that another method reaches now, as they were before, and until when they are neighbours."""
        self._awaited: dict[Subnets, float] = {}
        """Until when a peer that has not been reached yet is waited for; 0: it has been."""
        self._views = Judged(_view)
        self._plans: dict[int, tuple[Lease, tuple[Route | None, ...], Plan]] = {}
        keep_s = max(config.session.graceful_restart_s, PATIENCE_S)
        self._kept = KeptRoutes(kernel, self.owner, self._planner.ours, keep_s)
        self._retired = False
        """Neighbours are to forget us at the end."""
        self._drawn: tuple[object, Neighbourhood] | None = None
        """The sessions, and what they were drawn from."""
        self._aimed_at: object = None
        """What the router's aim was made of."""
        self._waiting = False
        """A peer has no route yet."""
        self._said = Once(log)

    async def adopt(self, own: Lease) -> None:
        """Announce it from now on."""
        self._own = own
        self._plans = {}

    def speaks(self, peer: Lease) -> bool:
        """Its lease names the method."""
        return peer.attrs.backend_type == BACKEND_TYPE

    def hear(self, peers: Collection[Lease]) -> None:
        """Subnets of those that are reached by another method are not BGP's to say."""
        self._everybody = peers

    async def reach(self, peers: Collection[Lease], *, disturbed: bool = True) -> Wanted:
        """Have sessions with all of them; what they and routers have announced is wanted."""
        if disturbed and self._planner.refresh():
            self.router.relook()
        self._let_go(peers)
        self._peers = peers
        self._aim()
        routes = self._routes()
        plans = [(peer, self._plan(peer, view, routes)) for peer, view in self._views.of(peers)]
        self._plans = {id(peer): self._plans[id(peer)] for peer in peers}
        self._waiting = any(isinstance(plan, Refusal) for _, plan in plans)
        of_peers = {subnet for peer in peers for subnet in peer.subnets}
        others = [route for prefix, route in routes.items() if prefix not in of_peers]
        own = self._own.subnets if self._own is not None else ()
        return Wanted(plans, (*ends(own), *others))

    def _let_go(self, peers: Collection[Lease]) -> None:
        """See who of the peers until now is reached by another method, and forget those of whom that is long known."""
        if not self._leaving and list(map(id, peers)) == list(map(id, self._peers)):
            return  # as whenever it is only a route that has changed
        now, present = time.monotonic(), {peer.subnets for peer in peers}
        elsewhere = {peer.subnets for peer in self._everybody} - present
        for peer in self._peers:
            if peer.subnets in elsewhere:
                self._leaving.setdefault(peer.subnets, (peer, now + LINGER_S))
        self._leaving = {who: left for who, left in self._leaving.items() if who in elsewhere and left[1] > now}
        self._awaited = {who: until for who, until in self._awaited.items() if who in present}

    @property
    def _near(self) -> tuple[Lease, ...]:
        """Whom we have sessions with."""
        return (*self._peers, *(peer for peer, _ in self._leaving.values()))

    def _aim(self) -> None:
        """Tell the router what it is to be now."""
        if self._own is None:
            return
        # With hundreds of hosts it takes a while, and this is called whenever a route has changed.
        basis = self._basis()
        if basis == self._aimed_at:
            return
        self._aimed_at = basis
        own = self._own_view(self._own)
        hosts = [view for _, view in self._views.of(self._near) if isinstance(view, HostView)]
        found = self._neighbourhood(own, hosts)
        origination = Origination(self._own.subnets, self.local.asked.announced, own.addresses, self.local.asked.draining)
        self.router.follow(Aim(found, origination, self._policy(own, hosts, found)))

    def _neighbourhood(self, own: HostView, hosts: list[HostView]) -> Neighbourhood:
        """The sessions to have: the very object of the last time where nothing of them has changed."""
        basis = own, hosts, self._passwords(own)
        if self._drawn is not None and self._drawn[0] == basis:
            return self._drawn[1]
        found = neighbours(self._config, own, hosts, self._uplink.addresses, basis[2])
        for warning in found.warnings:
            self._said.warning(warning, "bgp", warning=warning)
        for host, why in found.refused:
            self._said.warning(f"{host}", "no bgp session", host=host, why=why)
        self._drawn = basis, found
        return found

    def _basis(self) -> object:
        """What the aim hangs on."""
        own = None if self._own is None else self._own_view(self._own)
        passwords = {} if own is None else self._passwords(own)
        return own, passwords, self.local.asked, [id(peer) for peer in self._near], [id(peer) for peer in self._everybody]

    def _own_view(self, own: Lease) -> HostView:
        return own_view(self._config, self._identity.name, self._identity.labels, self._uplink.public_ips, own.subnets)

    def _policy(self, own: HostView, hosts: Collection[HostView], found: Neighbourhood) -> ImportPolicy:
        speaking = {id(peer) for peer in self._peers}
        return ImportPolicy(
            pools=self._network.pools,
            own_subnets=own.subnets,
            own_addresses=frozenset((*own.addresses, *(address.ip for address in self._uplink.addresses))),
            known_hosts=frozenset(
                (*(address for host in hosts for address in host.addresses), *(each.session.peer for each in found.neighbours))
            ),
            on_link=self._planner.on_link,
            services=self._config.services,
            host_routes=self._config.allow_host_routes,
            owner_approved=self.local.asked.released,
            origin_of=found.origins,
            elsewhere=frozenset(subnet for peer in self._everybody if id(peer) not in speaking for subnet in peer.subnets),
            cluster_id=found.cluster_id,
        )

    def _passwords(self, own: HostView) -> dict[str, str]:
        """Those that can be read; the others' sessions wait for them."""
        return read_passwords(password_files(self._config, own), self._said)

    def _routes(self) -> dict[IPNetwork, Route]:
        """The choices' routes, and those from before us for as long as they may still be right."""
        routes = self._planner.routes(self.router.adjacencies.rib.choices())
        for prefix, route in self._kept.now(self.router.adjacencies).items():
            routes.setdefault(prefix, route)
        return routes

    def _plan(self, peer: Lease, view: HostView | str, routes: dict[IPNetwork, Route]) -> Plan:
        """The very object of the last time where nothing has changed."""
        found = tuple(routes.get(subnet) for subnet in peer.subnets)
        known = self._plans.get(id(peer))
        if known is not None and known[0] is peer and known[1] == found and not isinstance(known[2], Refusal):
            return known[2]
        present = tuple(route for route in found if route is not None)
        plan: Plan = present if len(present) == len(found) else self._unreached(peer, view)
        if plan is present:
            self._awaited[peer.subnets] = 0.0
        self._plans[id(peer)] = (peer, found, plan)
        return plan

    def _unreached(self, peer: Lease, view: HostView | str) -> Refusal:
        if isinstance(view, str):
            return Refusal(peer, view, foreign=True)
        now = time.monotonic()
        waiting = now < self._awaited.setdefault(peer.subnets, now + PATIENCE_S)
        adjacencies = self.router.adjacencies
        why = adjacencies.lost or next((adjacencies.downs[ip] for ip in peer.attrs.public_ips if ip in adjacencies.downs), "")
        said = f"has announced no route to it yet{': ' if why else ''}{why}"
        return Refusal(peer, said, foreign=not waiting, pending=waiting)

    async def run(self) -> None:
        """Sessions, until cancelled."""
        await live(self._directory, self._speaker, self.router, self._questions, self._look, retired=lambda: self._retired)

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            if self._kept or self._waiting or self._leaving or self._basis() != self._aimed_at:
                self.news()

    def measures(self) -> Iterable[Metric]:
        """Sessions and paths."""
        return measures(self.router)

    def remove(self) -> None:
        """Nobody speaks BGP here any more: neighbours are to forget us."""
        self._retired = True


def _view(peer: Lease) -> HostView | str:
    try:
        return peer_view(peer)
    except ValueError as error:
        return str(error)
