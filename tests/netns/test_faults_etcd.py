"""etcd may be away, slow, half gone or forgetful: pods go on, and a change is in the kernel soon after the first answer."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from flanneld_world import (
    PREFIX,
    Flanneld,
    World,
    eventually,
    flanneld_world,
    peer_entries,
    readyz,
    run,
    vxlan_entries,
    vxlan_lease,
)
from lab.etcd import start_etcd
from slow_relay import slow_relay
from traffic import address_of, await_peers, meshed, ping, steady_ping

FAST_CLOCK = Path(__file__).parents[1] / "fast_clock.py"
KEY = f"{PREFIX}/subnets/10.244.9.0-24"
PEER = ("10.244.9.0", "10.0.0.99", "0e:00:00:00:00:02")
MOVED = ("10.244.9.0", "10.0.0.98", "0e:00:00:00:00:03")


@pytest.fixture
def world() -> Iterator[World]:
    with flanneld_world(2) as up:
        yield up


def kill_etcd(world: World) -> None:
    assert world.lab.etcd_process is not None
    world.lab.etcd_process.kill()
    world.lab.etcd_process.wait()


@contextmanager
def etcd_again(world: World) -> Iterator[None]:
    """Start it with the data that it had; it is ours to end."""
    etcd = start_etcd(world.lab.fabric, world.lab.etcd_url, world.lab.directory / "fabric")
    try:
        yield
    finally:
        etcd.kill()
        etcd.wait()


def changed_lines(one: Flanneld) -> list[str]:
    """What it said about the store."""
    return [line["event"] for line in one.lines() if "store" in line["event"] or "lease" in line["event"]]


def entries_of(world: World, name: str = "h1") -> set[str]:
    return {entry for entry in vxlan_entries(world.lab.host(name)) if "10.244.9.0" in entry or "0e:00" in entry}


def test_ten_minutes_without_etcd_are_nothing_to_pods_and_a_change_is_followed_at_once(world: World) -> None:
    """The daemons' clocks go sixty times as fast: ten seconds are ten minutes to them."""
    daemons = [world.start(name, before=(sys.executable, str(FAST_CLOCK), "60")).ready() for name in ("h1", "h2")]
    for one in daemons:
        await_peers(one, 1)
    near, far = (one.host.pod("p1") for one in daemons)
    with steady_ping(near, address_of(far)) as there, steady_ping(far, address_of(near)) as back:
        kill_etcd(world)
        time.sleep(10)
        assert [readyz(one.host)[0] for one in daemons] == [200, 200]
        assert [one.process.poll() for one in daemons] == [None, None]
        with etcd_again(world):
            eventually(lambda: all("store is back" in changed_lines(one) for one in daemons), "its return")
            began = time.monotonic()
            world.etcd.put(KEY, vxlan_lease(*PEER[1:]))
            eventually(lambda: entries_of(world) == peer_entries(*PEER), "the change")
            print(f"followed {time.monotonic() - began:.3f} s after the put")
            for one in daemons:
                assert changed_lines(one) == ["lease acquired", "store is unreachable", "store is back"]
    assert (there.lost, back.lost) == (0, 0)


def test_an_etcd_that_takes_two_seconds_for_each_answer_is_served_all_the_same(world: World) -> None:
    with slow_relay(world.lab.fabric, 2399, 2379, 2.0):
        one = world.start("h1", "--etcd-endpoints=http://10.0.0.1:2399")
        one.await_said("ready", 60)
        world.etcd.put(KEY, vxlan_lease(*PEER[1:]))
        eventually(lambda: entries_of(world) == peer_entries(*PEER), "the peer")
        world.etcd.delete(KEY)
        eventually(lambda: not entries_of(world), "its departure")
        world.etcd.delete(f"{PREFIX}/subnets/")
        one.await_said("lease claimed again", 60)
        assert "store is unreachable" not in changed_lines(one)
        one.end(signal.SIGKILL)


def test_history_that_was_compacted_while_a_host_was_cut_off_is_made_up_for(world: World) -> None:
    meshed(world)
    one = world.daemons[0]
    world.etcd.put(KEY, vxlan_lease(*PEER[1:]))
    eventually(lambda: entries_of(world) == peer_entries(*PEER), "the peer")
    run(world.lab.fabric, "ip link set h1 down")
    for n in range(5):
        world.etcd.put(f"{PREFIX}/subnets/nonsense", str(n))
    world.etcd.put(KEY, vxlan_lease(*MOVED[1:]))
    world.etcd.delete(f"{PREFIX}/subnets/nonsense")
    world.lab.fabric.run(["etcdctl", "--endpoints=http://127.0.0.1:2379", "compact", "--physical", revision(world)])
    one.await_said("store is unreachable", 30)
    run(world.lab.fabric, "ip link set h1 up")
    eventually(lambda: entries_of(world) == peer_entries(*MOVED), "the peer as it is now", 30)
    assert "lease missing" not in changed_lines(one)


def revision(world: World) -> str:
    said = world.lab.fabric.run(["etcdctl", "--endpoints=http://127.0.0.1:2379", "get", "/", "-w", "fields"]).stdout
    return next(line.split()[-1] for line in said.splitlines() if line.startswith('"Revision"'))


@contextmanager
def three_members(world: World) -> Iterator[list[subprocess.Popen[str]]]:
    """Two more beside the lab's own, on 2479 and 2579."""
    started: list[subprocess.Popen[str]] = []
    names = ["default=http://127.0.0.1:2380"]
    try:
        for number, client in ((1, 2479), (2, 2579)):
            peer = f"http://127.0.0.1:{client + 1}"
            ctl = ["etcdctl", "--endpoints=http://127.0.0.1:2379", "member", "add", f"m{number}", f"--peer-urls={peer}"]
            eventually(lambda ctl=ctl: world.lab.fabric.run(ctl, check=False).returncode == 0, "a member")  # type: ignore[misc]
            names.append(f"m{number}={peer}")
            directory = world.lab.directory / "fabric"
            url = f"http://10.0.0.1:{client}"
            argv = ["etcd", f"--name=m{number}", f"--data-dir={directory / f'm{number}'}", "--unsafe-no-fsync", "--log-level=error"]
            argv += ["--heartbeat-interval=50", "--election-timeout=500", "--initial-cluster-state=existing"]
            argv += [f"--listen-client-urls={url}", f"--advertise-client-urls={url}", f"--listen-peer-urls={peer}"]
            argv += [f"--initial-advertise-peer-urls={peer}", f"--initial-cluster={','.join(names)}"]
            started.append(world.lab.fabric.start(argv, directory / f"m{number}.log"))
            health = ["etcdctl", f"--endpoints={url}", "endpoint", "health"]
            eventually(lambda health=health: world.lab.fabric.run(health, check=False).returncode == 0, "its health")  # type: ignore[misc]
        yield started
    finally:
        for process in started:
            process.kill()
            process.wait()


def test_of_three_members_one_may_die_whoever_it_is(world: World) -> None:
    with three_members(world):
        endpoints = "--etcd-endpoints=http://10.0.0.1:2379,http://10.0.0.1:2479,http://10.0.0.1:2579"
        one, two = meshed(world, flags=(endpoints,))
        with steady_ping(one, address_of(two)) as there:
            kill_etcd(world)  # which has led, and to which both were connected
            put = ["etcdctl", "--endpoints=http://10.0.0.1:2479,http://10.0.0.1:2579", "put", KEY, vxlan_lease(*PEER[1:])]
            eventually(lambda: world.lab.fabric.run(put, check=False).returncode == 0, "a new leader")
            eventually(lambda: entries_of(world) == entries_of(world, "h2") == peer_entries(*PEER), "the change, everywhere")
        assert there.lost == 0
        assert [daemon.process.poll() for daemon in world.daemons] == [None, None]
        assert ping(two, address_of(one))
