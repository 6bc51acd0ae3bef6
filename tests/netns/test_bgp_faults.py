"""Whatever ends, hangs or is cut off: pods of hosts that speak BGP go on, and what is gone for good is gone soon."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator

import pytest

from bgp_world import (
    HOLD_S,
    again,
    all_reach_all,
    asked,
    bgp_world,
    connections,
    established,
    exabgp,
    kill_exabgp,
    nothing_lost,
    routes,
)
from flanneld_world import PREFIX, World, eventually, own_subnet, run
from lab.pods import Pod
from traffic import meshed

AWAY_S = 3.0
MOVED = "10.244.250.7/32"
"""A pod that has kept its address."""


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with bgp_world(3, ipv6=True, AllowHostRoutes=True) as up:
        yield up


@pytest.fixture(scope="module")
def pods(world: World) -> list[Pod]:
    return meshed(world)


def kill_flanneld(world: World) -> None:
    world.daemons[0].end(signal.SIGKILL)


def kill_speaker(world: World) -> None:
    kill_exabgp(world.lab.host("h1"))


def end_flanneld(world: World) -> None:
    assert world.daemons[0].end() == 0


def start_flanneld(world: World) -> None:
    again(world, "h1", 2)


ENDS: dict[str, tuple[Callable[[World], None], ...]] = {
    "flanneld killed": (kill_flanneld,),
    "flanneld and exabgp killed": (kill_flanneld, kill_speaker),
    "exabgp and flanneld killed": (kill_speaker, kill_flanneld),
    "flanneld ended": (end_flanneld,),
    "flanneld and exabgp killed, and again at once": (kill_flanneld, kill_speaker, start_flanneld, kill_flanneld, kill_speaker),
}


@pytest.mark.parametrize("end", ENDS)
def test_a_daemon_that_is_away_for_seconds_costs_no_packet(world: World, pods: list[Pod], end: str) -> None:
    h1 = world.lab.host("h1")
    before = routes(h1), routes(h1, 6)
    with nothing_lost(pods, (4, 6)):
        for step in ENDS[end]:
            step(world)
        time.sleep(AWAY_S)
        assert (routes(h1), routes(h1, 6)) == before
        again(world, "h1", 2)
        eventually(lambda: len(established(h1)) == 2, "both sessions")
        time.sleep(AWAY_S)  # until nobody keeps anything for us any more
    assert (routes(h1), routes(h1, 6)) == before


def test_everything_everywhere_is_killed_at_one_instant_and_no_packet_is_lost(world: World, pods: list[Pod]) -> None:
    before = [(routes(host), routes(host, 6)) for host in world.lab.hosts]
    with nothing_lost(pods, (4, 6)):
        for one in world.daemons:
            one.end(signal.SIGKILL)
        for host in world.lab.hosts:
            kill_exabgp(host)
        time.sleep(AWAY_S)
        for host in world.lab.hosts:
            place = next(number for number, one in enumerate(world.daemons) if one.host.name == host.name)
            world.daemons[place] = world.start(host.name)
            world.daemons.pop()
        for host in world.lab.hosts:
            eventually(lambda host=host: len(established(host)) == 2, "both sessions")  # type: ignore[misc]
        time.sleep(AWAY_S)
    assert [(routes(host), routes(host, 6)) for host in world.lab.hosts] == before


def test_exabgp_that_is_killed_again_and_again_is_started_again_more_and_more_seldom(world: World, pods: list[Pod]) -> None:
    h1, waits = world.lab.host("h1"), []
    since = len(world.daemons[0].lines())
    with nothing_lost(pods, (4, 6)):
        for _ in range(5):
            eventually(lambda: len(established(h1)) == 2, "both sessions")
            kill_exabgp(h1)
            began = time.monotonic()
            eventually(lambda: not exabgp(h1), "its end")
            eventually(lambda: exabgp(h1), "another")
            waits.append(time.monotonic() - began)
        eventually(lambda: len(established(h1)) == 2, "both sessions")
    said = [line["event"] for line in world.daemons[0].lines()[since:]]
    assert (said.count("bgp speaker lost"), said.count("bgp speaker started")) == (5, 5)
    assert waits[-1] > 2 * waits[0]


def test_a_daemon_that_hangs_for_longer_than_the_hold_time_costs_no_session(world: World, pods: list[Pod]) -> None:
    h2 = world.lab.host("h2")
    before = connections(h2)
    assert before
    with nothing_lost(pods, (4, 6)):
        world.daemons[0].process.send_signal(signal.SIGSTOP)
        time.sleep(2 * HOLD_S + 2)
        world.daemons[0].process.send_signal(signal.SIGCONT)
        time.sleep(1)
    assert connections(h2) == before


def test_while_etcd_is_away_a_route_that_changes_is_followed(world: World, pods: list[Pod]) -> None:
    h1, h2 = world.lab.host("h1"), world.lab.host("h2")
    etcd = world.lab.etcd_process
    assert etcd is not None
    with nothing_lost(pods, (4, 6)):
        etcd.send_signal(signal.SIGSTOP)
        try:
            time.sleep(7.5)
            asked(h2, do="announce", prefix=MOVED)
            eventually(lambda: routes(h1).get(MOVED.removesuffix("/32")) == "10.0.0.12", "the new route")
            time.sleep(7.5)
            asked(h2, do="withdraw", prefix=MOVED)
            eventually(lambda: MOVED.removesuffix("/32") not in routes(h1), "no such route")
        finally:
            etcd.send_signal(signal.SIGCONT)
    assert len(established(h1)) == 2


def test_a_host_that_leaves_for_good_is_forgotten_and_the_others_go_on(world: World, pods: list[Pod]) -> None:
    h1, h3 = world.lab.host("h1"), world.lab.host("h3")
    subnet = own_subnet(h3)
    world.daemons[2].end(signal.SIGKILL)
    kill_exabgp(h3)
    time.sleep(1)
    assert f"{subnet}/24" in routes(h1), "it may come back"
    with nothing_lost(pods[:2], (4, 6)):
        world.etcd.delete(f"{PREFIX}/subnets/{subnet}-24")
        for name in ("h1", "h2"):
            host = world.lab.host(name)
            eventually(lambda host=host: f"{subnet}/24" not in routes(host), "no route")  # type: ignore[misc]
            eventually(lambda host=host: "10.0.0.13" not in established(host), "no session")  # type: ignore[misc]
    assert len(exabgp(h1)) == 1
    again(world, "h3", 2)
    all_reach_all(pods[:2], (4, 6))


def test_a_link_that_is_cut_is_noticed_by_the_hold_time_and_healed(world: World, pods: list[Pod]) -> None:
    h1 = world.lab.host("h1")
    subnet = f"{own_subnet(world.lab.host('h2'))}/24"
    run(world.lab.fabric, "ip link set h2 nomaster")
    began = time.monotonic()
    eventually(lambda: subnet not in routes(h1), "no route to who does not answer", HOLD_S + 5)
    assert time.monotonic() - began > 1
    run(world.lab.fabric, "ip link set h2 master lan1")
    all_reach_all(pods[:2], (4, 6))
