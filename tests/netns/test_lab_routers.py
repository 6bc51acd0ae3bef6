"""Labs with BGP routers: the example of two racks with a leaf each and a spine between; both families, with BFD; what can fail."""

from __future__ import annotations

import os
import signal
import socket
import struct
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from scapy.layers.inet import ICMP, IP

from flanneld_world import eventually, show
from lab import LabError
from lab.lab import Lab
from lab.ping import ping_all
from lab.place import Place
from lab.pods import Pod
from lab.routers import CONTROL, Sessions, sessions, start_bird
from lab.state import LABS, lab_names
from lab.topology import parse_topology, read_topology
from traffic import address_of, ping, tapped

LEAF_SPINE = Path(__file__).parents[2] / "examples/leaf-spine.toml"
HOPS = {2: "10.0.1.254", 3: "10.1.1.3", 4: "10.1.2.2"}
"""Who says that a packet's time to live was too short between the racks: leaf1, spine, leaf2."""
BOTH_FAMILIES = {
    "network": {
        "EnableIPv6": True,
        "IPv6Network": "fd00:10:244::/48",
        "Backend": {
            "Type": "bgp",
            "Mesh": False,
            "BFD": {"Interval": 100, "Multiplier": 3},
            "Hosts": [{"Select": f"name == h{n}", "AS": 65000 + n} for n in (1, 2)],
            "Peers": [
                {"Select": f"name == h{n}", "Address": address, "AS": 65100, "Families": [family]}
                for n in (1, 2)
                for family, address in ((4, f"10.0.{n}.254"), (6, f"fd00:{n}::fe"))
            ],
        },
    },
    "segment": [{"name": f"rack{n}", "subnet": f"10.0.{n}.0/24", "subnet6": f"fd00:{n}::/64"} for n in (1, 2)],
    "host": [{"name": f"h{n}", "segment": f"rack{n}"} for n in (1, 2)],
    "router": [{"name": "leaf", "asn": 65100, "bfd": True, "addresses": ["10.0.1.254", "10.0.2.254", "fd00:1::fe", "fd00:2::fe"]}],
}


def unique_name() -> str:
    return f"t-{uuid.uuid4().hex[:8]}"


def tartan(lab: Lab, *arguments: str) -> str:
    command = [sys.executable, "-m", "tartan", "lab", arguments[0], "--name", lab.name, *arguments[1:]]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout


def bird(router: Place) -> int:
    """Its process, which whoever connects to its control socket can ask for."""

    def peer() -> int:
        with socket.socket(socket.AF_UNIX) as control:
            control.connect(str(CONTROL))
            pid, _, _ = struct.unpack("3i", control.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
            return int(pid)

    return router.call(peer)


@pytest.fixture(scope="module")
def racks() -> Iterator[Lab]:
    with Lab.up(read_topology(LEAF_SPINE), name=unique_name()) as lab:
        yield lab


@pytest.fixture
def pods(racks: Lab) -> dict[str, Pod]:
    return {host.name: host.pod("p1") for host in racks.hosts}


def test_every_pod_answers_every_other(racks: Lab, pods: dict[str, Pod]) -> None:
    echoes = ping_all(list(pods.values()))
    assert [echo for echo in echoes if echo.rtt_s is None] == []
    assert len(echoes) == 12


def test_a_host_sends_to_its_rack_directly_and_to_others_by_its_leaf(racks: Lab) -> None:
    subnets = {host.name: str(env.subnets[0]) for host in racks.hosts if (env := host.subnet_env())}
    ways = {"h2": "10.0.1.12", "h3": "10.0.1.254", "h4": "10.0.1.254"}
    routes = [route for route in show(racks.host("h1"), "ip route show proto 84") if route.get("type") != "blackhole"]
    assert {route["dst"]: route["gateway"] for route in routes} == {subnets[host]: way for host, way in ways.items()}


@pytest.mark.parametrize("hops", HOPS)
def test_the_way_between_racks_is_leaf_spine_leaf(racks: Lab, pods: dict[str, Pod], hops: int) -> None:
    said = pods["h1"].run(["ping", "-c1", "-W2", f"-t{hops}", str(address_of(pods["h3"]))], check=False).stdout
    assert f"From {HOPS[hops]} icmp_seq=1 Time to live exceeded" in said


def test_on_the_spines_link_is_what_pods_sent_and_nothing_around_it(racks: Lab, pods: dict[str, Pod]) -> None:
    near, far = pods["h2"], pods["h4"]
    with tapped(racks.place("spine"), "up1") as tap:
        assert ping(near, address_of(far))
        frames = [frame for frame in tap.frames(outgoing=None) if IP in frame and frame[IP].proto != socket.IPPROTO_TCP]
    ends = {str(address_of(near)), str(address_of(far))}
    assert len(frames) == 6, "three echoes and their answers, and no tunnel's packet"
    assert all({frame[IP].src, frame[IP].dst} == ends and type(frame[IP].payload) is ICMP for frame in frames)


def test_a_leaf_can_be_asked_and_its_config_read(racks: Lab) -> None:
    subnet = racks.host("h3").subnet_env()
    assert subnet
    told = tartan(racks, "exec", "leaf1", "--", "birdc", "show", "route", "for", str(subnet.subnets[0][2]))
    assert "[spine " in told
    assert "[AS65002i]" in told
    assert "protocol bgp 'spine'" in tartan(racks, "exec", "leaf1", "--", "cat", "/run/bird/bird.conf")


def test_status_shows_routers_and_which_of_them_has_died(racks: Lab) -> None:
    spine, leaf = racks.place("spine"), racks.place("leaf2")
    assert tartan(racks, "status").count("3 of 3 sessions up") == 2
    os.kill(bird(leaf), signal.SIGKILL)
    eventually(lambda: sessions(spine) == Sessions(1, 2), "the spine has noticed")
    shown = tartan(racks, "status")
    assert "not running" in next(line for line in shown.splitlines() if "leaf2" in line)
    assert "1 of 2 sessions up" in next(line for line in shown.splitlines() if "spine" in line)


def test_pods_of_both_families_meet_in_a_router_that_watches_its_neighbours_by_bfd() -> None:
    with Lab.up(parse_topology(BOTH_FAMILIES), name=unique_name()) as lab:
        (leaf,) = lab.routers
        echoes = ping_all([host.pod("p1") for host in lab.hosts])
        assert [echo.failure for echo in echoes] == [""] * 4
        assert sessions(leaf) == Sessions(4, 4)
        assert eventually(lambda: leaf.run(["birdc", "show", "bfd", "sessions"]).stdout.count(" Up ") == 4, "bfd is up")
        process = bird(leaf)
    assert not Path(f"/proc/{process}/exe").exists()
    assert lab.name not in lab_names()
    assert f"{LABS}/{lab.name}" not in Path("/proc/mounts").read_text()


@pytest.fixture(scope="module")
def bare() -> Iterator[Lab]:
    """A router and its host, and no flanneld."""
    topology = {"segment": [{"name": "lan", "subnet": "10.0.0.0/24"}], "host": [{"name": "h1"}]}
    leaf = {"name": "leaf", "asn": 65100, "addresses": ["10.0.0.254"]}
    with Lab.up(parse_topology({**topology, "router": [leaf]}), name=unique_name(), start_daemons=False) as lab:
        yield lab


def test_hosts_reach_etcd_and_the_outside_by_a_router_without_sessions(bare: Lab) -> None:
    assert sessions(bare.routers[0]) == Sessions(0, 1)
    host = bare.host("h1")
    assert "default via 10.0.0.254" in host.run(["ip", "route"]).stdout
    host.run(["ping", "-c1", "-W5", "203.0.113.2"])
    assert host.run(["etcdctl", "--endpoints", bare.etcd_url, "get", "x"]).returncode == 0


def test_without_bird_it_is_said_what_to_do(bare: Lab, tmp_path: Path) -> None:
    (leaf,) = bare.routers
    without = Place(leaf.name, leaf.namespaces, {**leaf.environment, "PATH": str(tmp_path)})
    with pytest.raises(LabError, match=r"no program bird on the PATH, for router leaf: `sudo ./dev setup` brings it"):
        start_bird(without, "", tmp_path / "bird.log")


def test_a_bird_that_does_not_start_is_shown(bare: Lab, tmp_path: Path) -> None:
    place = bare.host("h1")
    with pytest.raises(LabError, match=r"bird on h1 does not start:\n .*bird.conf:1:\d+ syntax error"):
        start_bird(place, "nonsense;", tmp_path / "bird.log")
