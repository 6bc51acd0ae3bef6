"""Configurations read as Go reads JSON, with every key accounted for."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni.config import Section, decode_config
from cni.spec import CniError, Code
from cni_refusals import code_of, refusal


def wrong(read: Callable[[], object]) -> str:
    with pytest.raises(CniError) as error:
        read()
    assert error.value.code == Code.INVALID_CONFIG
    return error.value.message


def test_letter_case_does_not_matter_and_the_exact_spelling_counts_first() -> None:
    assert Section({"HostPort": 80}).number("hostPort") == 80
    assert Section({"HOSTPORT": 1, "hostPort": 2}).number("hostPort") == 2
    assert Section({"hostPort": None, "HOSTPORT": 1}).number("hostPort") == 1


def test_null_is_absence() -> None:
    section = Section(dict.fromkeys(("text", "flag", "number", "texts", "part", "list", "unknown")))
    assert (section.text("text", "x"), section.flag("flag", True), section.number("number")) == ("x", True, None)
    assert (section.texts("texts"), section.part("part").values, section.sections("list")) == ((), {}, ())
    assert section.given("text", "flag") == ()
    section.finish()


@pytest.mark.parametrize(
    ("read", "message"),
    [
        (lambda section: section.text("key"), "key: got [1], expected text"),
        (lambda section: section.flag("key"), "key: got [1], expected true or false"),
        (lambda section: section.number("key", 1, 9), "key: got [1], expected a whole number from 1 to 9"),
        (lambda section: section.texts("key"), "key: got [1], expected a list of texts"),
        (lambda section: section.part("key"), "key: got [1], expected an object"),
        (lambda section: section.sections("key"), "key: got 1, expected objects in the list"),
        (lambda section: section.section_lists("key"), "key: got 1, expected a list"),
    ],
)
def test_a_value_of_the_wrong_type_is_shown_with_what_was_expected(read: Callable[[Section], object], message: str) -> None:
    assert wrong(lambda: read(Section({"key": [1]}))) == message


@pytest.mark.parametrize("value", [True, 1.5, "80", -1, 65536])
def test_numbers_are_whole_and_in_range(value: object) -> None:
    assert "expected a whole number from 0 to 65535" in wrong(lambda: Section({"mtu": value}).number("mtu", 0, 65535))


def test_a_choice_is_the_first_word_unless_it_is_another() -> None:
    assert [Section(told).choice("mode", "l2", "l3") for told in ({}, {"mode": ""}, {"mode": "l3"})] == ["l2", "l2", "l3"]
    assert wrong(lambda: Section({"mode": "l4"}).choice("mode", "l2", "l3")) == 'mode: got "l4", expected one of l2, l3'


def test_a_text_is_parsed_or_named() -> None:
    assert Section({"gateway": "10.0.0.1"}).parsed("gateway", ip_address, "an IP address") == ip_address("10.0.0.1")
    assert Section({"gateway": ""}).parsed("gateway", ip_address, "an IP address") is None
    message = wrong(lambda: Section({"gateway": "me"}).parsed("gateway", ip_address, "an IP address"))
    assert message == 'gateway: got "me", expected an IP address'


def test_what_is_wrong_deep_inside_is_named_by_its_whole_path() -> None:
    config = Section({"ipam": {"ranges": [[{"subnet": "a"}, {"subnet": 5}]], "routes": [{"dst": 1}]}})
    inner = config.section("ipam")
    assert wrong(lambda: inner.section_lists("ranges")[0][1].text("subnet")) == "ipam.ranges[0][1].subnet: got 5, expected text"
    assert wrong(lambda: inner.sections("routes")[0].text("dst")) == "ipam.routes[0].dst: got 1, expected text"


def test_keys_that_nobody_asked_for_are_refused_by_their_whole_paths() -> None:
    config = Section({"name": "n", "mtuu": 1, "ipam": {"type": "x", "rangs": 1}, "list": [{"a": 1, "b": 2}], "other": {"c": 1}})
    config.text("NAME")
    config.section("ipam").text("type")
    config.sections("list")[0].number("a")
    config.part("other")
    with pytest.raises(CniError, match=r"^unsupported field mtuu, ipam\.rangs, list\[0\]\.b$") as error:
        config.finish()
    assert error.value.code == Code.UNSUPPORTED_FIELD


def test_ignored_keys_are_known_whatever_their_case() -> None:
    config = Section({"PrevResult": {}, "args": 1})
    config.ignore("prevResult", "args")
    config.finish()


@pytest.mark.parametrize("stdin", [b"", b"{", b"[]", b"null", b'"x"', b"\xff", b"[" * 100_000, b'{"a": 1} x'])
def test_what_is_no_object_cannot_be_decoded(stdin: bytes) -> None:
    with pytest.raises(CniError, match="failed to decode the network configuration") as error:
        decode_config(stdin)
    assert error.value.code == Code.DECODE


@given(st.binary())
def test_any_bytes_decode_or_are_refused(stdin: bytes) -> None:
    assert code_of(lambda: decode_config(stdin)) in (None, Code.DECODE)


@given(st.dictionaries(st.text(), st.none() | st.integers() | st.text() | st.dictionaries(st.text(), st.integers())), st.text())
def test_reading_a_key_gives_its_type_or_names_it(values: dict[str, Any], key: str) -> None:
    section = Section(values)
    readers: list[Callable[[str], object]] = [
        section.text,
        section.flag,
        section.number,
        section.texts,
        section.part,
        section.sections,
    ]
    errors = [refusal(partial(read, key)) for read in readers]
    assert all(error is None or error.message.startswith(f"{key}: got ") for error in errors)
