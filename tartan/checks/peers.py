"""Each peer's plan against what is in the kernel: what is missing, what leads elsewhere, what nobody needs; pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from flanneld.backend import Plan, Refusal
from flanneld.kernel import Entry, FdbEntry, Hop, Neighbour, Route
from flanneld.lease import Lease
from flanneld.store import holder
from tartan.checks.finding import Finding, counted, error, ok, warning

DOWN = "start flanneld: it puts this right"
BUSY = "flanneld should have put this right within a second: see in its log what keeps it; restart it"

MOST = 30
"""Findings; who needs more has one cause for all of them."""


@dataclass(frozen=True, slots=True)
class Words:
    """How entries are told to people."""

    devices: Mapping[int, str]
    """Names of devices by index."""
    flanneld_runs: bool

    @property
    def remedy(self) -> str:
        return BUSY if self.flanneld_runs else DOWN

    def device(self, index: int) -> str:
        return self.devices.get(index, "a device that is not there")

    def key(self, entry: Entry) -> str:
        """What the entry is for."""
        if isinstance(entry, Route):
            return f"route to {entry.destination}"
        if isinstance(entry, Neighbour):
            return f"neighbour entry for {entry.address} on {self.device(entry.device)}"
        return f"FDB entry for {entry.mac} on {self.device(entry.device)}"

    def target(self, entry: Entry) -> str:
        """What it leads to."""
        if isinstance(entry, Route):
            return " and ".join(self._way(hop) for hop in entry.ways) or "nowhere"
        return entry.mac if isinstance(entry, Neighbour) else str(entry.destination)

    def _way(self, hop: Hop) -> str:
        via = f"via {hop.gateway} " if hop.gateway else ""
        return f"{via}dev {self.device(hop.device)}" + (f" weight {hop.weight}" if hop.weight != 1 else "")

    def shown_by(self, entry: Entry) -> str:
        if isinstance(entry, Route):
            return f"ip {'-6 ' if entry.destination.version == 6 else ''}route show {entry.destination}"
        program = "bridge fdb" if isinstance(entry, FdbEntry) else "ip neigh"
        return f"{program} show dev {self.device(entry.device)}"


def check_peers(plans: Mapping[Lease, Plan], shared: Collection[Entry], have: Collection[Entry], words: Words) -> list[Finding]:
    """`have` is everything of the owner's in the kernel."""
    in_slot: dict[object, list[Entry]] = {}
    for entry in have:
        in_slot.setdefault(entry.slot, []).append(entry)
    wanted: dict[Entry, Lease | None] = dict.fromkeys(shared)
    claimed: dict[object, tuple[Entry, Lease | None]] = {entry.slot: (entry, None) for entry in shared}
    found: list[Finding] = [finding for entry in shared for finding in _compare(entry, "all peers", in_slot, words)]
    for peer, plan in plans.items():
        if isinstance(plan, Refusal):
            found.append(_refused(plan))
            continue
        for entry in plan:
            other = claimed.setdefault(entry.slot, (entry, peer))
            if other[0] != entry:
                found.append(_rivals(entry, peer, other))
                continue
            wanted[entry] = peer
            found += _compare(entry, named(peer), in_slot, words)
    found += _stale(have, wanted, words)
    if lost := sum(not devices(entry) <= words.devices.keys() for entry in wanted):
        found.append(error("peers", f"{lost} entries have no device to be on", "ip link", words.remedy))
    programmed = sum(not isinstance(plan, Refusal) for plan in plans.values())
    if len(found) > MOST:
        more = error("peers", f"and {len(found) - MOST} more, of {programmed} peers", "tartan leases; ip route", words.remedy)
        return [*found[:MOST], more]
    return found or [ok("peers", f"{counted(programmed, 'peer')}, {len(wanted)} entries in the kernel, all as leases say")]


def devices(entry: Entry) -> frozenset[int]:
    """The indexes of those that it is on; of a route, that it leads to."""
    return frozenset(hop.device for hop in entry.ways) if isinstance(entry, Route) else frozenset((entry.device,))


def named(peer: Lease) -> str:
    """A peer as its people know it."""
    return f"peer {holder(peer)} ({peer})"


def _compare(entry: Entry, whose: str, in_slot: Mapping[object, Collection[Entry]], words: Words) -> Iterator[Finding]:
    present = in_slot.get(entry.slot, ())
    if entry in present or not devices(entry) <= words.devices.keys():
        return
    should = f"its lease says it should lead to {words.target(entry)}"
    if whose == "all peers":
        should = f"it should lead to {words.target(entry)}"
    if present:
        is_now = " and ".join(words.target(other) for other in present)
        why = f"{whose}: {words.key(entry)} leads to {is_now}; {should}"
    else:
        why = f"{whose}: no {words.key(entry)}; {should}"
    yield error("peers", why, words.shown_by(entry), words.remedy)


def _stale(have: Collection[Entry], wanted: Mapping[Entry, Lease | None], words: Words) -> Iterator[Finding]:
    """What no lease asks for, unless it was told already as another's that leads elsewhere."""
    slots = {entry.slot for entry in wanted}
    present = {entry.slot for entry in have if entry in wanted}
    for entry in sorted(have, key=str):
        if entry in wanted or (entry.slot in slots and entry.slot not in present):
            continue
        why = f"stale {words.key(entry)}, which leads to {words.target(entry)}: no lease asks for it"
        yield error("peers", why, words.shown_by(entry), words.remedy)


def _refused(refusal: Refusal) -> Finding:
    why = f"{named(refusal.lease)} cannot be reached: {refusal.why}"
    if refusal.foreign:
        remedy = "if it is a member of this network, restart its flanneld with this network config; if not, delete its key"
        return warning("peers", why, "tartan leases", remedy)
    return error("peers", why, "tartan leases", "see what its flanneld says; correct the network config, or its --public-ip")


def _rivals(entry: Entry, peer: Lease, other: tuple[Entry, Lease | None]) -> Finding:
    held, by = other
    whom = named(by) if by else "all peers"
    why = f"{named(peer)} needs {entry}, where {whom} needs {held}: one machine may be a clone of the other, or has moved"
    return error("peers", why, "tartan leases", "delete the key of the one that is no more")
