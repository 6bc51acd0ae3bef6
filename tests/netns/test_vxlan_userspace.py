"""vxlan without a VXLAN device: the same to peers, pods and whoever looks at the host."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from flanneld_world import NETWORK, World, eventually, flanneld_world, run, show
from lab.pods import Pod
from netns.test_faults_mixed import go_vxlan
from netns.test_foreign_peers import FOREIGN_MAC, assert_they_interwork, pair
from traffic import address_of, await_peers, finish_checksums, meshed, ping, ping_sized, steady_ping, transferred

PATHS = ("tun", "native")


def config(path: str) -> dict[str, object]:
    return {**NETWORK, "Backend": {"Type": "vxlan", "Mode": "userspace", "DataPath": path}}


@contextmanager
def two(path: str) -> Iterator[tuple[World, list[Pod]]]:
    with flanneld_world(2, config(path)) as world:
        yield world, meshed(world)


@pytest.mark.parametrize("wire", [False, True], ids=["soft", "wire"])
@pytest.mark.parametrize("path", PATHS)
def test_pods_of_two_hosts_talk(path: str, wire: bool) -> None:
    with two(path) as (world, (a, b)):
        if wire:
            for host in world.lab.hosts:
                finish_checksums(host)
        content = os.urandom(4 << 20)
        for near, far in ((a, b), (b, a)):
            assert ping_sized(near, address_of(far), 1450)
            assert transferred(near, far, address_of(far), content) == content
        (link,) = show(world.lab.host("h1"), "ip -d link show flannel.1")
        assert (link["linkinfo"]["info_kind"], link["mtu"]) == ("tun", 1450)
        assert world.daemons[0].said("data path")[0]["path"] == path


@pytest.mark.parametrize("wire", [False, True], ids=["soft", "wire"])
@pytest.mark.parametrize("path", PATHS)
def test_a_peer_with_the_kernels_device_notices_nothing(path: str, wire: bool) -> None:
    with pair("vxlan", Mode="userspace", DataPath=path) as peers:
        if wire:
            for name in ("h1", "h2"):
                finish_checksums(peers.world.lab.host(name))
        go_vxlan(peers, FOREIGN_MAC)
        assert_they_interwork(peers)


@pytest.mark.parametrize("path", PATHS)
def test_the_device_comes_back_when_it_is_deleted(path: str) -> None:
    with two(path) as (world, (a, b)):
        host = world.lab.host("h1")
        before = show(host, "ip link show flannel.1")[0]["address"]
        run(host, "ip link del flannel.1")
        eventually(lambda: ping(a, address_of(b)), "the way back")
        assert show(host, "ip link show flannel.1")[0]["address"] == before


@pytest.mark.parametrize("path", PATHS)
def test_a_restart_costs_next_to_nothing(path: str) -> None:
    with two(path) as (world, (a, b)), steady_ping(a, address_of(b)) as echoes:
        time.sleep(0.3)
        world.daemons[0].end(signal.SIGKILL)
        await_peers(world.start("h1").ready(), 1)
        time.sleep(0.3)
    assert echoes.lost <= 5, "50 ms"


def test_the_kernels_device_gives_way_and_comes_back() -> None:
    with flanneld_world(2) as world:
        a, b = meshed(world)
        for backend, kind in ((config("tun")["Backend"], "tun"), (NETWORK["Backend"], "vxlan")):
            world.configure({**NETWORK, "Backend": backend})

            def is_so(kind: str = kind) -> bool:
                links = json.loads(run(world.lab.host("h1"), "ip -j -d link"))
                return [link["linkinfo"]["info_kind"] for link in links if link["ifname"] == "flannel.1"] == [kind]

            eventually(is_so, f"a device of kind {kind}")
            eventually(lambda: ping(a, address_of(b)), "the way")


def test_ipv6_is_refused_in_words() -> None:
    network = {**config("tun"), "EnableIPv6": True, "IPv6Network": "fd00:244::/48"}
    with flanneld_world(1, network, ipv6=True) as world:
        assert "in user space carries IPv4 only" in world.start("h1").fails()


def test_the_doctor_and_the_dry_run_look_at_it_from_outside() -> None:
    with two("tun") as (world, _):
        host = world.lab.host("h1")
        said = run(host, f"{sys.executable} -P -m tartan doctor --iface=eth0 --etcd-endpoints={world.lab.etcd_url}", check=False)
        assert "error" not in said.lower(), said
        world.daemons[0].end(signal.SIGKILL)
        run(host, f"{sys.executable} -P -m tartan cleanup --yes --force")
        assert "flannel.1" not in run(host, "ip link")
