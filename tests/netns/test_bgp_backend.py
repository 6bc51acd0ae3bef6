"""Hosts that tell each other of their pods by BGP: what is in their kernels, that pods reach each other, what is left."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator

import pytest

from bgp_world import STATE, again, all_reach_all, bgp_world, established, exabgp, is_alive, routes
from flanneld_world import World, eventually, own_subnet, readyz, run
from lab.daemon import PROGRAM
from lab.pods import LabHost, Pod
from netns.test_cleanup import clean
from traffic import meshed

NAMES = ("h1", "h2", "h3")
FOREIGN = (
    "ip route add 10.99.0.0/24 via 10.0.0.1",
    "ip route add 10.244.0.0/17 via 10.0.0.1 metric 4000",
    "ip -6 route add fd00:99::/64 via fd00:10::1",
)


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with bgp_world(3, ipv6=True) as up:
        for host in up.lab.hosts:
            for line in FOREIGN:
                run(host, line)
        yield up


@pytest.fixture(scope="module")
def pods(world: World) -> list[Pod]:
    before = [foreign(host) for host in world.lab.hosts]
    found = meshed(world)
    assert [foreign(host) for host in world.lab.hosts] == before
    return found


def foreign(host: LabHost) -> list[str]:
    """Routes that others made, but for the pod bridge's."""
    lines = run(host, "ip route").splitlines() + run(host, "ip -6 route").splitlines()
    return [line for line in lines if "proto 84" not in line and "cni0" not in line and "veth" not in line]


def test_pods_reach_each_other_in_both_families(pods: list[Pod]) -> None:
    all_reach_all(pods, (4, 6))


@pytest.mark.usefixtures("pods")
def test_each_host_has_a_route_to_every_other_subnet_and_an_end_for_its_own(world: World) -> None:
    subnets = {host.name: own_subnet(host) for host in world.lab.hosts}
    h1 = world.lab.host("h1")
    assert routes(h1) == {f"{subnets['h2']}/24": "10.0.0.12", f"{subnets['h3']}/24": "10.0.0.13"}
    assert sorted(routes(h1, 6).values()) == ["fd00:10::12", "fd00:10::13"]
    assert f"blackhole {subnets['h1']}/24 proto 84" in run(h1, "ip route")
    assert "blackhole fd00:10:244:" in run(h1, "ip -6 route show proto 84")


@pytest.mark.usefixtures("pods")
def test_two_hosts_have_one_session_whatever_the_families(world: World) -> None:
    assert [established(world.lab.host(name)) for name in NAMES] == [
        {"10.0.0.12", "10.0.0.13"},
        {"10.0.0.11", "10.0.0.13"},
        {"10.0.0.11", "10.0.0.12"},
    ]


def test_a_route_that_somebody_deleted_is_put_back_and_a_foreign_one_left_alone(world: World, pods: list[Pod]) -> None:
    h1 = world.lab.host("h1")
    before = routes(h1), foreign(h1)
    for destination in before[0]:
        run(h1, f"ip route del {destination}")
    eventually(lambda: (routes(h1), foreign(h1)) == before, "the routes")
    all_reach_all(pods)


def test_an_uplink_that_was_down_takes_no_route_along_for_long(world: World, pods: list[Pod]) -> None:
    h1 = world.lab.host("h1")
    before = routes(h1), routes(h1, 6)
    run(h1, "ip link set eth0 down")
    eventually(lambda: routes(h1) == {}, "no route")
    run(h1, "ip link set eth0 up")
    run(h1, "ip -6 addr add fd00:10::11/64 dev eth0 nodad", check=False)  # the kernel takes it away with the link
    for line in ("ip route add default via 10.0.0.1", "ip -6 route add default via fd00:10::1", *FOREIGN):
        run(h1, line, check=False)
    eventually(lambda: (routes(h1), routes(h1, 6)) == before, "the routes")
    all_reach_all(pods, (4, 6))


@pytest.mark.usefixtures("pods")
def test_a_dry_run_and_the_doctor_look_on_and_disturb_nobody(world: World) -> None:
    h1 = world.lab.host("h1")
    before = exabgp(h1), established(h1), routes(h1)
    lines = len(world.daemons[0].lines())
    ended = h1.run([*PROGRAM, "--dry-run", "--ip-masq", "--iface=eth0"])
    assert ended.stdout.splitlines() == ["nothing would change"]
    doctor = h1.run([sys.executable, "-P", "-m", "tartan", "doctor"], check=False)
    assert doctor.returncode == 0, doctor.stdout
    assert (exabgp(h1), established(h1), routes(h1)) == before
    assert len(world.daemons[0].lines()) == lines


@pytest.mark.usefixtures("pods")
def test_a_dry_run_without_a_daemon_starts_nothing(world: World) -> None:
    h3 = world.lab.host("h3")
    world.daemons[2].end()
    (pid,) = exabgp(h3)
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: exabgp(h3) == [], "no exabgp")
    h3.run([*PROGRAM, "--dry-run", "--iface=eth0"])
    assert exabgp(h3) == []
    again(world, "h3", 2)


def test_cleanup_ends_exabgp_and_neighbours_forget_us_at_once(world: World, pods: list[Pod]) -> None:
    h1, h3 = world.lab.host("h1"), world.lab.host("h3")
    subnet = f"{own_subnet(h3)}/24"
    world.daemons[2].end()
    assert subnet in routes(h1)
    assert "exabgp" in clean(h3, "--dry-run")
    assert exabgp(h3)
    clean(h3, "--yes")
    assert exabgp(h3) == []
    assert not h3.call(STATE.exists)
    eventually(lambda: subnet not in routes(h1), "no route to it", 3)
    assert clean(h3, "--yes") == "nothing to remove\n"
    again(world, "h3", 2)
    eventually(lambda: readyz(h3)[0] == 200, "ready")


def test_a_lab_that_is_down_leaves_no_exabgp() -> None:
    with bgp_world(2) as up:
        meshed(up)
        pids = [pid for host in up.lab.hosts for pid in exabgp(host)]
        assert len(pids) == 2
    assert [pid for pid in pids if is_alive(pid)] == []
