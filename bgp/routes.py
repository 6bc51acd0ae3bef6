"""What the RIB's choices come to in the kernel: pure but for the question which way a next hop is; must not know sessions.

A next hop that is not on the link is reached as the kernel reaches it (RFC 4271 §5.1.3, recursive look-up).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from bgp.path import Path
from flanneld.kernel import Hop, Kernel, KernelError, Route, RouteKind
from flanneld.lease import IPAddress, IPNetwork, Subnets

OWN_METRIC = (1 << 30) + 1
"""Of the route that ends what is for no pod of ours, after those to pods; `--ip-blackhole-route` has one just before it."""

MOST_NEXT_HOPS = 16_384
"""Ways to so many are remembered: one neighbour can name as many as there are addresses, and each is a question to the kernel."""


@dataclass(slots=True)
class RoutePlanner:
    """Choices to routes; what stays as it was is the same object as the last time."""

    kernel: Kernel
    ours: Callable[[IPAddress], bool]
    """True for the addresses of pods, which lead to no host."""
    _hops: dict[IPAddress, Hop | None] = field(default_factory=dict)
    _routes: dict[IPNetwork, tuple[tuple[Path, ...], Route]] = field(default_factory=dict)
    _forgot: bool = False
    """Of some next hops it is not known whether their ways have changed."""

    def refresh(self) -> bool:
        """Look the ways to next hops up again; true if one has changed, so that all is to be judged anew."""
        now = {next_hop: self._resolved(next_hop) for next_hop in self._hops}
        if now == self._hops and not self._forgot:
            return False
        self._hops, self._routes, self._forgot = now, {}, False
        return True

    def on_link(self, next_hop: IPAddress) -> bool:
        """True if it is on a link of ours; that there is a way to it says nothing, as a default route leads everywhere."""
        hop = self._hop(next_hop)
        return hop is not None and hop.gateway == next_hop

    def routes(self, choices: Mapping[IPNetwork, tuple[Path, ...]]) -> dict[IPNetwork, Route]:
        """A route for each prefix to which there is a way; with several next hops those count that can be reached."""
        known, now = self._routes, dict[IPNetwork, tuple[tuple[Path, ...], Route]]()
        for prefix, paths in choices.items():
            before = known.get(prefix)
            if before is not None and before[0] is paths:
                now[prefix] = before
            elif hops := [hop for path in paths if (hop := self._hop(path.next_hop)) is not None]:
                now[prefix] = (paths, Route.by(prefix, hops))
        self._routes = now
        return {prefix: route for prefix, (_, route) in now.items()}

    def _hop(self, next_hop: IPAddress) -> Hop | None:
        if next_hop not in self._hops:
            if len(self._hops) >= MOST_NEXT_HOPS:
                self._hops, self._forgot = {}, True
            self._hops[next_hop] = self._resolved(next_hop)
        return self._hops[next_hop]

    def _resolved(self, next_hop: IPAddress) -> Hop | None:
        if self.ours(next_hop):
            return None
        try:
            way = self.kernel.next_hop(next_hop)
        except KernelError:
            return None
        return None if way.local else Hop(way.device, way.gateway or next_hop)


def ends(own: Subnets) -> tuple[Route, ...]:
    """What is for no pod of ours ends here: sent on, it would come back for as long as its time to live lasts."""
    return tuple(Route(subnet, kind=RouteKind.BLACKHOLE, metric=OWN_METRIC) for subnet in own)
