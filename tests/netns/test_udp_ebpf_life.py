"""The udp backend's data path in the kernel: how it comes, is repaired, taken over and goes, beside what is not ours."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from ebpf_world import HOSTS, PODS, PORT, SUBNETS, EbpfWorld
from flanneld.backend import BackendError
from flanneld.backends.udp.ebpf.kernel_path import OBJECT, SETTINGS, KernelPath, remove_leftovers
from flanneld.backends.udp.ebpf.table import Table
from flanneld.kernel import KernelError
from flanneld.linux import bpf

TREE = Path(__file__).resolve().parents[2]
STRANGER = "filter add dev eth0 ingress protocol ip prio 5 u32 match ip dst 203.0.113.9 flowid 1:1"
SHORT_LIVED = """
import sys, time
from ipaddress import IPv4Address, IPv4Network
from flanneld.backends.udp.ebpf.kernel_path import KernelPath
from flanneld.linux.netlink import Netlink
path = KernelPath(Netlink(), int(sys.argv[1]), int(sys.argv[2]), IPv4Address("192.0.2.1"), 8285, True)
table = {IPv4Network("10.5.2.0/24"): IPv4Address("192.0.2.2")}
path.reach(table, table)
print("up", flush=True)
time.sleep(60)
"""


@pytest.fixture
def world() -> Iterator[EbpfWorld]:
    made = EbpfWorld()
    with made.up(1, 2):
        yield made


@pytest.fixture
def bare() -> Iterator[EbpfWorld]:
    """No host has a path."""
    made = EbpfWorld()
    with made.up():
        yield made


def tc(world: EbpfWorld, line: str) -> None:
    world.execute("host1", "tc", *line.split())


def kill_one(world: EbpfWorld) -> None:
    """Let a daemon make host 1's path, and kill it."""
    numbers = (str(number) for number in (world.ends[1].uplink, world.ends[1].tun.index))
    command = ("ip", "netns", "exec", world.name_of("host1"), sys.executable, "-P", "-c", SHORT_LIVED, *numbers)
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={"PYTHONPATH": str(TREE), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
    ) as one:
        assert one.stdout is not None
        assert one.stdout.readline() == "up\n"
        one.send_signal(signal.SIGKILL)


def test_a_host_without_libbpf_says_so(bare: EbpfWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bpf, "LIBRARY", "libbpf.so.none")
    bpf._library.cache_clear()
    with pytest.raises(BackendError, match=r"libbpf\.so\.none is not installed \(Debian package libbpf1\)$"):
        bare.attach(1)
    monkeypatch.undo()
    bare.attach(1).close()


def test_what_the_kernel_cannot_load_is_refused_in_words() -> None:
    with pytest.raises(KernelError, match="bpf object"):
        bpf.BpfObject(b"no program")
    with bpf.BpfObject(OBJECT.read_bytes()) as loaded, pytest.raises(KernelError, match="bpf program from_nowhere: no such file"):
        loaded.program("from_nowhere")
    loaded.close()


def test_a_table_that_is_full_is_filled_when_there_is_room() -> None:
    """`settings` has one place, at key 0."""
    with bpf.BpfObject(OBJECT.read_bytes()) as loaded:
        table = Table(loaded.map("settings"))
        good, bad = bytes(4), b"\1\0\0\0"
        with pytest.raises(KernelError, match="bpf map settings"):
            table.add({good: b"\1" * SETTINGS.size, bad: bytes(SETTINGS.size)})
        assert loaded.map("settings").entries() == {good: b"\1" * SETTINGS.size}
        table.add({good: b"\2" * SETTINGS.size})
        assert loaded.map("settings").lookup(good) == b"\2" * SETTINGS.size


def test_nothing_stays(world: EbpfWorld) -> None:
    assert world.shown(1)
    world.paths[1].close()
    assert world.shown(1) == ""
    world.paths[1].close()
    world.attach(1)
    world.reach(1)
    world.ping("pod1", PODS[2])
    world.paths[1].close()
    assert world.shown(1) == ""


def test_what_is_not_ours_stays(bare: EbpfWorld) -> None:
    tc(bare, "qdisc add dev eth0 clsact")
    bare.attach(1).close()
    tc(bare, STRANGER)
    before = bare.shown(1)
    bare.attach(1).close()
    assert "u32" in before
    assert bare.shown(1) == before


def test_a_stranger_who_joins_stays_too(world: EbpfWorld) -> None:
    tc(world, STRANGER)
    world.ping("pod1", PODS[2])
    world.paths[1].close()
    assert "u32" in world.shown(1)
    assert "tartan" not in world.shown(1)


def test_an_ingress_queue_of_a_strangers_does(bare: EbpfWorld) -> None:
    tc(bare, "qdisc add dev eth0 ingress")
    for number in (1, 2):
        bare.attach(number)
        bare.reach(number)
    bare.ping("pod1", PODS[2])
    for path in bare.paths.values():
        path.close()
    assert "ingress" in bare.execute("host1", "tc", "qdisc", "show", "dev", "eth0")


DAMAGE = [
    "tc filter del dev eth0 ingress",
    "tc qdisc del dev eth0 clsact",
    "tc filter del dev flannel0 egress",
    "tc qdisc del dev flannel0 clsact",
    "ip link del flgro2a",
    "ip link set flgro2b down",
    "tc qdisc del dev flgro2a ingress",
    "ethtool -K flgro2b gro off",
    "ethtool -K flgro2b tx on",
    "ip link del flgro2v",
    "ip link set flgro2v down",
]


@pytest.mark.parametrize("damage", DAMAGE)
def test_what_was_taken_away_comes_back(world: EbpfWorld, damage: str) -> None:
    path, whole = world.paths[1], world.shown(1).count("direct-action")
    assert not world.run("host1", path.restore)
    assert world.ends[1].uplink == 2
    world.execute("host1", *damage.split())
    assert world.run("host1", path.restore)
    assert not world.run("host1", path.restore)
    world.ping("pod1", PODS[2])
    content = bytes(range(256)) * 4000
    assert world.transferred(content) == content
    assert world.shown(1).count("direct-action") == whole
    path.close()
    assert "tartan" not in world.shown(1)
    assert "flgro" not in world.shown(1)


def test_repair_says_that_the_tun_is_gone(world: EbpfWorld) -> None:
    world.ip("host1", "link del flannel0")
    with pytest.raises(KernelError, match=r"filters of link .*no such device"):
        world.run("host1", world.paths[1].restore)
    world.paths[1].close()
    assert "flgro" not in world.execute("host1", "ip", "link")


def test_a_killed_daemons_path_works_on_and_is_taken_over(bare: EbpfWorld) -> None:
    kill_one(bare)
    left = bare.shown(1)
    bare.attach(2)
    bare.reach(2)
    bare.ping("pod1", PODS[2])
    bare.attach(1)
    bare.reach(1)
    bare.ping("pod1", PODS[2])
    content = bytes(range(256)) * 4000
    assert bare.transferred(content) == content
    assert bare.shown(1).count("direct-action") == left.count("direct-action") == 2
    for path in bare.paths.values():
        path.close()
    assert bare.shown(1) == ""


def test_what_a_killed_daemon_left_can_be_taken_away(bare: EbpfWorld) -> None:
    remove_leftovers(bare.ends[1].netlink, bare.ends[1].uplink)
    kill_one(bare)
    assert bare.shown(1)
    remove_leftovers(bare.ends[1].netlink, bare.ends[1].uplink)
    assert bare.shown(1) == ""


def test_a_second_daemon_on_the_uplink_is_refused_and_disturbs_nothing(world: EbpfWorld) -> None:
    with pytest.raises(BackendError, match="already serves udp in the kernel on link 2"):
        world.attach(1)
    world.ping("pod1", PODS[2])


def test_ipsec_is_not_gone_around(bare: EbpfWorld) -> None:
    bare.attach(1)
    bare.ip("host1", "xfrm policy add src 192.0.2.1/32 dst 192.0.2.2/32 dir out tmpl proto esp mode transport")
    with pytest.raises(BackendError, match="ipsec policies"):
        bare.run("host1", bare.paths[1].restore)
    bare.paths[1].close()
    with pytest.raises(BackendError, match="ipsec policies"):
        bare.attach(1)


@pytest.mark.parametrize(("uplink", "tun"), [("lo", "flannel0"), ("eth0", "lo2")])
def test_a_path_that_cannot_be_leaves_nothing(bare: EbpfWorld, uplink: str, tun: str) -> None:
    ends = bare.ends[1]
    indexes = {"lo": 1, "eth0": ends.uplink, "flannel0": ends.tun.index, "lo2": 999}
    with pytest.raises((BackendError, KernelError), match=r"expected 1 \(ethernet\)|no such device"):
        bare.run("host1", KernelPath, ends.netlink, indexes[uplink], indexes[tun], HOSTS[1], PORT, strict=True)
    assert bare.shown(1) == ""
    bare.attach(1).close()


def test_a_strangers_interface_of_that_name_stays(bare: EbpfWorld) -> None:
    bare.ip("host1", "link add flgro2a type bridge")
    with pytest.raises(KernelError, match="there is a bridge device of that name"):
        bare.attach(1)
    assert "flgro2a" in bare.shown(1)
    assert "tartan" not in bare.shown(1)


def test_thousands_of_peers_are_told_once_and_then_differences(world: EbpfWorld) -> None:
    subnets = IPv4Network("10.6.0.0/16").subnets(new_prefix=28)
    many = {subnet: IPv4Address(0x0A00_0000 + place) for place, subnet in enumerate(subnets)} | {SUBNETS[2]: HOSTS[2]}
    world.paths[1].reach(many, many)
    world.ping("pod1", PODS[2])
    world.paths[1].reach({SUBNETS[2]: HOSTS[2]}, many)
    world.ping("pod1", PODS[2])
