"""What a udp daemon leaves behind for the next: who keeps it, what else of the host that may touch, and for how long."""

from __future__ import annotations

import os
import random
import signal
import socket
import sys
import time
from array import array
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from flanneld.linux.holder import HOLD_S
from flanneld_world import NETWORK, Flanneld, World, eventually, flanneld_world, run
from lab.pods import LabHost
from traffic import address_of, await_peers, meshed, ping, steady_ping

UDP = {**NETWORK, "Backend": {"Type": "udp"}}
AT_MOST_LOST = 5
AT_ANY_MOMENT = random.Random(8285)
AT_MOST_PRIVATE_KIB = 8 << 10

HANDED_OVER = """
import ctypes, fcntl, os, sys
manager, names, count = os.pidfd_open(int(sys.argv[1])), sys.argv[2], int(sys.argv[3])
pidfd_getfd = 438
taken = [ctypes.CDLL(None).syscall(pidfd_getfd, manager, int(place), 0) for place in sys.argv[4:4 + count]]
for place, descriptor in enumerate([fcntl.fcntl(one, fcntl.F_DUPFD, 100) for one in taken]):
    os.dup2(descriptor, 3 + place)
    os.close(descriptor)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(count), "LISTEN_FDNAMES": names}
os.execvp(sys.argv[4 + count], sys.argv[4 + count:])
"""
"""Becomes a command that has descriptors of another process as its own, from 3 on, as sd_listen_fds(3) has it."""


@dataclass
class Manager:
    """A service manager as far as we speak to one: it keeps descriptors by name, and hands copies to the next run."""

    path: Path
    ear: socket.socket
    kept: dict[str, int] = field(default_factory=dict)

    @property
    def environ(self) -> dict[str, str]:
        return {"NOTIFY_SOCKET": str(self.path)}

    @property
    def hands_over(self) -> list[str]:
        """What the next run is started by."""
        places = map(str, self.kept.values())
        return [sys.executable, "-c", HANDED_OVER, str(os.getpid()), ":".join(self.kept), str(len(self.kept)), *places]

    def keeps(self, *keys: str) -> bool:
        """True if it has been asked to keep exactly these by now."""
        with suppress(BlockingIOError):
            while True:
                said, rights, _, _ = self.ear.recvmsg(500, 100)
                self._hear(dict(line.split("=", 1) for line in said.decode().splitlines()), rights)
        return sorted(name.rpartition("-")[2] for name in self.kept) == sorted(keys)

    def _hear(self, said: dict[str, str], rights: list[tuple[int, int, bytes]]) -> None:
        if "FDSTOREREMOVE" in said and said["FDNAME"] in self.kept:
            os.close(self.kept.pop(said["FDNAME"]))
        if "FDSTORE" in said:
            assert said["FDNAME"] not in self.kept, "two of one name"
            (self.kept[said["FDNAME"]],) = array("i", rights[0][2])


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as ear:
        ear.bind(str(tmp_path / "notify"))
        made = Manager(tmp_path / "notify", ear)
        yield made
        for descriptor in made.kept.values():
            os.close(descriptor)


@pytest.fixture
def world() -> Iterator[World]:
    with flanneld_world(2) as up:
        up.configure(UDP)
        yield up


def holders(host: LabHost) -> list[Path]:
    """The processes in that host's network that keep descriptors, as directories in /proc."""
    network = run(host, "readlink /proc/self/ns/net").strip()
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has just ended
            if b"holder.py" in (process / "cmdline").read_bytes() and str((process / "ns/net").readlink()) == network:
                found.append(process)
    return found


def devices(host: LabHost) -> list[str]:
    """The host's TUNs as NAME/INDEX."""
    links = [line.split(": ")[:2] for line in run(host, "ip -o link").splitlines()]
    return [f"{name}/{index}" for index, name in links if name.startswith("flannel")]


def replaced(world: World, number: int, **how: object) -> Flanneld:
    """The daemon of h1 ends, and another takes its place."""
    world.daemons[0].end(number)
    world.daemons[0] = world.start("h1", **how)  # type: ignore[arg-type]  # before and environ, as there
    world.daemons.pop()
    return world.daemons[0].ready()


def test_killed_at_any_moment_of_its_start_it_goes_on_with_one_device(world: World) -> None:
    one, two = meshed(world)
    for _ in range(10):
        world.daemons[0].end(signal.SIGKILL)
        world.daemons[0] = world.start("h1")
        world.daemons.pop()
        time.sleep(AT_ANY_MOMENT.uniform(0.05, 0.35))
    await_peers(replaced(world, signal.SIGKILL), 1)
    eventually(lambda: ping(one, address_of(two)), "pods that reach each other")
    host = world.lab.host("h1")
    assert [device.partition("/")[0] for device in devices(host)] == ["flannel0"]
    assert len(holders(host)) == 1


@pytest.mark.parametrize("network", ["10.244.0.0/15", "10.200.0.0/16"], ids=["grown", "another"])
def test_another_pod_network_finds_the_port_and_the_device_of_the_one_before(world: World, network: str) -> None:
    host = world.start("h1").ready().host
    before = devices(host)
    world.daemons[0].end(signal.SIGKILL)
    world.configure({**UDP, "Network": network})
    world.start("h1").ready()
    assert devices(host) == before
    assert len(run(host, f"ip route show {network}").splitlines()) == 1


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_a_service_manager_hands_it_to_the_next_run(world: World, manager: Manager, end: int) -> None:
    for daemon in (world.start("h1", environ=manager.environ), world.start("h2")):
        await_peers(daemon.ready(), 1)
    eventually(lambda: manager.keeps("tun", "underlay"), "what is kept")
    one, two = (world.lab.host(name).pod("p1") for name in ("h1", "h2"))
    before = devices(world.lab.host("h1"))
    assert not holders(world.lab.host("h1"))
    with steady_ping(one, address_of(two)) as there, steady_ping(two, address_of(one)) as back:
        await_peers(replaced(world, end, environ=manager.environ, before=manager.hands_over), 1)
        eventually(lambda: ping(one, address_of(two)), "pods that reach each other")
    print(f"{there.lost} and {back.lost} lost of {there.sent} and {back.sent}")
    assert max(there.lost, back.lost) <= AT_MOST_LOST
    assert devices(world.lab.host("h1")) == before


def test_a_manager_keeps_nothing_for_a_config_that_is_not_udps(world: World, manager: Manager) -> None:
    """Nobody remembers that it was: only the descriptors tell."""
    host = world.start("h1", environ=manager.environ).ready().host
    eventually(lambda: manager.keeps("tun", "underlay"), "what is kept")
    world.daemons[0].end()
    run(host, "rm /run/flannel/subnet.env.memory")
    world.configure(NETWORK)
    world.start("h1", environ=manager.environ, before=manager.hands_over).ready()
    eventually(lambda: manager.keeps() and devices(host)[0].startswith("flannel.1/"), "no trace")
    assert len(devices(host)) == 1


def test_the_holder_has_nothing_of_the_daemons_but_what_it_keeps(world: World) -> None:
    daemon = world.start("h1").ready()
    (holder,) = holders(daemon.host)
    kinds = sorted(str(place.readlink()).partition(":")[0] for place in (holder / "fd").iterdir())
    assert kinds == ["/dev/net/tun", *["/dev/null"] * 3, *["socket"] * 3], "listener, daemon, underlay"
    assert (holder / "cwd").readlink() == Path("/")
    assert (holder / "environ").read_bytes() == b""
    assert os.getsid(int(holder.name)) != os.getsid(daemon.process.pid), "no terminal reaches both"
    memory = dict(line.split()[:2] for line in (holder / "smaps_rollup").read_text().splitlines()[1:])
    print(f"holder: rss {memory['Rss:']} KiB, pss {memory['Pss:']} KiB, private {memory['Private_Dirty:']} KiB")
    assert int(memory["Private_Dirty:"]) <= AT_MOST_PRIVATE_KIB


def test_what_nobody_comes_back_for_goes_by_itself(world: World) -> None:
    host = world.start("h1").ready().host
    world.daemons[0].end(signal.SIGTERM)
    assert devices(host)
    assert holders(host)
    eventually(lambda: not devices(host) and not holders(host), "no trace", HOLD_S + 15)
