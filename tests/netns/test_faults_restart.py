"""However a daemon ends and starts again, packets do not notice: the kernel goes on, or they wait for the next daemon."""

from __future__ import annotations

import random
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from flanneld_world import NETWORK, World, eventually, flanneld_world, own_subnet, run, vxlan_entries
from traffic import address_of, await_peers, meshed, ping, steady_ping

ENDS = {"kill -9": signal.SIGKILL, "SIGTERM": signal.SIGTERM}
AT_MOST_LOST = 5
"""Of echoes 10 ms apart: 50 ms."""
AT_ANY_MOMENT = random.Random(4)


@pytest.fixture
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    with flanneld_world(2) as up:
        up.configure({**NETWORK, "Backend": {"Type": getattr(request, "param", "vxlan")}})
        yield up


def restarted(world: World, number: int) -> None:
    """The daemon of h1 ends and another takes its place."""
    world.daemons[0].end(number)
    world.daemons[0] = world.start("h1").ready()
    world.daemons.pop()
    await_peers(world.daemons[0], 1)


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("world", ["vxlan", "host-gw"], indirect=True)
def test_kernel_backends_lose_nothing(world: World, end: str) -> None:
    one, two = meshed(world)
    with steady_ping(one, address_of(two)) as there, steady_ping(two, address_of(one)) as back:
        for _ in range(2):
            restarted(world, ENDS[end])
    assert (there.lost, back.lost) == (0, 0)


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("world", ["udp"], indirect=True)
def test_udp_goes_on_where_it_stopped(world: World, end: str) -> None:
    """What comes meanwhile waits in the TUN and in the socket, and is late instead of lost."""
    one, two = meshed(world)
    index = run(world.lab.host("h1"), "cat /sys/class/net/flannel0/ifindex")
    with steady_ping(one, address_of(two)) as there, steady_ping(two, address_of(one)) as back:
        for _ in range(2):
            restarted(world, ENDS[end])
            eventually(lambda: ping(one, address_of(two)), "pods that reach each other")
    print(f"{end}: {there.lost} and {back.lost} lost of {there.sent} and {back.sent}")
    assert max(there.lost, back.lost) <= AT_MOST_LOST
    assert run(world.lab.host("h1"), "cat /sys/class/net/flannel0/ifindex") == index


@pytest.mark.parametrize("world", ["udp"], indirect=True)
def test_a_tun_that_was_deleted_while_no_daemon_ran_is_made_anew(world: World) -> None:
    one, two = meshed(world)
    world.daemons[0].end(signal.SIGKILL)
    run(world.lab.host("h1"), "ip link del flannel0")
    world.daemons[0] = world.start("h1").ready()
    eventually(lambda: ping(one, address_of(two)), "pods that reach each other")


@pytest.mark.parametrize("world", ["udp"], indirect=True)
def test_of_a_udp_backend_that_was_left_nothing_is_kept(world: World) -> None:
    meshed(world)
    world.configure(NETWORK)
    for one in world.daemons:
        one.await_said("former backend retired", 30)
        assert "flannel0" not in run(one.host, "ip link")


def test_killed_at_any_moment_of_its_start_it_starts_well_the_next_time(world: World) -> None:
    two = world.start("h2").ready()
    for _ in range(12):
        killed = world.start("h1", "--cni-socket=")
        time.sleep(AT_ANY_MOMENT.uniform(0.05, 0.5))
        killed.end(signal.SIGKILL)
    one = world.start("h1").ready()
    await_peers(one, 1)
    assert len(world.etcd.keys()) == 2, "one lease each"
    assert run(one.host, "ip -o link show type vxlan").count("flannel.") == 1
    assert len(vxlan_entries(one.host)) == 3
    eventually(lambda: len(vxlan_entries(two.host)) == 3, "the peer, once")


def test_an_upgrade_is_a_restart_with_another_program(world: World, tmp_path: Path) -> None:
    """The new version is another tree; it finds what the old one left."""
    one, two = meshed(world)
    root = Path(__file__).parents[2]
    for package in ("flanneld", "hostgw"):
        shutil.copytree(root / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(root / "cni-plugins/cni", tmp_path / "cni")
    subnet = own_subnet(world.lab.host("h1"))
    with steady_ping(one, address_of(two)) as there, steady_ping(two, address_of(one)) as back:
        world.daemons[0].end()
        world.start("h1", environ={"PYTHONPATH": str(tmp_path)}).ready()
    assert (there.lost, back.lost) == (0, 0)
    assert own_subnet(world.lab.host("h1")) == subnet
