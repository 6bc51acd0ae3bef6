"""Filters: both spellings, every kind of match, and the query they come in."""

from __future__ import annotations

import pytest

from runtime.docker_api.exchange import Query
from runtime.docker_api.filters import Filters, parse_filters, parse_moment
from runtime.docker_api.image_list import glob_expression
from runtime.docker_api.target import split_target
from runtime.errors import InvalidParameter

ACCEPTED = ("name", "label", "dangling")


@pytest.mark.parametrize("text", ['{"name":{"a":true,"b":true}}', '{"name":["a","b"]}'])
def test_new_and_old_clients_spell_filters_differently(text: str) -> None:
    assert parse_filters(text, ACCEPTED).get("name") == ("a", "b")


@pytest.mark.parametrize("text", ["{", "[]", '"x"', '{"name":"a"}', '{"name":[1]}', '{"nmae":["a"]}', "\x00"])
def test_what_is_no_filter_is_refused(text: str) -> None:
    with pytest.raises(InvalidParameter):
        parse_filters(text, ACCEPTED)


def test_a_key_nobody_knows_is_named() -> None:
    with pytest.raises(InvalidParameter, match="invalid filter 'nmae'"):
        parse_filters('{"nmae":["a"]}', ACCEPTED)


def test_no_filter_lets_everything_pass() -> None:
    filters = parse_filters("", ACCEPTED)
    assert filters.finds("name", ("a",))
    assert filters.is_one("name", ("a",))
    assert filters.begins("name", ("a",))
    assert filters.labels({})


def test_names_are_found_inside_and_by_expression_and_a_bad_expression_finds_itself() -> None:
    assert Filters({"name": ("eb",)}).finds("name", ("web",))
    assert Filters({"name": ("^w.b$",)}).finds("name", ("web", "/web"))
    assert not Filters({"name": ("^eb",)}).finds("name", ("web", "/web"))
    assert Filters({"name": ("a[",)}).finds("name", ("a[",))


def test_of_values_one_is_enough_but_of_labels_all_must_be_there() -> None:
    assert Filters({"name": ("a", "b")}).is_one("name", ("b",))
    assert Filters({"label": ("a", "b=1")}).labels({"a": "x", "b": "1"})
    assert not Filters({"label": ("a", "b=1")}).labels({"a": "x", "b": "2"})
    assert not Filters({"label!": ("a",)}).labels({"a": "x"})


def test_a_truth_value_is_one_of_gos() -> None:
    assert Filters({"dangling": ("T",)}).flag("dangling", False)
    assert not Filters({"dangling": ("0",)}).flag("dangling", True)
    assert Filters().flag("dangling", True)
    with pytest.raises(InvalidParameter, match=r"invalid filter 'dangling=\[maybe\]'"):
        Filters({"dangling": ("maybe",)}).flag("dangling", False)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("0", 0),
        ("12", 12_000_000_000),
        ("1.000000001", 1_000_000_001),
        ("1.5", 1_500_000_000),
        ("1970-01-01T00:00:02Z", 2_000_000_000),
    ],
)
def test_a_moment_is_seconds_with_nanoseconds_or_a_date(text: str, moment: int) -> None:
    assert parse_moment(text) == moment


def test_a_filter_may_say_how_long_ago() -> None:
    now = 10_000 * 1_000_000_000
    assert Filters({"until": ("1h1.5s",)}).moment("until", now) == now - 3_601_500_000_000
    assert Filters({"until": ("7",)}).moment("until", now) == 7_000_000_000
    assert Filters().moment("until", now) is None


@pytest.mark.parametrize("text", ["x", "1.x", "1e3", "²", "2020-13-01T00:00:00Z"])
def test_what_is_no_moment_is_refused(text: str) -> None:
    with pytest.raises(InvalidParameter, match="expected seconds since 1970"):
        parse_moment(text)


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("/_ping", ((1, 50), "/_ping", {})),
        ("/v1.24/info?a=1&a=2&b", ((1, 24), "/info", {"a": ["1", "2"], "b": [""]})),
        ("/v1.99/x%2fy", ((1, 99), "/x/y", {})),
        ("//x", ((1, 50), "/x", {})),
        ("/v1/info", ((1, 50), "/v1/info", {})),
        ("*", ((1, 50), "/*", {})),
    ],
)
def test_a_target_is_version_path_and_query(target: str, expected: object) -> None:
    assert split_target(target) == expected


def test_a_flag_of_a_query_is_set_by_anything_but_five_words() -> None:
    values = {"a": ["1"], "b": ["0"], "c": ["False"], "d": ["yes"], "e": [""], "n": ["x"]}
    query = Query(values)
    assert [query.flag(key) for key in "abcde"] == [True, False, False, True, False]
    assert query.flag("z", default=True)
    with pytest.raises(InvalidParameter, match='parsing "x": invalid syntax'):
        query.number("n")


@pytest.mark.parametrize(
    ("pattern", "text", "matches"),
    [
        ("busybox", "busybox", True),
        ("busy*", "busybox:latest", True),
        ("*", "a/b", False),
        ("*/b", "a/b", True),
        ("b?sy", "busy", True),
        ("[a-c]x", "bx", True),
        ("[^a-c]x", "bx", False),
        ("a.b", "axb", False),
        (r"\*", "*", True),
        ("[", "[", True),
        ("[z-a]", "[z-a]", True),
    ],
)
def test_a_glob_is_gos(pattern: str, text: str, matches: bool) -> None:
    assert (glob_expression(pattern).fullmatch(text) is not None) is matches
