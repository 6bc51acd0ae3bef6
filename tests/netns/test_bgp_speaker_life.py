"""exabgp as a process: it outlives the daemon, is taken over, started again, ended, and has no more rights than it needs."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_network
from pathlib import Path

import pytest

from bgp import process
from bgp.events import Announced, Down
from bgp.path import Attributes
from bgp.path import Path as BgpPath
from bgp.speaker import child, keeper
from bgp.speaker.commands import Announcement, fingerprint
from bgp.speaker.launcher.settings import Settings
from bgp.speaker.news import Lost, SpeakerError, Synced
from bgp_speaker_world import PREFIX, WITHIN_S, Node, meet, nodes, session, speakers
from flanneld_world import eventually

NOBODY = 65534
TAKEN = "cannot listen on 10.99.0.1 port 179: another router on this host has it"


@pytest.fixture
def two() -> Iterator[list[Node]]:
    with nodes("a", "b") as made:
        yield made


def gone(node: Node, within_s: float = WITHIN_S) -> None:
    eventually(lambda: not node.processes, f"exabgp of {node.name} ends", within_s)


def lost(node: Node, since: int = 0) -> Lost:
    news = node.hears(lambda news: isinstance(news, Lost), "lost", since)
    assert isinstance(news, Lost)
    return news


def test_a_daemon_that_comes_back_finds_its_sessions_as_they_are(two: list[Node]) -> None:
    a, b = two
    with b.running():
        with a.running():
            meet(a, b, graceful_restart_s=77)
            a.says(b.ip, PREFIX)
            b.says(a.ip, theirs := ip_network("10.244.2.0/24"))
            a.path(theirs)
        time.sleep(2)
        b.says(a.ip, meanwhile := ip_network("10.244.3.0/24"))
        with a.running():
            found = a.synced()
            assert found.sessions == {b.ip: fingerprint(session(a, b, graceful_restart_s=77))}
            assert found.established == {b.ip}
            assert found.announced == {b.ip: {PREFIX}}
            assert set(found.paths) == {BgpPath(prefix, b.ip, b.ip, Attributes(local_pref=100)) for prefix in (theirs, meanwhile)}
            assert found.opened[b.ip].graceful_restart_s == 77
        assert not b.events(Down)


def test_a_daemon_that_comes_and_goes_in_a_storm_misses_nothing(two: list[Node]) -> None:
    a, b = two
    prefixes = [*ip_network("10.244.0.0/16").subnets(new_prefix=24)]
    with b.running():
        with a.running():
            meet(a, b)
        for turn in range(5):
            for start in range(0, len(prefixes), 32):
                b.call(b.speaker.withdraw(a.ip, prefixes[start : start + 32]))
                b.call(b.speaker.announce(a.ip, [Announcement(one, attributes=Attributes(med=turn)) for one in prefixes[start:]]))
                if start == 32 * turn:
                    with a.running():
                        a.synced()
        with a.running():
            eventually(lambda: known(a) == dict.fromkeys(prefixes, 4), "all prefixes as they were told last")


def known(node: Node) -> dict[object, int | None]:
    """Each prefix with its metric, as news say since the last time that all was said."""
    found: dict[object, int | None] = {}
    for news in node.news:
        if isinstance(news, Synced):
            found = {}
        if isinstance(news, Synced | Announced):
            found |= {path.prefix: path.attributes.med for path in news.paths}
    return found


def test_an_exabgp_that_is_killed_is_started_again_and_starts_empty() -> None:
    with speakers("a", "b") as (a, b):
        meet(a, b)
        since, before = {node: len(node.news) for node in (a, b)}, a.exabgp
        os.kill(before, signal.SIGKILL)
        lost(a, since[a])
        assert a.synced(since[a]).sessions == {}
        assert a.exabgp != before
        b.hears(lambda news: news == Down(a.ip, "closing connection", hard=False), "down", since[b])
        a.call(a.speaker.add(session(a, b)))
        b.up(a.ip, since[b])


def test_a_relay_that_is_killed_costs_no_session(two: list[Node]) -> None:
    a, b = two
    with b.running(), a.running():
        meet(a, b)
        since = len(a.news)
        for _ in range(3):
            (relay,) = set(a.processes) - {a.exabgp}
            b.says(a.ip, *[ip_network("10.244.0.0/16")] * 50)
            os.kill(relay, signal.SIGKILL)
            b.says(a.ip, PREFIX)
            found = a.synced(since)
            since = len(a.news)
        assert found.established == {b.ip}
        assert not [*a.events(Down), *b.events(Down)]


def test_a_client_that_does_not_read_delays_no_session(two: list[Node]) -> None:
    a, b = two
    prefixes = [*ip_network("10.128.0.0/9").subnets(new_prefix=24)][:2000]
    with b.running():
        with a.running():
            meet(a, b, hold_time_s=3)
        with socket.socket(socket.AF_UNIX) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect(str(a.settings.socket))
            for turn in range(4):
                b.call(b.speaker.announce(a.ip, [Announcement(one, attributes=Attributes(med=turn)) for one in prefixes]))
            time.sleep(6)
        assert not b.events(Down)
        with a.running():
            assert len(a.synced().paths) == len(prefixes)


def test_without_a_daemon_for_long_exabgp_takes_leave(two: list[Node]) -> None:
    a, b = two
    with b.running():
        with a.running(orphan_s=2):
            meet(a, b, graceful_restart_s=120)
        since = len(b.news)
        b.hears(lambda news: news == Down(a.ip, "notification received (6,2)", hard=True), "down", since, within_s=6)
        gone(a)


@pytest.mark.parametrize(("word", "why"), [("leave", "notification received (6,2)"), ("quit", "closing connection")])
def test_a_speaker_leaves_for_good_or_for_a_while_and_nothing_stays(two: list[Node], word: str, why: str) -> None:
    a, b = two
    with b.running(), a.running():
        meet(a, b)
        since = len(b.news)
        a.call(getattr(a.speaker, word)())
        b.hears(lambda news: news == Down(a.ip, why, hard=word == "leave"), "down", since)
        gone(a, 2)
        assert [path.name for path in a.directory.iterdir()] == ["exabgp.log"]
        with pytest.raises(SpeakerError, match="the speaker is gone"):
            a.call(a.speaker.delete(b.ip))
        assert not [news for news in a.news if isinstance(news, Lost)]


def test_a_port_that_another_router_has_is_named_and_waited_for(two: list[Node]) -> None:
    a, _ = two
    with a.run(socket.create_server, (str(a.ip), 179)):
        with a.running():
            assert lost(a) == Lost(TAKEN)
            time.sleep(1)
            assert a.news == [Lost(TAKEN)]
        assert not a.processes
    with a.running():
        a.synced()


def test_the_port_that_is_taken_has_an_exit_status_of_its_own(two: list[Node]) -> None:
    a, _ = two
    settings = Settings(a.directory, (a.ip,), 179, "nobody", 2, "name")
    with a.run(socket.create_server, (str(a.ip), 179)):
        done = launch(a, settings)
    assert (done.returncode, done.stderr) == (3, f"{TAKEN}\n")
    elsewhere = launch(a, Settings(a.directory, (_.ip,), 179, "nobody", 2, "name"))
    assert (elsewhere.returncode, elsewhere.stderr) == (
        1,
        "cannot listen on 10.99.0.2 port 179: cannot assign requested address\n",
    )


def launch(node: Node, settings: Settings, *before: str) -> subprocess.CompletedProcess[str]:
    command = [*before, sys.executable, "-I", "-m", child.LAUNCHER, *settings.arguments()]
    return node.run(subprocess.run, command, text=True, capture_output=True, timeout=WITHIN_S, env={}, check=False)


def test_a_speaker_need_not_listen(two: list[Node]) -> None:
    a, b = two
    with a.running(listen=()), b.running():
        a.synced(), b.synced()
        assert "LISTEN" not in a.run(subprocess.check_output, ["ss", "-Htln"], text=True)
        meet(a, b)


def test_other_settings_need_another_exabgp(two: list[Node]) -> None:
    a, b = two
    with b.running():
        with a.running():
            meet(a, b)
            before = a.exabgp
        with a.running(port=1790):
            assert a.synced().sessions == {}
            assert a.exabgp != before
            assert ":1790" in a.run(subprocess.check_output, ["ss", "-Htln"], text=True)
        b.hears(lambda news: news == Down(a.ip, "closing connection", hard=False), "down")


def test_an_exabgp_that_is_stuck_is_ended(two: list[Node], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper, "SYNC_S", 1)
    monkeypatch.setattr(process, "END_S", 0.5)
    a, _ = two
    with a.running():
        a.synced()
        before = a.exabgp
    os.kill(before, signal.SIGSTOP)
    with a.running():
        assert lost(a) == Lost("exabgp has not said within 1 s how everything stands")
        a.synced()
        assert a.exabgp != before


def test_an_exabgp_that_does_not_answer_is_ended(two: list[Node], monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name, value in ((keeper, "ANSWER_S", 0.5), (keeper, "SYNC_S", 1), (process, "END_S", 0.5)):
        monkeypatch.setattr(module, name, value)
    a, b = two
    with a.running():
        a.synced()
        os.kill(before := a.exabgp, signal.SIGSTOP)
        with pytest.raises(SpeakerError, match=r"exabgp has not answered within 0 s"):
            a.call(a.speaker.add(session(a, b)))
        assert lost(a) == Lost("the speaker is gone")
        a.synced(len(a.news))
        assert a.exabgp != before


@pytest.mark.parametrize("after_s", [0.0, 0.1, 0.2, 0.3])
def test_a_daemon_that_ends_while_it_starts_exabgp_has_started_it_or_not(two: list[Node], after_s: float) -> None:
    a, _ = two
    with a.running():
        time.sleep(after_s)
    time.sleep(0.5)
    assert len(a.processes) in (0, 2)
    with a.running():
        a.synced()


def test_a_user_that_there_is_not_is_an_error() -> None:
    with pytest.raises(SpeakerError, match="no user nonesuch for exabgp to be"):
        child.settings_for(Path("/nonexistent"), (), 179, "nonesuch", 1)


def test_who_exabgp_becomes(monkeypatch: pytest.MonkeyPatch) -> None:
    def user(wanted: str | None = None) -> str:
        return child.settings_for(Path("/nonexistent"), (), 179, wanted, 1).user

    assert (user(), user("root"), user("daemon")) == ("nobody", "root", "daemon")
    monkeypatch.setattr(process, "USERS", ("daemon", "nobody"))
    assert user() == "daemon"
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert (user(), user("daemon")) == ("", "")


def test_exabgp_and_its_relay_have_no_rights_at_all_even_where_their_user_can_read_none_of_our_files(
    two: list[Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    with private_python() as python:
        monkeypatch.setattr(sys, "executable", str(python))
        a, b = two
        with a.running(), b.running():
            a.synced(), b.synced()
            meet(a, b, password="k3y")  # noqa: S106
            a.says(b.ip, PREFIX)
            b.path(PREFIX)
            assert str(python).encode() in Path(f"/proc/{a.exabgp}/cmdline").read_bytes()
            assert len(a.processes) == 2
            for pid in a.processes:
                check_rights(pid)
            for node in (a, b):
                node.call(node.speaker.leave())
                gone(node)


def check_rights(pid: int) -> None:
    status = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    assert status["Uid"].split() == status["Gid"].split() == [str(NOBODY)] * 4
    assert not status["Groups"].strip()
    assert {int(status[f"Cap{kind}"], 16) for kind in ("Inh", "Prm", "Eff", "Amb")} == {0}
    assert status["NoNewPrivs"] == "1"


@contextmanager
def private_python() -> Iterator[Path]:
    """An interpreter with all that is ours, and exabgp, where only root can look."""
    with tempfile.TemporaryDirectory(prefix="bgp") as place:
        library = Path(place, "lib", "python3.11", "site-packages")
        here = Path(child.__file__).parents[2]
        site = next(Path(path) for path in sys.path if Path(path, "exabgp").is_dir())
        for package in (here / "bgp", here / "flanneld", site / "exabgp"):
            shutil.copytree(package, library / package.name)
        Path(place, "pyvenv.cfg").write_text("home = /usr/bin\n")
        Path(place, "bin").mkdir()
        Path(place, "bin", "python").symlink_to("/usr/bin/python3")
        yield Path(place, "bin", "python")


def test_who_is_not_root_stays_who_it_is(two: list[Node]) -> None:
    a, _ = two
    os.chown(a.directory, NOBODY, NOBODY)
    settings = Settings(a.directory, (a.ip,), 1790, "", 1, "name")
    done = launch(a, settings, "setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--bounding-set=-all")
    assert (done.returncode, done.stderr) == (0, "")
    eventually(lambda: len(a.processes) == 2, "exabgp and its relay run")
    for pid in a.processes:
        check_rights(pid)
    gone(a)


def test_nothing_is_ended_that_is_not_exabgps(two: list[Node]) -> None:
    a, b = two
    with b.running():
        b.synced()
        asyncio.run(child.end(a.settings, b.exabgp))
        asyncio.run(child.end(a.settings, os.getpid()))
        assert len(b.processes) == 2
