"""Hosts that speak BGP and watch each other by BFD: RFC 5880, RFC 5882; neither may take the other for dead that is not."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence

import pytest

from bgp.network import LINGER_S
from bgp_world import (
    HOLD_S,
    STATE,
    again,
    bfd_processes,
    bgp_world,
    connections,
    established,
    exabgp,
    is_alive,
    kill_exabgp,
    nothing_lost,
    peers_of,
)
from flanneld_world import NETWORK, World, eventually
from lab.pods import Pod
from netns.test_cleanup import clean
from traffic import meshed

FAST = {"Interval": 100, "Multiplier": 3}
AWAY_S = 3.0
"""Ten times what makes a silent neighbour dead."""


@pytest.fixture(scope="module")
def watched() -> Iterator[World]:
    """Two hosts that watch each other."""
    with bgp_world(2, BFD=FAST, most_lines=200) as world:
        yield world


@pytest.fixture(scope="module")
def pods(watched: World) -> list[Pod]:
    made = meshed(watched)
    bfd_up(watched)
    return made


def bfd_up(world: World) -> None:
    for host in world.lab.hosts:
        eventually(lambda host=host: [peer["bfd"] for peer in peers_of(host).values()] == ["up"], "bfd up")  # type: ignore[misc]


def end_flanneld(world: World) -> None:
    assert world.daemons[0].end() == 0


def kill_flanneld(world: World) -> None:
    world.daemons[0].end(signal.SIGKILL)


def kill_speaker(world: World) -> None:
    kill_exabgp(world.lab.host("h1"))


def kill_bfd(world: World) -> None:
    (pid,) = bfd_processes(world.lab.host("h1"))
    os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("end", [end_flanneld, kill_flanneld])
def test_with_bfd_a_daemon_that_is_away_for_seconds_costs_no_session_and_no_packet(
    watched: World, pods: list[Pod], end: Callable[[World], None]
) -> None:
    h2 = watched.lab.host("h2")
    before, downs = (connections(h2), bfd_processes(h2)), len(watched.daemons[1].said("bfd session down"))
    with nothing_lost(pods):
        end(watched)
        time.sleep(AWAY_S)
        again(watched, "h1", 1)
        bfd_up(watched)
        time.sleep(1)
    assert (connections(h2), bfd_processes(h2)) == before
    assert len(watched.daemons[1].said("bfd session down")) == downs


@pytest.mark.parametrize(
    "ends",
    [
        (kill_flanneld, kill_speaker),
        (kill_speaker, kill_flanneld),
        (kill_flanneld, kill_speaker, kill_bfd),
        (kill_flanneld, kill_bfd, kill_speaker),
    ],
    ids=lambda ends: " ".join(end.__name__ for end in ends),
)
def test_with_bfd_a_graceful_restart_is_one_whether_bfd_lives_on_or_not(
    watched: World, pods: list[Pod], ends: Sequence[Callable[[World], None]]
) -> None:
    """RFC 5882 §4.3.2.2: what neighbours keep while BGP is away they keep while BFD is, too."""
    with nothing_lost(pods):
        for end in ends:
            end(watched)
        time.sleep(AWAY_S)
        again(watched, "h1", 1)
        bfd_up(watched)
        time.sleep(AWAY_S)  # until nobody keeps anything for us any more


def test_with_bfd_everything_everywhere_is_killed_at_one_instant_and_no_packet_is_lost(watched: World, pods: list[Pod]) -> None:
    with nothing_lost(pods):
        for one in watched.daemons:
            one.end(signal.SIGKILL)
        for host in watched.lab.hosts:
            for pid in (*exabgp(host), *bfd_processes(host)):
                os.kill(pid, signal.SIGKILL)
        time.sleep(AWAY_S)
        for number, host in enumerate(watched.lab.hosts):
            watched.daemons[number] = watched.start(host.name)
            watched.daemons.pop()
        for host in watched.lab.hosts:
            eventually(lambda host=host: len(established(host)) == 1, "the session")  # type: ignore[misc]
        bfd_up(watched)
        time.sleep(AWAY_S)


def test_with_bfd_a_daemon_that_hangs_costs_no_session_and_no_packet(watched: World, pods: list[Pod]) -> None:
    h2 = watched.lab.host("h2")
    before = connections(h2)
    with nothing_lost(pods):
        watched.daemons[0].process.send_signal(signal.SIGSTOP)
        time.sleep(2 * HOLD_S + 2)
        watched.daemons[0].process.send_signal(signal.SIGCONT)
        time.sleep(1)
    assert connections(h2) == before
    bfd_up(watched)


@pytest.mark.usefixtures("pods")
def test_cleanup_ends_bfd_and_nothing_of_it_is_left(watched: World) -> None:
    h1 = watched.lab.host("h1")
    kill_flanneld(watched)
    assert "bfd of the bgp backend, process" in clean(h1, "--dry-run")
    assert bfd_processes(h1)
    clean(h1, "--yes")
    assert (bfd_processes(h1), exabgp(h1), h1.call(STATE.exists)) == ([], [], False)
    assert watched.daemons[1].await_said("bgp session down")["why"].startswith("notification received (6,")
    assert clean(h1, "--yes") == "nothing to remove\n"
    again(watched, "h1", 1)
    bfd_up(watched)


@pytest.mark.usefixtures("pods")
def test_with_another_method_nothing_of_bfd_is_left(watched: World) -> None:
    watched.configure({**NETWORK, "Backend": {"Type": "host-gw"}})
    for host in watched.lab.hosts:
        eventually(lambda host=host: (bfd_processes(host), exabgp(host)) == ([], []), "no process", LINGER_S + 30)  # type: ignore[misc]
        eventually(lambda host=host: not host.call(STATE.exists), "no directory")  # type: ignore[misc]


def test_a_lab_that_is_down_leaves_no_bfd() -> None:
    with bgp_world(2, BFD=FAST) as up:
        meshed(up)
        bfd_up(up)
        pids = [pid for host in up.lab.hosts for pid in bfd_processes(host)]
        assert len(pids) == 2
    assert [pid for pid in pids if is_alive(pid)] == []
