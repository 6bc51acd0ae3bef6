"""bgp.best_path: RFC 4271 §9.1.2.2, step by step, and whatever the order in which the paths are looked at."""

from __future__ import annotations

from itertools import permutations
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgp.best_path import Candidate, compare, equals, local_pref, neighbour_as
from bgp.path import Attributes, Origin
from bgp_announcements import OUR_AS, info, said, told

PREFIX = "10.244.9.0/24"


def by(
    number: int,
    attributes: Attributes | None = None,
    *,
    asn: int = OUR_AS,
    ases: tuple[int, ...] = (),
    path_id: int = 0,
    stale: bool = False,
) -> Candidate:
    """A path by host 10.0.0.number, as a candidate."""
    path = told(number, PREFIX, ases=ases, attributes=attributes, path_id=path_id)
    return Candidate(path, info(number, asn), stale)


BETTER_FIRST: dict[str, tuple[Candidate, Candidate, str]] = {
    "local preference": (by(3, said(101)), by(2), "local preference 100, another 101"),
    "none is 100": (by(3), by(2, said(99)), "local preference 99, another 100"),
    "before the length": (by(3, said(200), ases=(1, 2, 3)), by(2), "local preference 100, another 200"),
    "AS path length": (by(3, ases=(1,)), by(2, ases=(2, 1)), "AS path length 2, another 1"),
    "before the origin": (by(3, said(origin=Origin.INCOMPLETE)), by(2, ases=(1,)), "AS path length 1, another 0"),
    "origin": (by(3), by(2, said(origin=Origin.EGP)), "origin egp, another igp"),
    "before the MED": (by(3, said(med=9)), by(2, said(origin=Origin.INCOMPLETE)), "origin incomplete, another igp"),
    "MED": (by(3, said(med=1), ases=(1,)), by(2, said(med=2), ases=(1,)), "MED 2, another 1"),
    "no MED is 0": (by(3), by(2, said(med=1)), "MED 1, another 0"),
    "eBGP": (by(3, ases=(7,), asn=7), by(2, ases=(6,)), "learned internally, another externally"),
    "before stale": (by(3, ases=(7,), asn=7, stale=True), by(2, ases=(6,)), "learned internally, another externally"),
    "stale": (by(3), by(2, stale=True), "is stale, another fresh"),
}


@pytest.mark.parametrize(("better", "worse", "why"), BETTER_FIRST.values(), ids=BETTER_FIRST)
def test_a_step_leaves_the_better_one_and_says_why(better: Candidate, worse: Candidate, why: str) -> None:
    for candidates in ([better, worse], [worse, better]):
        assert compare(candidates) == ([better], [(worse, why)])


EQUAL_IN_ORDER: dict[str, tuple[Candidate, Candidate]] = {
    "router id": (by(2), by(3)),
    "originator before router id (RFC 4456 §9)": (by(9, said(originator="10.0.0.2")), by(3)),
    "cluster list": (by(9, said(originator="10.0.0.2")), by(8, said(originator="10.0.0.2", clusters=("10.0.0.7",)))),
    "peer's address": (by(8, said(originator="10.0.0.2")), by(9, said(originator="10.0.0.2"))),
    "path id": (by(2, path_id=1), by(2, path_id=2)),
    "MEDs of different neighbours": (by(2, said(med=9), ases=(1,)), by(3, said(med=1), ases=(2,))),
}


@pytest.mark.parametrize(("first", "second"), EQUAL_IN_ORDER.values(), ids=EQUAL_IN_ORDER)
def test_equals_have_an_order(first: Candidate, second: Candidate) -> None:
    assert equals([first, second]) == equals([second, first]) == [first, second]


def test_router_ids_are_compared_as_numbers() -> None:
    assert equals([by(10), by(9)]) == [by(9), by(10)]


def test_meds_are_compared_within_a_neighbour_before_all_else() -> None:
    """The classic circle: by pairs, a loses to b (MED), b to c (router id), c to a (router id)."""
    a, b, c = by(2, said(med=10), ases=(1,)), by(4, said(med=5), ases=(1,)), by(3, said(med=7), ases=(2,))
    for order in permutations((a, b, c)):
        assert equals(order) == [c, b]


attributes = st.builds(
    said,
    st.sampled_from([None, 0, 100, 200]),
    st.sampled_from([None, 0, 5]),
    origin=st.sampled_from(Origin),
    originator=st.sampled_from([None, "10.0.0.3", "10.0.0.30"]),
    clusters=st.sampled_from([(), ("10.0.0.9",)]),
)
neighbours = st.sampled_from([(OUR_AS, ()), (OUR_AS, (7,)), (7, (7,)), (8, (8,)), (8, (8, 7))])
candidates = st.builds(
    lambda number, said_so, neighbour, path_id, stale: by(
        number, said_so, asn=neighbour[0], ases=neighbour[1], path_id=path_id, stale=stale
    ),
    st.integers(2, 12),
    attributes,
    neighbours,
    st.integers(0, 1),
    st.booleans(),
)
sets = st.lists(candidates, min_size=1, max_size=7, unique_by=lambda each: (each.path.peer, each.path.path_id))


@given(sets, st.randoms())
def test_the_order_of_arrival_is_of_no_account(paths: list[Candidate], random: Random) -> None:
    shuffled = paths.copy()
    random.shuffle(shuffled)
    assert equals(shuffled) == equals(paths)


@given(sets)
def test_every_path_is_among_the_best_or_has_a_reason(paths: list[Candidate]) -> None:
    staying, lost = compare(paths)
    assert staying
    assert len(staying) + len(lost) == len(paths)
    assert all(why for _, why in lost)


@given(sets)
def test_the_best_agrees_with_the_rfc_read_by_pairs(paths: list[Candidate]) -> None:
    """Of all that nobody beats before the MED, those that no path of their neighbour beats by MED, and of these the best."""

    def early(each: Candidate) -> tuple[int, ...]:
        told_of = each.path.attributes
        return -local_pref(each), told_of.as_path.length, told_of.origin

    level = [each for each in paths if all(early(each) <= early(other) for other in paths)]
    alike = [[other for other in level if neighbour_as(other) == neighbour_as(each)] for each in level]
    med = [each.path.attributes.med or 0 for each in level]
    fit = [
        each
        for each, others, mine in zip(level, alike, med, strict=True)
        if all(mine <= (other.path.attributes.med or 0) for other in others)
    ]
    late = [(each.peer.session.internal, each.stale) for each in fit]
    assert {id(each) for each in equals(paths)} == {id(each) for each, rank in zip(fit, late, strict=True) if rank == min(late)}
