"""flanneld.kernel.reconcile, on a kernel in memory."""

from __future__ import annotations

import errno
from ipaddress import ip_address, ip_network

from hypothesis import given
from hypothesis import strategies as st

from flanneld.kernel import Entry, FdbEntry, Neighbour, Owner, Route, in_dependency_order, reconcile
from kernel_entries import POD_NETWORKS, desired, entries
from memory_kernel import MemoryKernel

OURS, THEIRS = 7, 8
OWNER = Owner(POD_NETWORKS, frozenset((OURS,)))
PEER = ip_network("10.244.2.0/24")
ENTRIES = st.frozensets(entries((OURS, THEIRS), (OURS, THEIRS)))


@given(present=ENTRIES, wanted=ENTRIES)
def test_from_any_kernel_reconcile_ends_at_desired(present: frozenset[Entry], wanted: frozenset[Entry]) -> None:
    kernel, want = MemoryKernel(present), desired(OWNER, wanted)
    report = reconcile(kernel, OWNER, want)
    assert kernel.entries(OWNER) == want
    assert report.added == want - present
    assert not report.refused


@given(present=ENTRIES, wanted=ENTRIES)
def test_a_second_reconcile_does_nothing(present: frozenset[Entry], wanted: frozenset[Entry]) -> None:
    kernel, want = MemoryKernel(present), desired(OWNER, wanted)
    reconcile(kernel, OWNER, want)
    kernel.calls.clear()
    assert not reconcile(kernel, OWNER, want).changed
    assert not kernel.calls


@given(present=ENTRIES, wanted=ENTRIES)
def test_foreign_entries_stay_unless_their_slot_is_wanted(present: frozenset[Entry], wanted: frozenset[Entry]) -> None:
    kernel, want = MemoryKernel(present), desired(OWNER, wanted)
    reconcile(kernel, OWNER, want)
    taken = {entry.slot for entry in want}
    assert kernel.present >= {entry for entry in present if not OWNER.owns(entry) and entry.slot not in taken}


@given(present=ENTRIES, wanted=ENTRIES, refused=ENTRIES)
def test_what_was_refused_is_tried_again(present: frozenset[Entry], wanted: frozenset[Entry], refused: frozenset[Entry]) -> None:
    kernel, want = MemoryKernel(present), desired(OWNER, wanted)
    kernel.refusals = dict.fromkeys(refused, errno.ENETUNREACH)
    report = reconcile(kernel, OWNER, want)
    assert {error.what for error in report.refused} <= refused
    assert not report.added & refused
    kernel.refusals.clear()
    reconcile(kernel, OWNER, want)
    assert kernel.entries(OWNER) == want


def test_a_peer_that_moved_is_reachable_all_the_time() -> None:
    old, new = (Route(PEER, OURS, ip_address(gateway)) for gateway in ("10.0.0.2", "10.0.0.3"))
    kernel = MemoryKernel([old])
    reconcile(kernel, OWNER, [new])
    assert kernel.calls == [("add", frozenset((new,))), ("remove", frozenset((old,)))]


def test_a_neighbour_whose_mac_changed_is_not_removed() -> None:
    address = ip_address("10.244.2.0")
    old, new = (Neighbour(OURS, address, mac) for mac in ("02:00:00:00:00:0a", "02:00:00:00:00:0b"))
    kernel = MemoryKernel([old])
    reconcile(kernel, OWNER, [new])
    assert kernel.calls == [("add", frozenset((new,)))]


def test_a_route_comes_after_what_its_packets_need() -> None:
    route = Route(PEER, OURS, ip_address("10.244.2.0"), onlink=True)
    neighbour = Neighbour(OURS, ip_address("10.244.2.0"), "02:00:00:00:00:0a")
    fdb = FdbEntry(OURS, "02:00:00:00:00:0a", ip_address("172.31.0.2"))
    assert in_dependency_order([route, fdb, neighbour]) == [neighbour, fdb, route]
