"""BFD in a process of its own: the daemon may end, hang and come back, and no neighbour notices; and what if the process ends."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bfd_process_world import BfdProcessWorld
from bfd_world import DEVICE, LINK_LOCAL, NETWORKS, V4, address, eventually, settings
from bgp import process
from bgp.bfd import client
from bgp.bfd.packet import Drop
from bgp.bfd.service import ADMINISTRATIVELY_DOWN, BfdSettings
from bgp.bfd.settings import settings_for
from bgp.bfd.sockets import PORT
from bgp.process import ProcessError
from flanneld.linux.netns import run_in
from netns.test_bgp_speaker_life import NOBODY, check_rights, private_python

A4, B4 = address(V4, "a"), address(V4, "b")
AWAY_S = 3.0
"""Three times what makes a silent neighbour dead."""


@pytest.fixture
def world() -> Iterator[BfdProcessWorld]:
    made = BfdProcessWorld()
    with made.meeting():
        yield made


@pytest.mark.parametrize("network", NETWORKS)
def test_a_daemon_that_is_away_costs_no_session_and_finds_it_as_it_is(world: BfdProcessWorld, network: str) -> None:
    daemon, peer = world.daemon, address(network, "b")
    with daemon.running():
        world.meet(network)
        before = daemon.process
    time.sleep(AWAY_S)
    with daemon.running():
        daemon.follow({peer: settings(network, "a")})
        eventually(lambda: daemon.told == [(peer, True, "none")])
        assert daemon.process == before
    assert world.b.told == [(address(network, "a"), True, "none")]


def test_a_daemon_that_hangs_costs_no_session(world: BfdProcessWorld) -> None:
    with world.daemon.running():
        world.meet()
        world.daemon.call(lambda: time.sleep(AWAY_S))
        assert world.daemon.told == [(B4, True, "none")]
    assert world.b.told == [(A4, True, "none")]


def test_a_daemon_that_hangs_for_longer_than_a_silent_process_may_does_not_blame_it(
    world: BfdProcessWorld, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(client, "SILENCE_S", 4.0)
    with world.daemon.running():
        world.meet()
        before = world.daemon.process
        for _ in range(2):
            world.daemon.call(lambda: time.sleep(5))
            time.sleep(0.2)
        time.sleep(2)
        assert (world.daemon.process, world.daemon.told, caplog.records) == (before, [(B4, True, "none")], [])


def test_without_a_daemon_for_long_it_ends_on_purpose(world: BfdProcessWorld) -> None:
    with world.daemon.running(orphan_s=1):
        world.meet()
        time.sleep(AWAY_S)
        assert len(world.b.told) == 1
    eventually(lambda: not world.daemon.processes)
    eventually(lambda: world.b.told[1:] == [(A4, False, ADMINISTRATIVELY_DOWN)])


def test_a_process_that_is_killed_is_there_again_and_of_its_sessions_nothing_bad_is_told(world: BfdProcessWorld) -> None:
    with world.daemon.running():
        world.meet(multiplier=3)
        before = world.daemon.process
        os.kill(before, signal.SIGKILL)
        began = time.monotonic()
        eventually(lambda: len(world.b.told) == 3 and len(world.daemon.told) == 2)
        print(f"up again after {time.monotonic() - began:.1f} s")
        assert [up for _, up, _ in world.b.told] == [True, False, True]
        assert world.daemon.told == [(B4, True, "none")] * 2
        assert world.daemon.process != before


def test_a_neighbour_that_is_dead_is_told_at_once_and_so_is_its_return(world: BfdProcessWorld) -> None:
    with world.daemon.running():
        world.meet(multiplier=3)
        world.cut("b")
        began = time.monotonic()
        eventually(lambda: len(world.daemon.told) == 2)
        assert time.monotonic() - began < 1.5
        assert world.daemon.told[1] == (B4, False, "detection time expired")
        world.mend("b")
        eventually(lambda: [up for _, up, _ in world.daemon.told] == [True, False, True])


def test_a_neighbour_that_ends_its_session_on_purpose_is_told_so(world: BfdProcessWorld) -> None:
    with world.daemon.running():
        world.meet()
        world.b.follow({})
        eventually(lambda: world.daemon.told[1:] == [(B4, False, ADMINISTRATIVELY_DOWN)])


def test_it_runs_only_while_something_is_wanted(world: BfdProcessWorld) -> None:
    with world.daemon.running():
        world.daemon.follow({})
        time.sleep(1)
        assert not world.daemon.processes
        world.meet()
        world.daemon.follow({})
        eventually(lambda: world.b.told[1:] == [(A4, False, ADMINISTRATIVELY_DOWN)])
        eventually(lambda: not world.daemon.processes)
        eventually(lambda: [path.name for path in world.daemon.directory.iterdir()] == ["bfd.log"])
        world.meet()


def test_what_runs_from_before_ends_when_nothing_is_wanted_any_more(world: BfdProcessWorld) -> None:
    with world.daemon.running():
        world.meet()
    with world.daemon.running():
        time.sleep(1)
        assert world.daemon.processes, "it is not known yet what is wanted"
        world.daemon.follow({})
        eventually(lambda: not world.daemon.processes)
    assert world.b.told[1:] == [(A4, False, ADMINISTRATIVELY_DOWN)]


def test_another_program_takes_its_place_and_no_neighbour_takes_that_for_a_failure(world: BfdProcessWorld) -> None:
    with world.daemon.running():
        world.meet()
        before = world.daemon.process
    with world.daemon.running(orphan_s=60):
        world.daemon.follow({B4: settings(V4, "a")})
        eventually(lambda: len(world.b.told) == 3)
        assert world.daemon.process != before
    assert world.b.told[1:] == [(A4, False, ADMINISTRATIVELY_DOWN), (A4, True, "none")]


@pytest.mark.parametrize("met", [True, False])
def test_a_process_that_is_stuck_is_ended(world: BfdProcessWorld, monkeypatch: pytest.MonkeyPatch, met: bool) -> None:
    for module, name, value in ((client, "SILENCE_S", 3.0), (client, "END_S", 0.5), (process, "END_S", 0.5)):
        monkeypatch.setattr(module, name, value)
    with world.daemon.running():
        world.meet()
        os.kill(before := world.daemon.process, signal.SIGSTOP)
        if met:
            eventually(lambda: world.daemon.processes not in ([before], []))
            eventually(lambda: len(world.b.told) == 3)
    if not met:
        with world.daemon.running():
            world.daemon.follow({B4: settings(V4, "a")})
            eventually(lambda: len(world.b.told) == 3)
            assert world.daemon.process != before


def test_a_stuck_process_is_parted_with_all_the_same(world: BfdProcessWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "END_S", 0.5)
    monkeypatch.setattr(process, "END_S", 0.5)
    with world.daemon.running():
        world.meet()
        os.kill(world.daemon.process, signal.SIGSTOP)
    found = process.Found(world.daemon.process, world.daemon.directory)
    run_in(world.daemon.namespace, lambda: asyncio.run(client.part_with(found)))
    assert not world.daemon.processes


def test_it_is_parted_with_on_purpose_also_when_its_socket_is_no_more(world: BfdProcessWorld) -> None:
    with world.daemon.running():
        world.meet()
    found = process.Found(world.daemon.process, world.daemon.directory)
    (world.daemon.directory / "bfd.sock").unlink()
    run_in(world.daemon.namespace, lambda: asyncio.run(client.part_with(found)))
    assert not world.daemon.processes
    eventually(lambda: world.b.told[1:] == [(A4, False, ADMINISTRATIVELY_DOWN)])


@pytest.mark.parametrize("after_s", [0.0, 0.05, 0.1, 0.2])
def test_a_daemon_that_ends_while_it_starts_it_has_started_it_or_not(world: BfdProcessWorld, after_s: float) -> None:
    with world.daemon.running():
        world.daemon.follow({B4: settings(V4, "a")})
        time.sleep(after_s)
    time.sleep(0.5)
    assert len(world.daemon.processes) in (0, 1)
    with world.daemon.running():
        world.meet()
        assert world.daemon.process


def test_two_daemons_have_the_process_by_turns_and_its_sessions_stay(world: BfdProcessWorld) -> None:
    with world.daemon.running():
        world.meet()
        for _ in range(5):
            with socket.socket(socket.AF_UNIX) as another:
                another.connect(str(world.daemon.directory / "bfd.sock"))
                time.sleep(0.1)
        eventually(lambda: world.daemon.state(B4) is not None)
        assert world.daemon.told == [(B4, True, "none")]
    assert world.b.told == [(A4, True, "none")]


def test_what_keeps_a_session_from_running_is_said_and_over_when_it_runs(
    world: BfdProcessWorld, caplog: pytest.LogCaptureFixture
) -> None:
    late = BfdSettings(address("192.0.2.1", "a"), 100, 3)
    with world.daemon.running(), caplog.at_level(logging.WARNING):
        world.daemon.follow({B4: late})
        eventually(lambda: bool(caplog.records))
        (said,) = caplog.records
        assert (said.message, said.facts["why"]) == (  # type: ignore[attr-defined]  # as `flanneld.log` puts it there
            "bfd session in trouble",
            "bfd session not possible: Cannot assign requested address",
        )
        world.b.follow({late.local: settings(V4, "b")})
        world.ip("a", f"addr add 192.0.2.11/24 dev {DEVICE}")
        eventually(lambda: world.daemon.told == [(B4, True, "none")])


def test_what_was_dropped_is_counted(world: BfdProcessWorld) -> None:
    with world.daemon.running():
        world.meet()
        with world.socket("b", V4) as stranger:
            stranger.bind((str(B4), 0))
            for _ in range(3):
                stranger.sendto(b"garbage", (str(A4), PORT))
        eventually(lambda: world.daemon.call(lambda: dict(world.daemon.speaker.dropped)) == {Drop.LENGTH: 3})


def test_it_has_no_rights_at_all_even_where_its_user_can_read_none_of_our_files(
    world: BfdProcessWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    with private_python() as python:
        monkeypatch.setattr(sys, "executable", str(python))
        with world.daemon.running():
            world.meet(LINK_LOCAL)
            pid = world.daemon.process
            assert str(python).encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
            check_rights(pid)
            world.ip("a", f"link delete {DEVICE}")
            eventually(lambda: len(world.daemon.told) == 2)
            world.plug("a")
            eventually(lambda: len(world.daemon.told) == 3)


def test_nobody_else_may_be_its_client(world: BfdProcessWorld) -> None:
    with world.daemon.running():
        world.meet()
        path, directory = world.daemon.directory / "bfd.sock", world.daemon.directory
        for one in (directory.parent, directory, path):
            one.chmod(0o777)
        ask = f"import socket; s = socket.socket(socket.AF_UNIX); s.connect({str(path)!r}); print(s.recv(100))"
        setpriv = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")
        said = subprocess.run([*setpriv, "/usr/bin/python3", "-c", ask], capture_output=True, text=True, check=False)
        assert "b''" in said.stdout or "ConnectionResetError" in said.stderr, said
        assert len(world.daemon.told) == 1


def test_a_process_that_cannot_be_started_says_why(world: BfdProcessWorld) -> None:
    (world.daemon.directory / "bfd.log").mkdir(parents=True)
    settings = settings_for(world.daemon.directory, None, 1.0)
    with pytest.raises(ProcessError, match=r"cannot serve in .* as nobody: .*Is a directory"):
        asyncio.run(process.start(settings.program))
