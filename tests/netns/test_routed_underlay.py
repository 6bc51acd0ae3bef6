"""Two segments with a router between: h1 and h2 on the first, h3 on the second. vxlan crosses, host-gw says that it cannot."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from scapy.layers.inet import IP
from scapy.layers.vxlan import VXLAN

from flanneld_world import NETWORK, Flanneld, World, flanneld_world, readyz, show
from lab.lab import Lab
from lab.ping import ping_all
from lab.pods import Pod
from lab.state import lab_names, release
from lab.topology import read_topology
from traffic import address_of, await_peers, meshed, ping, ping_sized, tapped, transferred

DUAL = {**NETWORK, "EnableIPv6": True, "IPv6Network": "fd00:10:244::/48"}
H2, H3 = {4: "10.0.0.12", 6: "fd00:10::12"}, {4: "10.0.1.11", 6: "fd00:10:1::11"}
DEVICES = {4: "flannel.1", 6: "flannel-v6.1"}
HOSTS = {"h1": "10.0.0.11", "h2": "10.0.0.12"}
WORDS = "at 10.0.1.11 is not on the segment of eth0 ({}/24): host-gw needs it there, vxlan does not"
LAB_UP = "import lab.daemon, tartan.__main__ as t; lab.daemon.START_S = 5; t.main()"
"""`tartan lab up`, less patient."""
TWO_SEGMENTS = Path(__file__).parents[2] / "lab/topologies/routed.toml"
both_families = pytest.mark.parametrize("family", [4, 6])


def unique_name() -> str:
    return f"t{uuid.uuid4().hex[:8]}"


@dataclass(frozen=True)
class Routed:
    """A pod on each host."""

    world: World
    pods: Mapping[str, Pod]
    daemons: list[Flanneld] = field(default_factory=list)

    def way_to(self, host: str, family: int) -> tuple[str, str]:
        """Gateway and device by which h1 reaches the host's pods."""
        pod = address_of(self.pods[host], family)
        (route,) = show(self.world.lab.host("h1"), f"ip -{family} route get {pod}")
        return str(route["gateway"]), str(route["dev"])

    def fdb(self, family: int) -> set[str]:
        """The hosts to which h1 encapsulates."""
        return {entry["dst"] for entry in show(self.world.lab.host("h1"), f"bridge fdb show dev {DEVICES[family]}")}

    def vxlan_frames(self, host: str) -> tuple[int, int]:
        """How many frames with and without VXLAN carry six echoes and their answers between h1's and the host's pod."""
        near, far = self.pods["h1"], self.pods[host]
        with tapped(self.world.lab.fabric, "h1") as tap:
            assert ping(near, address_of(far))
            assert ping(far, address_of(near))
            frames = tap.frames(outgoing=None)
        inside = sum(VXLAN in frame for frame in frames)
        pods = {str(address_of(near)), str(address_of(far))}
        return inside, sum(IP in frame and {frame[IP].src, frame[IP].dst} == pods for frame in frames)


def routed(backend: Mapping[str, object]) -> Iterator[Routed]:
    with flanneld_world(3, {**DUAL, "Backend": backend}, segments=2, ipv6=True) as world:
        yield Routed(world, dict(zip(("h1", "h2", "h3"), meshed(world), strict=True)))


@pytest.fixture(scope="module")
def tunnelled() -> Iterator[Routed]:
    yield from routed({"Type": "vxlan"})


@pytest.fixture(scope="module")
def direct() -> Iterator[Routed]:
    yield from routed({"Type": "vxlan", "DirectRouting": True})


@pytest.fixture(params=["tunnelled", "direct"])
def either(request: pytest.FixtureRequest) -> Routed:
    found: Routed = request.getfixturevalue(request.param)
    return found


def test_vxlan_reaches_every_pod_across_the_router(either: Routed) -> None:
    echoes = ping_all(list(either.pods.values()))
    assert [echo for echo in echoes if echo.rtt_s is None] == []
    assert len(echoes) == 12


@both_families
def test_a_transfer_crosses_the_router_and_stays_whole(either: Routed, family: int) -> None:
    content = os.urandom(500_000)
    for host in ("h2", "h3"):
        assert transferred(either.pods["h1"], either.pods[host], address_of(either.pods[host], family), content) == content


@both_families
def test_without_direct_routing_every_peer_is_behind_the_tunnel(tunnelled: Routed, family: int) -> None:
    assert {tunnelled.way_to(host, family)[1] for host in ("h2", "h3")} == {DEVICES[family]}
    assert tunnelled.fdb(family) == {H2[family], H3[family]}


@both_families
def test_direct_routing_is_chosen_for_each_peer(direct: Routed, family: int) -> None:
    assert direct.way_to("h2", family) == (H2[family], "eth0")
    assert direct.way_to("h3", family)[1] == DEVICES[family]
    assert direct.fdb(family) == {H3[family]}


def test_on_the_wire_only_the_peer_behind_the_router_gets_vxlan(direct: Routed) -> None:
    assert direct.vxlan_frames("h2") == (0, 12)
    assert direct.vxlan_frames("h3") == (12, 0)


def test_a_narrower_segment_beyond_the_router_is_found_by_path_mtu_discovery() -> None:
    with Lab.up(read_topology(TWO_SEGMENTS), name=unique_name()) as lab:
        near, _, far = (host.pod("p1") for host in lab.hosts)
        for ip in far.addresses:
            assert transferred(near, far, ip.ip, b"x" * 500_000) == b"x" * 500_000
        assert not ping_sized(near, address_of(far), 1430), "what h1 promises its pods"
        assert ping_sized(near, address_of(far), 1330), "what h3 promises its own, and the path carries"
        assert "mtu 1330" in near.run(["ip", "route", "get", str(address_of(far))]).stdout


@pytest.fixture(scope="module")
def hostgw() -> Iterator[Routed]:
    """h3 is there first: a newcomer would be the only one to be unready."""
    with flanneld_world(3, {**NETWORK, "Backend": {"Type": "host-gw"}}, segments=2) as world:
        last = world.start("h3").ready()
        daemons = [world.start("h1"), world.start("h2")]
        for one in (last, *daemons):
            await_peers(one, 2)
        yield Routed(world, {host.name: host.pod("p1") for host in world.lab.hosts}, daemons)


def subnet_of(pod: Pod) -> str:
    return str(address_of(pod)).rpartition(".")[0] + ".0/24"


def test_host_gw_says_which_peer_is_not_on_the_segment_and_is_not_ready(hostgw: Routed) -> None:
    for name, one in zip(("h1", "h2"), hostgw.daemons, strict=True):
        subnet, why = subnet_of(hostgw.pods["h3"]), WORDS.format(HOSTS[name])
        (refused,) = one.said("peer refused")
        assert (refused["peer"], refused["why"], refused["level"]) == (subnet, why, "error")
        assert readyz(one.host) == (503, f"flanneld is not ready\npeers: peer {subnet} {why}\n")
        assert not one.said("ready")


def test_host_gw_still_reaches_the_peers_of_its_own_segment(hostgw: Routed) -> None:
    near, far, beyond = (hostgw.pods[name] for name in ("h1", "h2", "h3"))
    assert ping(near, address_of(far))
    assert ping(far, address_of(near))
    assert hostgw.way_to("h2", 4) == ("10.0.0.12", "eth0")
    routes = show(hostgw.world.lab.host("h1"), "ip route show proto 84")
    assert [route["dst"] for route in routes] == [subnet_of(far)]
    assert near.run(["ping", "-c1", "-W1", str(address_of(beyond))], check=False).returncode != 0


def test_lab_up_fails_with_these_words_and_leaves_nothing() -> None:
    name = unique_name()
    options = ["lab", "up", "--name", name, "--segments", "2", "--backend", "host-gw"]
    try:
        up = subprocess.run([sys.executable, "-c", LAB_UP, *options], capture_output=True, text=True, timeout=60)
        assert up.returncode == 1
        assert up.stderr.startswith("tartan: flanneld on h")
        assert re.search(
            r"is not ready after 5 s:\n.*is not on the segment of eth0 \(10.0.[01].1[12]/24\): host-gw", up.stderr, re.DOTALL
        )
        assert name not in lab_names()
    finally:
        release(name)
