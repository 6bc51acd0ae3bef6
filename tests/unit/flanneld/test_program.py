"""Round after round the programmer leaves in the kernel what one round from nothing would."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_address
from typing import TypeAlias

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flanneld.backend import Plan, Refusal, Wanted
from flanneld.kernel import Hop, KernelError, Owner, Route
from flanneld.lease import Lease
from flanneld.program import Programmer, program
from memory_kernel import MemoryKernel
from peers_of import lease

OWNER = Owner((lease(1).subnets[0].supernet(8),))

Rounds: TypeAlias = list[tuple[dict[int, tuple[Route, ...] | None], bool, tuple[Route, ...]]]


def route(subnet: int, gateway: int) -> Route:
    return Route(lease(subnet).subnets[0], 2, ip_address(f"10.0.0.{gateway}"))


def spread(subnet: int, gateways: frozenset[int]) -> Route:
    return Route.by(lease(subnet).subnets[0], [Hop(2, ip_address(f"10.0.0.{gateway}")) for gateway in gateways])


# A few subnets and gateways only, so that plans clash, agree with each other and come back, and with what all need.
ROUTES = st.builds(spread, st.integers(1, 6), st.frozensets(st.integers(1, 3), min_size=1, max_size=2))
PLANS = st.dictionaries(
    st.integers(1, 8), st.one_of(st.lists(ROUTES, max_size=2, unique_by=lambda one: one.slot).map(tuple), st.none()), max_size=8
)

SHARED = st.lists(ROUTES, max_size=3, unique_by=lambda one: one.slot).map(tuple)


def pairs(plans: dict[int, tuple[Route, ...] | None], kept: dict[object, tuple[Lease, Plan]]) -> Sequence[tuple[Lease, Plan]]:
    """As a method hands them over: the same objects for what stays the same."""
    found = []
    for number, plan in plans.items():
        peer = lease(number)
        made = (peer, Refusal(peer, "cannot be") if plan is None else plan)
        found.append(kept.setdefault((number, plan), made))
    return found


@settings(max_examples=400)
@given(st.lists(st.tuples(PLANS, st.booleans(), SHARED), min_size=1, max_size=8))
def test_many_rounds_come_to_what_one_would(rounds: Rounds) -> None:
    programmer, kernel, kept = Programmer(), MemoryKernel(), dict[object, tuple[Lease, Plan]]()
    for plans, disturbed, shared in rounds:
        if disturbed:
            kernel.present = {entry for entry in kernel.present if hash(str(entry)) % 2}
            kernel.present |= {route(9, 1)}
            programmer.forget()
        wanted = Wanted(pairs(plans, kept), shared)
        done = programmer.program(kernel, OWNER, [wanted])
        alone = MemoryKernel()
        expected = program(alone, OWNER, [wanted])
        assert {entry for entry in kernel.present if OWNER.owns(entry)} == alone.present
        assert {str(refusal) for refusal in done.refused} == {str(refusal) for refusal in expected.refused}
        assert done.wanted == expected.wanted
        assert all(programmer.knows(entry, deleted=False) for entry in alone.present)
        assert programmer.knows(route(77, 1), deleted=True)


def test_what_the_kernel_refuses_is_tried_again_by_a_round_that_reads_it() -> None:
    programmer, kernel = Programmer(), MemoryKernel()
    wanted = [Wanted([(lease(1), (route(1, 1),)), (lease(2), (route(2, 2),))])]
    kernel.refusals[route(1, 1)] = 101
    assert [refusal.lease for refusal in programmer.program(kernel, OWNER, wanted).refused] == [lease(1)]
    assert not programmer.knows(route(2, 2), deleted=False), "nothing is known after that"
    kernel.refusals.clear()
    assert programmer.program(kernel, OWNER, wanted).report.added == {route(1, 1)}


def test_what_stays_the_same_is_not_looked_at() -> None:
    programmer, kernel = Programmer(), MemoryKernel()
    wanted = [Wanted([(lease(n), (route(n, n),)) for n in range(1, 9)])]
    programmer.program(kernel, OWNER, wanted)
    kernel.present.clear()
    assert not programmer.program(kernel, OWNER, wanted).report.changed
    programmer.forget()
    assert len(programmer.program(kernel, OWNER, wanted).report.added) == 8


def test_an_error_that_is_no_peers_own_is_raised() -> None:
    programmer, kernel = Programmer(), MemoryKernel()
    kernel.refusals[route(1, 1)] = 1
    with pytest.raises(KernelError):
        programmer.program(kernel, OWNER, [Wanted((), (route(1, 1),))])
