"""Routes that the kernel had from before us, for as long as it may be that they are still right; must not know sessions' making.

A daemon that starts knows nothing yet. What an earlier one has programmed goes when the neighbour that it leads to has told all:
then it is known better. Nobody waits for another's neighbour.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from bgp.adjacencies import Adjacencies
from flanneld.kernel import Kernel, Owner, Route, RouteKind
from flanneld.lease import IPAddress, IPNetwork


class KeptRoutes:
    """Those of one method."""

    def __init__(self, kernel: Kernel, owner: Owner, of_pods: Callable[[IPAddress], bool], keep_s: float) -> None:
        """`of_pods`: true for pods' addresses, by which an overlay's routes lead. After `keep_s` nothing is kept any more."""
        self._kernel, self._owner, self._of_pods = kernel, owner, of_pods
        self._over_at = time.monotonic() + keep_s
        self._routes: dict[IPNetwork, Route] | None = None
        """None: not read yet."""

    def __bool__(self) -> bool:
        return bool(self._routes)

    def now(self, adjacencies: Adjacencies) -> dict[IPNetwork, Route]:
        """What is left of them."""
        if self._routes is None:
            self._routes = self._read()
        if self._routes and (time.monotonic() > self._over_at or adjacencies.settled):
            self._routes = {}
        if self._routes:
            heard = {peer for peer in adjacencies.aim.neighbours if adjacencies.heard_all(peer)}
            elsewhere = adjacencies.aim.policy.elsewhere
            self._routes = {
                prefix: route
                for prefix, route in self._routes.items()
                if prefix not in elsewhere and not any(hop.gateway in heard for hop in route.ways)
            }
        return self._routes

    def _read(self) -> dict[IPNetwork, Route]:
        routes = (entry for entry in self._kernel.entries(self._owner) if isinstance(entry, Route))
        return {route.destination: route for route in routes if route.kind is RouteKind.UNICAST and self._may_be_ours(route)}

    def _may_be_ours(self, route: Route) -> bool:
        gateways = [hop.gateway for hop in route.ways]
        return all(gateway is not None and not self._of_pods(gateway) for gateway in gateways)
