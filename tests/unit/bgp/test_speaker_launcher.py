"""What is mended and added in exabgp's process, as far as it shows without a session; and that exabgp still needs it."""

from __future__ import annotations

import os
import select
import socket
import subprocess
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgp.bounded_log import BoundedLog
from bgp.speaker.launcher.settings import Settings, parse

pytestmark = pytest.mark.usefixtures("exabgp")


ANNOUNCE, WITHDRAW = 1, 2
"""exabgp's Action."""


HOPS = ("fd99::2", "fe80::2")


class Table:
    """A table of what a neighbour is told, and a neighbour that believes it."""

    def __init__(self, update_rib: Any) -> None:
        from bgp.speaker.launcher import stock

        class Mended(stock.OutgoingRIB):  # type: ignore[misc]  # of an untyped class
            _update_rib = update_rib

        self._rib = Mended(True, [(1, 1)])
        self._api = stock.API(None)
        self.believes: dict[str, int] = {}

    def say(self, prefix: str, med: int | None) -> None:
        """Announce with a metric, or withdraw."""
        words = f"attributes next-hop 10.0.0.1 {'' if med is None else f'med {med}'} nlri {prefix}"
        (change,) = self._api.api_attributes(f"announce {words}", [])
        change.nlri.action = WITHDRAW if med is None else ANNOUNCE
        self._rib.add_to_rib(change)

    def send(self) -> None:
        for update in self._rib.updates(True):
            for nlri in update.nlris:
                if nlri.action == WITHDRAW:
                    self.believes.pop(nlri.cidr.prefix(), None)
                else:
                    self.believes[nlri.cidr.prefix()] = int(str(update.attributes).split()[1])


WORDS = st.lists(st.tuples(st.sampled_from(["10.1.0.0/24", "10.2.0.0/24"]), st.none() | st.integers(1, 2)) | st.none(), max_size=12)


@given(WORDS)
def test_the_last_word_counts(words: list[tuple[str, int | None] | None]) -> None:
    """None: what is there is sent."""
    from bgp.speaker.launcher import ribs

    table, last = Table(ribs.update_rib), dict[str, int | None]()
    for word in words:
        if word is None:
            table.send()
        else:
            table.say(*word)
            last[word[0]] = word[1]
    table.send()
    assert table.believes == {prefix: med for prefix, med in last.items() if med is not None}


def test_exabgp_still_needs_to_be_told_that_the_last_word_counts() -> None:
    from bgp.speaker.launcher import ribs

    table = Table(ribs._update_rib)
    table.say("10.2.0.0/24", 1)
    table.say("10.1.0.0/24", None)
    table.say("10.1.0.0/24", 1)
    table.send()
    assert table.believes == {"10.2.0.0/24": 1}


def test_a_closed_socket_is_polled_no_more() -> None:
    from bgp.speaker.launcher.turns import wait_for_io

    ours, theirs = socket.socketpair()
    with ours, theirs, socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()):
        reactor = SimpleNamespace(
            listener=SimpleNamespace(_sockets={server: ()}),
            asynchronous=SimpleNamespace(ready=lambda: True),
            _poller=select.poll(),
            _prevent_spin=lambda: pytest.fail("slept"),
        )
        reactor._poller.register(ours, select.POLLIN)
        reactor._poller.register(stale := os.dup(ours.fileno()), select.POLLIN)
        os.close(stale)
        theirs.send(b"!")
        assert list(wait_for_io(reactor, 1000)) == [ours.fileno()]
        with pytest.raises(FileNotFoundError):
            reactor._poller.modify(stale, select.POLLIN)


def test_attempts_are_never_far_apart() -> None:
    from bgp.speaker.launcher import stock
    from bgp.speaker.launcher.neighbours import MOST_DELAY_S, ShortDelay

    ours, theirs = ShortDelay(), stock.Delay()
    for _ in range(20):
        ours.increase()
        theirs.increase()
    assert (ours._next, theirs._next) == (MOST_DELAY_S, 60)


def test_what_is_said_to_a_relay_that_has_died_is_lost_and_nothing_else() -> None:
    from bgp.speaker.launcher import helper, stock

    table = stock.processes.Processes()
    assert helper.write(table, "relay", "nobody is there yet")
    with subprocess.Popen(["true"], stdin=subprocess.PIPE) as dead:
        dead.wait()
        table._process["relay"] = dead
        with pytest.raises(stock.processes.ProcessError):
            helper._write(table, "relay", "gone" * 10_000)
        assert helper.write(table, "relay", "gone" * 10_000)
        assert not table._broken
        assert dead.stdin is not None
        with suppress(BrokenPipeError):
            dead.stdin.close()


def test_of_a_prefix_with_two_next_hops_the_global_one_is_remembered() -> None:
    """Two routes made of one UPDATE share its attributes."""
    from bgp.speaker.launcher import ribs, stock

    def remembered(update_cache: Any) -> str:
        table = stock.IncomingRIB(True, [(2, 1)])
        first, second = (
            stock.API(None).api_attributes(f"announce attributes next-hop {hop} nlri fd00::/64", [])[0] for hop in HOPS
        )
        second.attributes = first.attributes
        for change in (first, second):
            change.nlri.action = ANNOUNCE
            update_cache(table, change)
        return str(next(iter(table.cached_changes())).nlri.nexthop)

    assert (remembered(ribs.update_cache), remembered(ribs._update_cache)) == HOPS


@pytest.mark.parametrize(
    ("version", "why"),
    [
        ("5.0.13", ""),
        ("5.0.15", ""),
        ("5.1.0", ""),
        ("5.0.12", "exabgp 5.0.12 is installed, expected 5.0.13 or later before 6"),
        ("6.0.0", "exabgp 6.0.0 is installed, expected 5.0.13 or later before 6"),
        ("main", "exabgp main is installed, expected 5.0.13 or later before 6"),
    ],
)
def test_the_version_of_exabgp_is_checked(version: str, why: str) -> None:
    from bgp.speaker.launcher import stock

    assert stock.unfit(version) == why


def test_a_name_that_exabgp_has_no_more_is_an_error_that_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from bgp.speaker.launcher import stock

    assert stock.unfit() == ""
    monkeypatch.delattr(stock.Reactor, "_wait_for_io")
    assert stock.unfit().endswith(" has no _wait_for_io")


def test_no_command_of_ours_has_the_name_of_exabgps_in_it() -> None:
    """exabgp takes the first name, in the reverse order of the alphabet, that it finds anywhere in the line."""
    from bgp.speaker.launcher import commands, stock

    theirs = set(stock.Command.functions)
    commands.register("")
    ours = ["peer add x y", "peer del x", "peer renew x", "peer list x", "leave", "quit"]
    for line in ours:
        found = [name for name in theirs if name == line or line.endswith(f" {name}") or f"{name} " in line]
        assert found in ([], [name for name in theirs if line.startswith(name)]), line


def test_settings_are_read_as_they_were_written() -> None:
    settings = Settings(Path("/run/x y"), (ip_address("10.0.0.1"), ip_address("fd99::1")), 1790, "nobody", 0.5, "name")
    assert parse(settings.arguments()) == settings
    assert parse(Settings(Path("/x"), (), 179, "", 2, "n").arguments()) == Settings(Path("/x"), (), 179, "", 2, "n")
    assert settings.environment()["exabgp_tcp_bind"] == "10.0.0.1 fd99::1"


def test_a_log_keeps_its_last_lines_and_its_bound(tmp_path: Path) -> None:
    log = BoundedLog(tmp_path / "log", most_bytes=1000)
    for number in range(1000):
        log.write(f"line {number}\n")
    lines = (tmp_path / "log").read_text().splitlines()
    assert lines == [f"line {number}" for number in range(1000 - len(lines), 1000)]
    assert 40 < len(lines) < 110
    assert (tmp_path / "log").stat().st_mode & 0o777 == 0o600
    os.close(log.fileno())
