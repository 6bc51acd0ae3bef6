"""What routers say of one route's attributes, and how BIRD and FRR are had to ask for all anew; must not know flanneld."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from bgp.path import Asn, Community
from flanneld.lease import IPAddress, IPNetwork, family_of
from router import Router
from routers import Bird, Frr


@dataclass(frozen=True)
class View:
    """A route as the router was told of it."""

    as_path: tuple[Asn, ...]
    med: int | None
    communities: frozenset[Community]


async def view_of(router: Router, prefix: IPNetwork) -> View | None:
    """The only path to the prefix; None: there is none."""
    if isinstance(router, Bird):
        return _of_bird(await router.ask(f"show route {prefix} all"))
    if isinstance(router, Frr):
        return _of_frr(await router.ask(f"show bgp ipv{family_of(prefix)} unicast {prefix} json"))
    return _of_gobgp(await router.ask("-j", "global", "rib", "-a", f"ipv{family_of(prefix)}"), str(prefix))


def _of_bird(told: str) -> View | None:
    if "BGP.origin" not in told:
        return None
    said = dict(re.findall(r"BGP\.(\w+): ?(.*)", told))
    return View(
        tuple(Asn(int(asn)) for asn in said["as_path"].split()),
        int(said["med"]) if "med" in said else None,
        frozenset((int(high), int(low)) for high, low in re.findall(r"\((\d+),(\d+)\)", said.get("community", ""))),
    )


def _of_frr(told: str) -> View | None:
    paths = json.loads(told).get("paths", [])
    if not paths:
        return None
    (path,) = paths
    return View(
        tuple(Asn(int(asn)) for asn in path["aspath"]["string"].split()),
        path.get("metric"),
        frozenset(map(_community, path.get("community", {}).get("list", ()))),
    )


def _community(text: str) -> Community:
    high, low = text.split(":")
    return int(high), int(low)


def _of_gobgp(told: str, prefix: str) -> View | None:
    paths = json.loads(told).get(prefix, [])
    if not paths:
        return None
    attributes = {attribute["type"]: attribute for attribute in paths[0]["attrs"]}
    return View(
        tuple(Asn(asn) for segment in attributes[2]["as_paths"] for asn in segment["asns"]),
        attributes[4]["metric"] if 4 in attributes else None,
        frozenset(divmod(number, 1 << 16) for number in attributes.get(8, {}).get("communities", ())),
    )


async def updates_from(router: Router, neighbour: IPAddress) -> int:
    """How many announcements of IPv4 routes it has counted."""
    if isinstance(router, Bird):
        told = await router.ask(f"show protocols all {_protocol(neighbour)}")
        return int(re.findall(r"Import updates: +(\d+)", told)[0])  # IPv4's channel is the first
    told = json.loads(await router.ask(f"show bgp neighbors {neighbour} json"))
    return int(told[str(neighbour)]["messageStats"]["updatesRecv"])


async def ask_anew(router: Router, neighbour: IPAddress) -> None:
    """Send a ROUTE-REFRESH (RFC 2918)."""
    if isinstance(router, Bird):
        await router.ask(f"reload in {_protocol(neighbour)}")
    else:
        await router.ask(f"clear bgp ipv4 unicast {neighbour} soft in")


def _protocol(neighbour: IPAddress) -> str:
    return f"peer_{neighbour}".translate(str.maketrans(".:", "__"))
