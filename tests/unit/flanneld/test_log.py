"""The log's two forms and the suppressor of repeated lines."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import re
from collections.abc import Iterator
from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flanneld.log import Log, Once, Paced, facts_line, set_up

log = Log("flanneld.test")


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    logger = logging.getLogger()
    handlers, level = logger.handlers, logger.level
    logger.handlers = []
    yield logger
    logger.handlers = handlers
    logger.setLevel(level)


@pytest.fixture
def text(root: logging.Logger) -> io.StringIO:
    stream = io.StringIO()
    set_up("text", stream=stream)
    return stream


@pytest.fixture
def lines(root: logging.Logger) -> io.StringIO:
    stream = io.StringIO()
    set_up("json", debug=True, stream=stream)
    return stream


def test_line_is_time_level_event_then_facts_as_given(text: io.StringIO) -> None:
    log.info("lease acquired", subnet=ip_network("10.5.72.0/24"), expires_s=86400, error=None)
    time, rest = text.getvalue().split(" ", 1)
    assert time.startswith("time=20")
    assert time.endswith("Z")
    assert rest == 'level=info event="lease acquired" subnet=10.5.72.0/24 expires_s=86400\n'


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("a b", '"a b"'),
        ('a"b', '"a\\"b"'),
        ("", '""'),
        ("a=b", '"a=b"'),
        ("a\nlevel=error", '"a\\nlevel=error"'),
        ("Zürich", "Zürich"),
        ("\x1b[2J", '"\\u001b[2J"'),
    ],
)
def test_values_that_are_no_plain_word_are_quoted(value: str, shown: str) -> None:
    assert facts_line({"key": value}) == f"key={shown}"


FIELD = re.compile(r'([a-z_]+)=("(?:[^"\\]|\\.)*"|[^ "]+)(?: |$)')


@given(st.dictionaries(st.from_regex(r"\A[a-z_]{1,5}\Z"), st.text()))
def test_no_value_can_forge_another_field_or_line(facts: dict[str, object]) -> None:
    line = facts_line(facts)
    assert line.isprintable()
    assert "".join(match[0] for match in FIELD.finditer(line)) == line
    assert {key: json.loads(value) if value[0] == '"' else value for key, value in FIELD.findall(line)} == facts


def test_json_form_has_the_same_fields_with_numbers_as_numbers(lines: io.StringIO) -> None:
    log.debug("peer added", subnet=ip_network("10.5.72.0/24"), mtu=1450, direct=True)
    fields = json.loads(lines.getvalue())
    assert list(fields) == ["time", "level", "event", "subnet", "mtu", "direct"]
    assert (fields["event"], fields["subnet"], fields["mtu"], fields["direct"]) == ("peer added", "10.5.72.0/24", 1450, True)


def test_debug_lines_need_debug(text: io.StringIO) -> None:
    log.debug("peer added")
    assert text.getvalue() == ""


def test_other_libraries_lines_take_the_same_form(text: io.StringIO) -> None:
    logging.getLogger("asyncio").warning("slow %s", "task")
    assert 'level=warning event="slow task"\n' in text.getvalue()


def test_exception_carries_its_traceback_in_both_forms(text: io.StringIO, lines: io.StringIO) -> None:
    for form, stream in (("text", text), ("json", lines)):
        set_up(form, stream=stream)
        try:
            raise ValueError("boom")
        except ValueError:
            log.exception("task died", task="watch")
    assert 'event="task died" task=watch\nTraceback' in text.getvalue()
    assert json.loads(lines.getvalue())["traceback"].endswith("ValueError: boom")


def test_once_says_what_is_new_and_is_silent_while_it_stays(text: io.StringIO) -> None:
    once = Once(log)
    for error in ("refused", "refused", "timed out", "timed out", "refused"):
        once.warning("etcd", "etcd unavailable", error=error)
        once.info("config", "no network config yet", key="/coreos.com/network/config")
    assert [line.split("error=")[1] for line in text.getvalue().splitlines() if "error=" in line] == [
        "refused",
        '"timed out"',
        "refused",
    ]
    assert text.getvalue().count("no network config yet") == 1


def test_once_says_it_again_after_it_was_over(text: io.StringIO) -> None:
    once = Once(log)
    assert not once.over("etcd")
    once.warning("etcd", "etcd unavailable")
    assert once.over("etcd")
    once.warning("etcd", "etcd unavailable")
    assert text.getvalue().count("etcd unavailable") == 2


def peers_told(lines: io.StringIO) -> list[object]:
    told = [json.loads(line) for line in lines.getvalue().splitlines()]
    return [line["peers"] for line in told if line["event"] == "peers programmed"]


async def test_a_storm_of_changes_is_told_in_few_lines_and_its_last_one_always(
    lines: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Paced, "EVERY_S", 0.05)
    stands = Paced(log, "peers programmed")
    for peers in range(50):
        stands.info(peers=peers)
    assert peers_told(lines) == [0, 1, 2, 3, 4]
    await asyncio.sleep(0.2)
    stands.info(peers=49)
    assert peers_told(lines)[5:] == [49]


async def test_what_was_forgotten_is_told_again(lines: io.StringIO) -> None:
    stands = Paced(log, "peers programmed")
    for _ in range(2):
        stands.info(peers=1)
        stands.forget()
    assert peers_told(lines) == [1, 1]
