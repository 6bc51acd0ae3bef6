"""The bgp backend without exabgp: every host that it knows of is a neighbour that is up, and has announced what its lease says."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from bgp.config import BgpConfig
from bgp.events import Announced, EndOfRib, Opened, Up
from bgp.network import BgpNetwork
from bgp.path import Path as Way
from bgp.speaker.news import Synced
from bgp.speaker.speaker import Speaker
from flanneld.backend import Identity, Uplink, Wanted
from flanneld.config import NetworkConfig
from flanneld.kernel import Kernel
from flanneld.lease import Lease


class AnnouncingNetwork(BgpNetwork):
    """Before it is asked for the peers' entries, it has heard of their subnets."""

    async def reach(self, peers: Collection[Lease], *, disturbed: bool = True) -> Wanted:
        await super().reach(peers, disturbed=disturbed)
        for neighbour in self.router.adjacencies.aim.neighbours.values():
            session, subnets = neighbour.session, neighbour.host or ()
            if session.peer not in self.router.adjacencies.standing:
                self.router.adjacencies.take(Opened(session.peer, session.peer_as, str(session.peer), 9, None))
                self.router.adjacencies.take(Up(session.peer))
            hops = {ip.version: ip for peer in peers if set(peer.subnets) <= set(subnets) for ip in peer.attrs.public_ips}
            self.router.adjacencies.take(
                Announced(session.peer, tuple(Way(prefix, hops[prefix.version], session.peer) for prefix in subnets))
            )
            for family in session.families:
                self.router.adjacencies.take(EndOfRib(session.peer, family))
        return await super().reach(peers, disturbed=disturbed)


@asynccontextmanager
async def attached_announcing(
    config: BgpConfig, uplink: Uplink, network: NetworkConfig, kernel: Kernel
) -> AsyncIterator[AnnouncingNetwork]:
    """Attach it."""
    with TemporaryDirectory() as directory:
        silent = Speaker(Path(directory), ())  # never entered, so nothing is started
        attached = AnnouncingNetwork(config, Identity("h1", {}, Path(directory)), uplink, network, kernel, silent)
        attached.router.adjacencies.take(Synced({}, {}, (), {}))
        yield attached
