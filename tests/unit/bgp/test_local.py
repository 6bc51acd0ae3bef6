"""What was asked of a host by hand is known to the next daemon."""

from __future__ import annotations

import logging
from ipaddress import ip_network
from pathlib import Path

import pytest

from bgp.local import Asked, LocalState

SERVICE, MOVED = ip_network("10.96.0.10/32"), ip_network("10.244.1.7/32")


def test_a_host_of_which_nothing_was_asked_writes_nothing(tmp_path: Path) -> None:
    assert LocalState(tmp_path / "bgp").asked == Asked()
    assert not (tmp_path / "bgp").exists()


def test_everything_that_was_asked_survives(tmp_path: Path) -> None:
    state = LocalState(tmp_path / "bgp")
    state.announce(SERVICE)
    state.announce(ip_network("fd00::/64"))
    state.release(MOVED, released=True)
    state.drain(draining=True)
    wanted = Asked(draining=True, announced=frozenset({SERVICE, ip_network("fd00::/64")}), released=frozenset({MOVED}))
    assert state.asked == LocalState(tmp_path / "bgp").asked == wanted


def test_everything_can_be_taken_back(tmp_path: Path) -> None:
    state = LocalState(tmp_path)
    state.announce(SERVICE)
    state.release(MOVED, released=True)
    state.drain(draining=True)
    state.withdraw(SERVICE)
    state.release(MOVED, released=False)
    state.drain(draining=False)
    assert state.asked == LocalState(tmp_path).asked == Asked()


def test_what_was_not_announced_can_be_withdrawn(tmp_path: Path) -> None:
    state = LocalState(tmp_path)
    state.withdraw(SERVICE)
    assert state.asked == Asked()


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"draining": true}', '{"draining": 1, "announced": ["x"], "released": []}', "\0"]
)
def test_a_file_that_says_nothing_is_said_to_and_nothing_was_asked(
    tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "asked.json").write_text(text)
    with caplog.at_level(logging.WARNING):
        assert LocalState(tmp_path).asked == Asked()
    assert [record.message for record in caplog.records] == ["what was asked for by hand is not known"]
