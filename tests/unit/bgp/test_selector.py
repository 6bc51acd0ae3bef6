"""Selectors: Kubernetes' grammar, and addresses."""

from __future__ import annotations

import re
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgp.selector import EVERY_HOST, parse_selector
from flanneld.config import ConfigError

KEY = "Backend.Hosts[0].Select"
HOST = {"name": "h1", "address": "10.0.1.7,fd00:1::7", "rack": "r1", "role": "edge", "empty": "", "example.com/zone": "a"}


def matches(text: str) -> bool:
    return parse_selector(text, KEY).matches(HOST)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "  ",
        "rack=r1",
        "rack == r1",
        "rack=r1,role==edge",
        " rack = r1 , role != core ",
        "rack in (r1, r2)",
        "rack in(r2,r1)",
        "rack notin (r2, r3)",
        "other notin (r2)",
        "other!=r1",
        "role",
        "!other",
        "! other,role",
        "empty=",
        "empty in (,x)",
        "rack!=",
        "example.com/zone=a",
        "name=h1",
        "name in (h1, h2)",
        "address=10.0.1.7",
        "address in (10.0.1.0/24)",
        "address == fd00:1::/64",
        "address notin (10.0.2.0/24, fd00:2::/64)",
        "address != 10.0.2.0/24",
        "address",
    ],
)
def test_this_host_is_chosen(text: str) -> None:
    assert matches(text)


@pytest.mark.parametrize(
    "text",
    [
        "rack=r2",
        "rack=r1,role=core",
        "rack!=r1",
        "rack in (r2,r3)",
        "rack notin (r1)",
        "other=r1",
        "other in (r1)",
        "other",
        "!rack",
        "Rack=r1",
        "rack=R1",
        "empty!=",
        "address=10.0.1.8",
        "address notin (10.0.1.0/24)",
        "address != fd00:1::/64",
        "!address",
    ],
)
def test_this_host_is_not_chosen(text: str) -> None:
    assert not matches(text)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (",", 'expected a label\'s name at character 1, before ","'),
        ("rack=r1,", 'expected a label\'s name at the end, after "rack=r1,"'),
        ("=r1", "expected a label's name at character 1"),
        ("!", "expected a label's name at the end"),
        ("!!rack", "expected a label's name at character 2"),
        ("rack r1", 'expected =, ==, !=, in, notin, a comma or the end at character 6, before "r1", after "rack "'),
        ("rack=r1 role=edge", "expected a comma or the end at character 9"),
        ("rack===r1", "expected a value of letters, digits, '-', '_' and '.' at character 7"),
        ("rack=r1=r2", "expected a comma or the end at character 8"),
        ("rack in r1", "expected an opening parenthesis at character 9"),
        ("rack in (r1", "expected a comma or a closing parenthesis at the end"),
        ("rack in (r1 r2)", "expected a comma or a closing parenthesis at character 13"),
        ("rack in (r1))", "expected a comma or the end at character 13"),
        ("rack > 1", "expected =, ==, !=, in, notin, a comma or the end at character 6"),
        ("-rack", "expected a label's name at character 1"),
        ("a/b/c", "expected a label's name at character 1"),
        ("rack=r1-", "expected a value of letters"),
        ("rack=" + "r" * 254, "expected a value of letters"),
        ("räck", r'''expected a label's name at character 1, before "r\u00e4ck"'''),
        ("address=", "expected an address or a network like 10.0.1.0/24 at the end"),
        ("address=10.0.1", "expected an address or a network like 10.0.1.0/24 at character 9"),
        ("address in (10.0.1.7/24)", "expected an address or a network like 10.0.1.0/24 at character 13"),
        ("address=fe80::1%eth0", "expected an address or a network like 10.0.1.0/24 at character 9"),
    ],
)
def test_an_error_names_the_key_and_shows_the_place(text: str, why: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse_selector(text, KEY)
    assert str(error.value).startswith(f"{KEY}: {why}")


def test_a_long_text_is_shown_around_the_place_only() -> None:
    with pytest.raises(ConfigError, match=r"^.{1,200}$"):
        parse_selector("rack=r1," * 1000 + "=" + ",rack=r1" * 1000, KEY)


def test_no_requirement_is_every_host() -> None:
    assert parse_selector("", KEY) == EVERY_HOST
    assert EVERY_HOST.matches({})


def test_an_address_label_that_is_none_is_in_no_network() -> None:
    assert not parse_selector("address in (10.0.0.0/8)", KEY).matches({"address": "here,10.0.0.300"})


PIECES = st.sampled_from(
    ["rack", "address", "in", "notin", " ", "(", ")", ",", "=", "==", "!=", "!", "10.0.0.0/8", "::1", "\n", "é", "/"]
)


@given(st.text() | st.lists(PIECES).map("".join), st.dictionaries(st.sampled_from(["rack", "address", "in"]), st.text()))
def test_any_text_is_a_selector_or_a_config_error(text: str, labels: dict[str, str]) -> None:
    with suppress(ConfigError):
        assert parse_selector(text, KEY).matches(labels) in (True, False)


LABELS = st.dictionaries(st.sampled_from(["rack", "role"]), st.sampled_from(["r1", "r2"]))
CHOICE = st.sampled_from(["rack=r1", "rack in (r1,r2)", "role", "rack=r1,role in (r2)"])


@given(CHOICE, LABELS)
def test_requirements_hold_together_and_a_negation_is_the_opposite(text: str, labels: dict[str, str]) -> None:
    each = [parse_selector(part, KEY).matches(labels) for part in re.split(r",(?![^(]*\))", text)]
    assert parse_selector(text, KEY).matches(labels) == all(each)
    for yes, no in (("rack=r1", "rack!=r1"), ("rack in (r1,r2)", "rack notin (r1,r2)"), ("role", "!role")):
        assert parse_selector(yes, KEY).matches(labels) != parse_selector(no, KEY).matches(labels)
