"""What can be asked of the bgp method, and what it answers, as JSON values; must not know how questions come."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from ipaddress import ip_network

from bgp.control import ControlError
from bgp.loc_rib import Explained
from bgp.local import LocalState
from bgp.neighbours import Neighbour
from bgp.path import Path
from bgp.policy import render_community
from bgp.router import Router
from flanneld.lease import IPNetwork, inside


class Questions:
    """One method's."""

    def __init__(self, router: Router, local: LocalState, announceable: Iterable[IPNetwork], changed: Callable[[], None]) -> None:
        """`announceable`: of what a part may be announced by hand; `changed` is called when something is asked for."""
        self._router, self._local, self._announceable, self._changed = router, local, tuple(announceable), changed
        self._known: Mapping[str, Callable[[Mapping[str, object]], object]] = {
            "peers": lambda question: self.peers(),
            "routes": lambda question: self.routes(),
            "announcements": lambda question: self.announcements(),
            "announce": lambda question: self.announce(_prefix(question)),
            "withdraw": lambda question: self.withdraw(_prefix(question)),
            "release": lambda question: self.release(_prefix(question), released=True),
            "reclaim": lambda question: self.release(_prefix(question), released=False),
            "drain": lambda question: self.drain(draining=True),
            "undrain": lambda question: self.drain(draining=False),
        }

    def answer(self, question: Mapping[str, object]) -> object:
        """Answer one; raises FlanneldError."""
        asked = question.get("do")
        if not isinstance(asked, str) or asked not in self._known:
            raise ControlError(f"cannot do {asked!r}, expected one of {', '.join(self._known)}")
        return self._known[asked](question)

    def peers(self) -> list[dict[str, object]]:
        """All sessions that there are to be, and how they are."""
        return [self._peer(neighbour) for neighbour in self._router.adjacencies.aim.neighbourhood.neighbours]

    def _peer(self, neighbour: Neighbour) -> dict[str, object]:
        session, adjacencies = neighbour.session, self._router.adjacencies
        standing, state = adjacencies.standing.get(session.peer), adjacencies.rib.state(session.peer)
        why = "" if standing else adjacencies.lost or adjacencies.downs.get(session.peer, "")
        bfd = self._router.bfd.states.get(session.peer)
        return {
            "peer": str(session.peer),
            "role": neighbour.role.value,
            "as": session.peer_as,
            "localAS": session.local_as,
            "state": "established" if standing else "down" if why else "connecting",
            "since": None if standing is None else round(time.monotonic() - standing.since, 1),
            "why": why,
            "accepted": 0 if state is None else state.paths,
            "stale": 0 if state is None else state.stale,
            "refused": {} if state is None else {reason.value: count for reason, count in state.refused.items()},
            "limited": state is not None and state.limited,
            "announced": len(standing.told) + len(standing.told_evpn) if standing else 0,
            "bfd": None if bfd is None else bfd.name.lower(),
        }

    def routes(self) -> list[dict[str, object]]:
        """Every path that a neighbour has announced, in use or not, and why not."""
        return [_path(each) for each in self._router.adjacencies.rib.explain_all()]

    def announcements(self) -> dict[str, object]:
        """What this host announces as its own."""
        own = self._router.adjacencies.aim.origination
        return {
            "subnets": list(map(str, own.subnets)),
            "announced": [str(prefix) for prefix in own.prefixes if prefix in own.extra],
            "released": sorted(map(str, self._local.asked.released)),
            "draining": own.draining,
        }

    def announce(self, prefix: IPNetwork) -> object:
        """Announce it besides our subnet, until it is withdrawn by hand."""
        if not any(inside(prefix, network) for network in self._announceable):
            raise ControlError(f"{prefix} cannot be announced, expected a part of {' or '.join(map(str, self._announceable))}")
        self._local.announce(prefix)
        self._changed()
        return self.announcements()

    def withdraw(self, prefix: IPNetwork) -> object:
        """Announce it no more."""
        if prefix not in self._local.asked.announced:
            known = ", ".join(sorted(map(str, self._local.asked.announced))) or "none"
            raise ControlError(f"{prefix} is not announced by hand, expected one of those that are: {known}")
        self._local.withdraw(prefix)
        self._changed()
        return self.announcements()

    def release(self, prefix: IPNetwork, *, released: bool) -> object:
        """Let another host announce an address of our own subnet, to which its pod has moved; or not any more."""
        own = self._router.adjacencies.aim.origination.subnets
        if prefix.prefixlen != prefix.max_prefixlen or not any(inside(prefix, subnet) for subnet in own):
            expected = " or ".join(map(str, own)) or "our subnet"
            raise ControlError(f"{prefix} is not ours to release, expected one address of {expected}")
        self._local.release(prefix, released)
        self._changed()
        return self.announcements()

    def drain(self, *, draining: bool) -> object:
        """Have every other way preferred to those by this host (RFC 8326), or not any more."""
        self._local.drain(draining)
        self._changed()
        return {"draining": draining, "told": len(self._router.adjacencies.standing)}


def _prefix(question: Mapping[str, object]) -> IPNetwork:
    text = question.get("prefix")
    try:
        return ip_network(text if isinstance(text, str) else "")
    except ValueError as error:
        raise ControlError(f"prefix {text!r}: {error}, expected one like 10.96.0.10/32") from error


def _path(explained: Explained) -> dict[str, object]:
    path: Path = explained.path
    said = path.attributes
    return {
        "prefix": str(path.prefix),
        "nextHop": str(path.next_hop),
        "peer": str(path.peer),
        "asPath": str(said.as_path),
        "localPref": said.local_pref,
        "med": said.med,
        "communities": [render_community(community) for community in sorted(said.communities)],
        "inUse": explained.chosen,
        "why": explained.why,
    }
