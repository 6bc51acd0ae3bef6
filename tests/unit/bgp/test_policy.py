"""bgp.policy: which announcements the rules are for, and what they make of them."""

from __future__ import annotations

from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgp.path import GRACEFUL_SHUTDOWN, Asn, Path
from bgp.policy import Changes, Match, Rule, decide, parse_community, render_community
from bgp_announcements import OUR_AS, POOL, said, told

REFUSE_ALL = Rule(accept=False)
TAGGED = told(2, "10.244.2.0/24", ases=(65101, 65001), attributes=said(communities=((64512, 1),)))
PLAIN = told(2, "10.244.2.0/24")
IPV6 = told(2, "fd00:244:0:2::/64")

MATCHES: dict[str, tuple[Match, Path, bool]] = {
    "nothing said": (Match(), PLAIN, True),
    "inside": (Match(POOL.network), PLAIN, True),
    "the network itself": (Match(PLAIN.prefix), PLAIN, True),
    "outside": (Match(ip_network("10.245.0.0/16")), PLAIN, False),
    "shorter than the network": (Match(ip_network("10.244.2.0/25")), PLAIN, False),
    "network of the other family": (Match(POOL.network), IPV6, False),
    "shortest length": (Match(lengths=(24, 32)), PLAIN, True),
    "longest length": (Match(lengths=(8, 24)), PLAIN, True),
    "too short": (Match(lengths=(25, 32)), PLAIN, False),
    "too long": (Match(lengths=(8, 23)), PLAIN, False),
    "one of the communities": (Match(communities=frozenset({(64512, 1), (64512, 2)})), TAGGED, True),
    "another community": (Match(communities=frozenset({(64512, 2)})), TAGGED, False),
    "no community": (Match(communities=frozenset({(64512, 1)})), PLAIN, False),
    "origin AS": (Match(origin_as=Asn(65001)), TAGGED, True),
    "AS on the way is no origin": (Match(origin_as=Asn(65101)), TAGGED, False),
    "origin in our AS (RFC 6811 §2)": (Match(origin_as=OUR_AS), PLAIN, True),
    "origin of an aggregate": (Match(origin_as=Asn(65001)), told(2, "10.244.2.0/24", ases=(65001,), sets=(frozenset(),)), False),
    "AS in path": (Match(as_in_path=Asn(65101)), TAGGED, True),
    "AS not in path": (Match(as_in_path=Asn(65102)), TAGGED, False),
    "AS in a set": (Match(as_in_path=Asn(7)), told(2, "10.244.2.0/24", sets=(frozenset({Asn(7)}),)), True),
    "family": (Match(family=6), IPV6, True),
    "other family": (Match(family=6), PLAIN, False),
    "all but one": (Match(POOL.network, (24, 24), origin_as=Asn(65001)), PLAIN, False),
}


@pytest.mark.parametrize(("match", "path", "holds"), MATCHES.values(), ids=MATCHES)
def test_a_rule_is_for_paths_that_meet_all_it_says(match: Match, path: Path, holds: bool) -> None:
    assert match.holds(path, OUR_AS) == holds


def test_without_rules_a_path_is_accepted_as_it_is() -> None:
    assert decide((), TAGGED, OUR_AS, OUR_AS) is TAGGED


def test_where_no_rule_matches_a_path_is_accepted_as_it_is() -> None:
    assert decide((Rule(Match(family=6), accept=False),), TAGGED, OUR_AS, OUR_AS) is TAGGED


def test_the_first_rule_that_matches_decides() -> None:
    lower, raise_it = Rule(Match(family=6), changes=Changes(local_pref=50)), Rule(changes=Changes(local_pref=200))
    path = decide((lower, raise_it, REFUSE_ALL), PLAIN, OUR_AS, OUR_AS)
    assert isinstance(path, Path)
    assert path.attributes.local_pref == 200


def test_a_refusal_names_the_rule_and_what_it_is_for() -> None:
    match = Match(POOL.network, (25, 32), frozenset({(64512, 1), GRACEFUL_SHUTDOWN}), Asn(65001), Asn(65101), 4)
    path = told(2, "10.244.2.7/32", ases=(65101, 65001), attributes=said(communities=((64512, 1),)))
    assert decide((Rule(Match(family=6)), Rule(match, accept=False)), path, OUR_AS, OUR_AS) == (
        "rule [1] refuses it: family 4, prefix in 10.244.0.0/16, length 25 to 32, "
        "community 64512:1 or graceful-shutdown, origin AS 65001, AS in path 65101"
    )


def test_a_refusal_by_a_rule_for_all_says_so() -> None:
    assert decide((REFUSE_ALL,), PLAIN, OUR_AS, OUR_AS) == "rule [0] refuses it: everything"


def test_a_rule_sets_what_it_names_and_leaves_the_rest() -> None:
    changes = Changes(local_pref=200, communities=frozenset({(64512, 7)}), prepend=2)
    path = decide((Rule(changes=changes),), TAGGED, OUR_AS, Asn(65101))
    expected = told(
        2, "10.244.2.0/24", ases=(65101, 65101, 65101, 65001), attributes=said(200, communities=((64512, 1), (64512, 7)))
    )
    assert path == expected


@pytest.mark.parametrize(("local_pref", "med"), [(0, None), (None, 0), (0, 0)])
def test_a_zero_is_set_and_nothing_is_not(local_pref: int | None, med: int | None) -> None:
    path = decide((Rule(changes=Changes(local_pref, med)),), told(2, "10.244.2.0/24", attributes=said(5, 6)), OUR_AS, OUR_AS)
    assert isinstance(path, Path)
    assert path.attributes.local_pref == (5 if local_pref is None else 0)
    assert path.attributes.med == (6 if med is None else 0)


@given(st.tuples(st.integers(0, 0xFFFF), st.integers(0, 0xFFFF)))
def test_a_community_is_read_as_it_is_written(community: tuple[int, int]) -> None:
    assert parse_community(render_community(community)) == community


@pytest.mark.parametrize(
    ("text", "community"),
    [("graceful-shutdown", (65535, 0)), ("No-Export", (65535, 65281)), ("no-advertise", (65535, 65282)), ("007:1", (7, 1))],
)
def test_well_known_communities_have_names(text: str, community: tuple[int, int]) -> None:
    assert parse_community(text) == community


@pytest.mark.parametrize(
    "text", ["", ":", "1", "1:", ":1", "65536:1", "1:65536", "1:2:3", "-1:2", "1: 2", "1:2\n", "²:1", "internet"]
)
def test_other_texts_are_no_communities(text: str) -> None:
    with pytest.raises(ValueError, match="expected two numbers up to 65535 like 64512:100, or graceful-shutdown"):
        parse_community(text)


@given(st.text())
def test_any_text_is_a_community_or_a_value_error(text: str) -> None:
    try:
        high, low = parse_community(text)
    except ValueError:
        return
    assert max(high, low) <= 0xFFFF
