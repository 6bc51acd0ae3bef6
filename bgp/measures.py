"""What the bgp method measures of itself, read off its router when somebody asks; must not keep anything."""

from __future__ import annotations

from collections.abc import Iterator

from bgp.bfd.packet import State
from bgp.router import Router
from flanneld.metrics import Metric, counters, gauge, gauges


def measures(router: Router) -> Iterator[Metric]:
    """All of them, as of now; docs/bgp.md lists them."""
    adjacencies = router.adjacencies
    neighbours = {str(peer): peer for peer in adjacencies.aim.neighbours}
    states = {name: adjacencies.rib.state(peer) for name, peer in neighbours.items()}
    yield gauge("flanneld_bgp_speaker_up", "1 while exabgp is there and heard.", float(not adjacencies.lost))
    established = {name: float(peer in adjacencies.standing) for name, peer in neighbours.items()}
    yield gauges("flanneld_bgp_session_up", "1 for sessions that are established, of those that are to be.", "peer", established)
    paths = {name: float(state.paths) for name, state in states.items() if state is not None}
    yield gauges("flanneld_bgp_paths", "What a neighbour has announced and we have taken.", "peer", paths)
    stale = {name: float(state.stale) for name, state in states.items() if state is not None}
    yield gauges("flanneld_bgp_paths_stale", "Of these, kept from before its session was lost.", "peer", stale)
    refused = [
        ("", {"peer": name, "reason": reason.value}, float(count))
        for name, state in states.items()
        if state is not None
        for reason, count in state.refused.items()
    ]
    yield Metric("flanneld_bgp_paths_refused", "gauge", "What it has announced and we have not taken.", tuple(refused))
    told = {str(peer): float(len(standing.told) + len(standing.told_evpn)) for peer, standing in adjacencies.standing.items()}
    yield gauges("flanneld_bgp_announced", "What we have announced to it.", "peer", told)
    yield gauge("flanneld_bgp_prefixes", "Prefixes that some neighbour leads to.", float(len(adjacencies.rib.choices())))
    yield gauge("flanneld_bgp_conflicts", "Prefixes that two hosts say are theirs.", float(len(adjacencies.rib.conflicts())))
    up = {str(peer): float(state is State.UP) for peer, state in router.bfd.states.items()}
    yield gauges("flanneld_bfd_session_up", "1 for BFD sessions that are up.", "peer", up)
    yield counters(
        "flanneld_bfd_dropped_total",
        "BFD packets that were not taken, by reason.",
        [({"reason": reason.value}, count) for reason, count in router.bfd.dropped.items()],
    )
