"""bgp.policy.parse_rules: the rules as they are written in the network config."""

from __future__ import annotations

import json
from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgp.path import Asn
from bgp.policy import Changes, Match, Rule, parse_rules
from flanneld.config import ConfigError

KEY = "Backend.Peers[0].Import"
FULL = """
[{"Match": {"Prefix": "10.244.0.0/16", "Lengths": [24, 32], "Communities": ["64512:1", "no-export"], "OriginAS": 65001,
            "ASInPath": 65101, "Family": 4},
  "Action": "accept", "Set": {"LocalPref": 200, "MED": 5, "Communities": ["64512:7"], "Prepend": 2}},
 {"match": {"PREFIX": "fd00::/16"}, "action": "REFUSE"},
 {"Action": "accept"}]
"""


def test_rules_are_read_in_their_order_and_in_any_letter_case() -> None:
    communities = frozenset({(64512, 1), (65535, 65281)})
    assert parse_rules(json.loads(FULL), KEY) == (
        Rule(
            Match(ip_network("10.244.0.0/16"), (24, 32), communities, Asn(65001), Asn(65101), 4),
            accept=True,
            changes=Changes(200, 5, frozenset({(64512, 7)}), 2),
        ),
        Rule(Match(ip_network("fd00::/16")), accept=False),
        Rule(),
    )


@pytest.mark.parametrize("value", [None, []])
def test_no_rules_are_none(value: object) -> None:
    assert parse_rules(value, KEY) == ()


def test_a_null_is_as_good_as_nothing() -> None:
    nulls = dict.fromkeys(("Prefix", "Lengths", "Communities", "OriginAS", "ASInPath", "Family"))
    assert parse_rules([{"Match": nulls, "Action": "accept", "Set": None}], KEY) == (Rule(),)


@pytest.mark.parametrize(
    ("match", "lengths"),
    [({"Lengths": [0, 32]}, (0, 32)), ({"Lengths": [128, 128]}, (128, 128)), ({"Prefix": "10.0.0.0/8", "Lengths": [0, 8]}, (0, 8))],
)
def test_lengths_reach_from_one_end_to_the_other(match: dict[str, object], lengths: tuple[int, int]) -> None:
    (rule,) = parse_rules([{"Match": match, "Action": "accept"}], KEY)
    assert rule.match.lengths == lengths


WRONG: list[tuple[object, str, str]] = [
    ({}, "", "expected a list, got {}"),
    ("accept", "", 'expected a list, got "accept"'),
    ([None], "[0]", "expected an object, got none"),
    ([{"Action": "accept"}, 7], "[1]", "expected an object, got 7"),
    ([{}], "[0].Action", 'expected "accept" or "refuse", got none'),
    ([{"Action": "drop"}], "[0].Action", 'expected "accept" or "refuse", got "drop"'),
    ([{"Action": True}], "[0].Action", 'expected "accept" or "refuse", got true'),
    ([{"Action": "accept", "When": 1}], "[0].When", "unknown key, got 1"),
    ([{"Action": "refuse", "Set": {"MED": 1}}], "[0].Set", "expected none in a rule that refuses, got {'MED': 1}"),
    ([{"Action": "accept", "Match": []}], "[0].Match", "expected an object, got []"),
    ([{"Action": "accept", "Set": 1}], "[0].Set", "expected an object, got 1"),
]
WRONG_MATCH: list[tuple[object, str, str]] = [
    ({"Prefixes": 1}, "Prefixes", "unknown key, got 1"),
    *(
        ({"Prefix": prefix}, "Prefix", f"expected a network like 10.244.0.0/16 or fd00:244::/48, got {json.dumps(prefix)}")
        for prefix in ("10.244.0.0", "10.244.0.1/16", "10.244.0.0/33", "10.244.0.0/255.255.0.0", "fe80::%1/64", "all", "/8", 10)
    ),
    ({"Lengths": 24}, "Lengths", "expected [shortest, longest] from 0 to 128, got 24"),
    ({"Lengths": []}, "Lengths", "expected [shortest, longest] from 0 to 128, got []"),
    ({"Lengths": [24]}, "Lengths", "expected [shortest, longest] from 0 to 128, got [24]"),
    ({"Lengths": [24, 16]}, "Lengths", "expected [shortest, longest] from 0 to 128, got [24, 16]"),
    ({"Lengths": [-1, 16]}, "Lengths", "expected [shortest, longest] from 0 to 128, got [-1, 16]"),
    ({"Lengths": [0, 129]}, "Lengths", "expected [shortest, longest] from 0 to 128, got [0, 129]"),
    ({"Lengths": [False, True]}, "Lengths", "expected [shortest, longest] from 0 to 128, got [False, True]"),
    ({"Lengths": [0, 33], "Family": 4}, "Lengths", "expected [shortest, longest] from 0 to 32, got [0, 33]"),
    (
        {"Lengths": [8, 15], "Prefix": "10.244.0.0/16"},
        "Lengths",
        "expected [shortest, longest] from 0 to 32 and the last 16 or more, as Prefix 10.244.0.0/16 has, got [8, 15]",
    ),
    ({"Communities": "64512:1"}, "Communities", 'expected a list, got "64512:1"'),
    ({"Communities": []}, "Communities", "expected one community at least, got []"),
    (
        {"Communities": ["64512:1", "x"]},
        "Communities[1]",
        'expected two numbers up to 65535 like 64512:100, or graceful-shutdown, no-export, no-advertise, got "x"',
    ),
    ({"OriginAS": 0}, "OriginAS", "expected a whole number from 1 to 4294967295, got 0"),
    ({"OriginAS": 1.5}, "OriginAS", "expected a whole number from 1 to 4294967295, got 1.5"),
    ({"ASInPath": 2**32}, "ASInPath", "expected a whole number from 1 to 4294967295, got 4294967296"),
    ({"ASInPath": True}, "ASInPath", "expected a whole number from 1 to 4294967295, got true"),
    ({"Family": 5}, "Family", "expected 4 or 6, got 5"),
    ({"Family": 6, "Prefix": "10.244.0.0/16"}, "Family", "expected 4, as Prefix 10.244.0.0/16 is, got 6"),
]
WRONG_SET: list[tuple[object, str, str]] = [
    ({"Community": 1}, "Community", "unknown key, got 1"),
    ({"LocalPref": -1}, "LocalPref", "expected a whole number from 0 to 4294967295, got -1"),
    ({"MED": "5"}, "MED", 'expected a whole number from 0 to 4294967295, got "5"'),
    ({"Prepend": 33}, "Prepend", "expected a whole number from 0 to 32, got 33"),
    ({"Communities": []}, "Communities", "expected one community at least, got []"),
]


@pytest.mark.parametrize(("value", "where", "why"), WRONG)
def test_a_wrong_rule_is_named_with_its_value(value: object, where: str, why: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse_rules(value, KEY)
    assert (error.value.key, error.value.why) == (f"{KEY}{where}", why)


@pytest.mark.parametrize(("match", "where", "why"), WRONG_MATCH)
def test_a_wrong_match_is_named_with_its_value(match: object, where: str, why: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse_rules([{"Action": "accept"}, {"Match": match, "Action": "accept"}], KEY)
    assert (error.value.key, error.value.why) == (f"{KEY}[1].Match.{where}", why)


@pytest.mark.parametrize(("changes", "where", "why"), WRONG_SET)
def test_a_wrong_change_is_named_with_its_value(changes: object, where: str, why: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse_rules([{"Set": changes, "Action": "accept"}], KEY)
    assert (error.value.key, error.value.why) == (f"{KEY}[0].Set.{where}", why)


MATCH_KEYS = ("Prefix", "Lengths", "Communities", "OriginAS", "ASInPath", "Family", "family")
SET_KEYS = ("LocalPref", "MED", "Communities", "Prepend", "PREPEND")
leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(["10.0.0.0/8", "1:1", 4, 6, 24, 32])
values = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=2), max_leaves=5
)
objects = [st.fixed_dictionaries({}, optional=dict.fromkeys(keys, values)) for keys in (MATCH_KEYS, SET_KEYS)]
actions = st.sampled_from(["accept", "refuse"]) | values
rules = st.fixed_dictionaries({"Action": actions}, optional={"Match": objects[0] | values, "Set": objects[1] | values})


@given(st.lists(rules | values) | values)
def test_any_json_is_rules_or_a_config_error_under_its_key(value: object) -> None:
    try:
        where, found = KEY, parse_rules(value, KEY)
    except ConfigError as error:
        where, found = error.key, ()
    assert where.startswith(KEY)
    assert all(isinstance(rule, Rule) for rule in found)
