"""What an administrator changes in the network config of hosts that speak BGP: no session falls that it is not about, no packet."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator

import pytest

from bgp_world import (
    STATE,
    all_reach_all,
    asked,
    bgp,
    bgp_world,
    connections,
    established,
    exabgp,
    is_alive,
    nothing_lost,
    peers_of,
    routes,
)
from flanneld.mesh import LINGER_S
from flanneld_world import NETWORK, WAIT_S, World, eventually, run, write_file
from lab.pods import Pod
from netns.test_faults_config import change, published
from traffic import meshed

HOSTS = ("h1", "h2", "h3")
PASSWORD_FILE = "/run/bgp-password"  # noqa: S105  # where it is
EXTERNAL = "10.0.0.99"
VXLAN, HOST_GW, UDP = ({**NETWORK, "Backend": {"Type": kind}} for kind in ("vxlan", "host-gw", "udp"))


@pytest.fixture(scope="module")
def shared() -> Iterator[tuple[World, list[Pod]]]:
    with bgp_world(3, most_lines=250) as up:
        yield up, meshed(up)


@pytest.fixture
def world(shared: tuple[World, list[Pod]]) -> World:
    """Everybody has a session with everybody, as by the plain config."""
    change_to(shared[0], bgp())
    await_sessions(shared[0])
    return shared[0]


@pytest.fixture
def pods(shared: tuple[World, list[Pod]]) -> list[Pod]:
    return shared[1]


def change_to(world: World, network: dict[str, object]) -> None:
    """Write it, unless it is what there is."""
    if world.etcd.keys("/coreos.com/network/config")[""].value != json.dumps(network):
        change(world, network)


def await_sessions(world: World) -> None:
    for name in HOSTS:
        host = world.lab.host(name)
        eventually(lambda host=host: len(established(host)) == 2, f"both sessions of {name}")  # type: ignore[misc]


def all_connections(world: World) -> set[str]:
    return {connection for name in HOSTS for connection in connections(world.lab.host(name))}


@pytest.mark.parametrize(
    "keys",
    [
        pytest.param({"MaxPrefix": 17}, id="max-prefix"),
        pytest.param({"Communities": ["64512:100"]}, id="communities"),
        pytest.param({"Import": [{"Match": {"Prefix": "10.96.0.0/12"}, "Action": "refuse"}]}, id="import rules"),
        pytest.param({"Peers": [{"Address": EXTERNAL, "AS": 65101}]}, id="a router more"),
    ],
)
def test_what_is_not_about_a_session_leaves_it_alone(world: World, pods: list[Pod], keys: dict[str, object]) -> None:
    before = all_connections(world)
    with nothing_lost(pods):
        change(world, {**NETWORK, "Backend": {"Type": "bgp", **keys}})
        await_sessions(world)
    assert all_connections(world) == before
    assert (EXTERNAL in peers_of(world.lab.host("h1"))) is ("Peers" in keys)


def test_communities_reach_the_others(world: World) -> None:
    change(world, bgp(Communities=["64512:100"]))
    told = eventually(lambda: [route for route in asked(world.lab.host("h1"), do="routes") if route["communities"]], "communities")
    assert {tuple(route["communities"]) for route in told} == {("64512:100",)}


def test_another_hold_time_makes_every_session_anew_and_no_packet_is_lost(world: World, pods: list[Pod]) -> None:
    before = all_connections(world)
    with nothing_lost(pods):
        change(world, bgp(HoldTime=30))
        eventually(lambda: not before & all_connections(world), "others")
        await_sessions(world)


def test_a_password_comes_and_another_takes_its_place_and_no_packet_is_lost(world: World, pods: list[Pod]) -> None:
    for password in ("first", "second"):
        before = all_connections(world)
        for name in HOSTS:
            write_file(world.lab.host(name), STATE.parents[2] / "bgp-password", password)
        with nothing_lost(pods):
            if password == "first":  # noqa: S105  # a password of tests
                change(world, bgp(PasswordFile=PASSWORD_FILE))
            eventually(lambda before=before: not before & all_connections(world), "others", 30)  # type: ignore[misc]
            await_sessions(world)


WRONG = {
    "Backend.AS": bgp(AS=0),
    "Backend.BFD.Intervall": bgp(BFD={"Intervall": 100}),
    "Backend.Peers[0].AS": bgp(Peers=[{"Address": EXTERNAL, "AS": 23456}]),
}


@pytest.mark.parametrize(("key", "network"), WRONG.items())
def test_a_wrong_value_is_named_and_changes_nothing(world: World, key: str, network: dict[str, object]) -> None:
    before, since = all_connections(world), [len(one.lines()) for one in world.daemons]
    world.configure(network)
    for one, count in zip(world.daemons, since, strict=True):
        eventually(lambda one=one, count=count: any(key in str(line) for line in one.lines()[count:]), f"{key} named by {one}")  # type: ignore[misc]
    assert all_connections(world) == before


def test_a_wrong_value_at_the_start_is_the_end() -> None:
    with bgp_world(1, HoldTime=2) as up:
        assert "HoldTime" in up.start("h1").fails()


@pytest.mark.parametrize("other", ["vxlan", "host-gw", "udp"])
def test_a_cluster_that_has_never_spoken_bgp_changes_over_and_no_packet_is_lost(other: str) -> None:
    with bgp_world(2) as up:
        up.configure({**NETWORK, "Backend": {"Type": other}})
        found = meshed(up)
        with nothing_lost(found):
            change(up, bgp())
            eventually(lambda: published(up) == {"bgp"}, "every lease says so")
            eventually(lambda: established(up.lab.host("h1")), "the session")
            all_reach_all(found)
        assert len(routes(up.lab.host("h1"))) == 1


STORIES = {"vxlan": VXLAN, "host-gw": HOST_GW, "udp": UDP}


@pytest.mark.parametrize("other", STORIES)
def test_a_cluster_comes_to_bgp_and_goes_again_and_no_packet_is_lost(world: World, pods: list[Pod], other: str) -> None:
    with nothing_lost(pods):
        for network in (STORIES[other], bgp()):
            change(world, network)
            kind = str(network["Backend"]["Type"])  # type: ignore[index]
            eventually(lambda kind=kind: published(world) == {"" if kind == "udp" else kind}, "every lease says so")  # type: ignore[misc]
            all_reach_all(pods)
    await_sessions(world)


@pytest.mark.parametrize("story", [(VXLAN, bgp()), (bgp(), VXLAN)], ids=["to bgp", "to vxlan"])
def test_hosts_change_over_one_by_one(world: World, pods: list[Pod], story: tuple[dict[str, object], dict[str, object]]) -> None:
    change_to(world, story[0])
    all_reach_all(pods)
    late = world.daemons[1]
    with nothing_lost(pods):
        late.process.send_signal(signal.SIGSTOP)
        world.configure(story[1])
        eventually(lambda: len(published(world)) == 2, "some speak the new one, one does not")
        all_reach_all(pods)
        late.process.send_signal(signal.SIGCONT)
        eventually(lambda: len(published(world)) == 1, "all speak it")
        all_reach_all(pods)


def test_of_bgp_nothing_is_left_once_nobody_speaks_it(world: World) -> None:
    pids = [pid for name in HOSTS for pid in exabgp(world.lab.host(name))]
    change(world, VXLAN)
    for name in HOSTS:
        host = world.lab.host(name)
        eventually(lambda host=host: not exabgp(host) and not host.call(STATE.exists), "nothing", LINGER_S + WAIT_S)  # type: ignore[misc]
        assert "eth0 proto 84" not in run(host, "ip route")
        assert "blackhole" not in run(host, "ip route")
        assert routes(host)
    assert len(pids) == 3
    assert [pid for pid in pids if is_alive(pid)] == []
