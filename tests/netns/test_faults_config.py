"""What an administrator changes in the network config is applied while everything runs, and no packet is lost over it."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Iterator, Mapping

import pytest

from flanneld_world import NETWORK, World, eventually, flanneld_world, own_subnet, run, show, subnet_env, vxlan_entries
from traffic import address_of, meshed, ping, ping_sized, steady_ping, transferred

MEGABYTES = 20
RETIRED_S = 30.0
"""A former backend stays for ten seconds after the last peer left it."""


def backend(kind: str, **keys: object) -> dict[str, object]:
    return {**NETWORK, "Backend": {"Type": kind, **keys}}


@pytest.fixture
def world() -> Iterator[World]:
    with flanneld_world(3) as up:
        yield up


def change(world: World, network: Mapping[str, object]) -> None:
    """Write another config, and wait until everybody serves it."""
    told = {one.log: len(one.said("change applied")) for one in world.daemons}
    world.configure(network)
    for one in world.daemons:
        eventually(lambda one=one: len(one.said("change applied")) > told[one.log], f"the change: {one}")  # type: ignore[misc]


def published(world: World) -> set[str]:
    """The methods that the leases name."""
    return {json.loads(key.value).get("BackendType", "") for key in world.etcd.keys().values()}


STORIES = [("vxlan", "host-gw"), ("host-gw", "vxlan"), ("vxlan", "udp"), ("udp", "vxlan"), ("host-gw", "udp"), ("udp", "host-gw")]


@pytest.mark.parametrize(("before", "after"), STORIES)
def test_a_backend_is_exchanged_without_losing_a_packet(world: World, before: str, after: str) -> None:
    world.configure(backend(before))
    one, two, _ = meshed(world)
    with steady_ping(one, address_of(two)) as there, steady_ping(two, address_of(one)) as back:
        change(world, backend(after))
        eventually(lambda: published(world) == {"" if after == "udp" else after}, "every lease says so")
    assert (there.lost, back.lost) == (0, 0)


def test_hosts_change_over_one_by_one_and_a_transfer_goes_on(world: World) -> None:
    one, two, three = meshed(world)
    late = world.daemons[1]
    content = bytes(range(256)) * 4096 * MEGABYTES
    got: list[bytes] = []
    with steady_ping(three, address_of(two)) as there, steady_ping(two, address_of(one)) as back:
        late.process.send_signal(signal.SIGSTOP)
        world.configure(backend("host-gw"))
        h1 = world.lab.host("h1")
        eventually(lambda: "eth0" in run(h1, f"ip route get {address_of(three)}"), "some speak the new one, one does not")
        copying = threading.Thread(target=lambda: got.append(transferred(one, two, address_of(two), content)))
        copying.start()
        assert "flannel.1" in run(h1, f"ip route get {address_of(two)}")
        late.process.send_signal(signal.SIGCONT)
        late.await_said("change applied")
        eventually(lambda: published(world) == {"host-gw"}, "all speak it")
        copying.join()
    assert (there.lost, back.lost) == (0, 0)
    assert got == [content]


def test_what_the_former_backend_had_goes_when_nobody_speaks_it_any_more(world: World) -> None:
    meshed(world)
    change(world, backend("host-gw"))
    for one in world.daemons:
        eventually(lambda one=one: not run(one.host, "ip -o link show type vxlan"), "no device", RETIRED_S)  # type: ignore[misc]
        assert "flannel.1" not in run(one.host, "ip route")


def test_a_restart_in_the_middle_of_a_change_goes_on_with_both(world: World) -> None:
    one, two, _ = meshed(world)
    late = world.daemons[1]
    late.process.send_signal(signal.SIGSTOP)
    world.configure(backend("host-gw"))
    world.daemons[0].await_said("change applied")
    with steady_ping(one, address_of(two)) as there:
        world.daemons[0].end(signal.SIGKILL)
        again = world.start("h1").ready()
        assert again.said("former backend served")[0]["backend"] == "vxlan"
        assert "flannel.1" in run(world.lab.host("h1"), f"ip route get {address_of(two)}")
    late.process.send_signal(signal.SIGCONT)
    assert there.lost == 0


def test_going_back_is_a_change_like_any_other(world: World) -> None:
    one, two, _ = meshed(world)
    with steady_ping(one, address_of(two)) as there:
        for kind in ("host-gw", "vxlan", "host-gw", "vxlan"):
            change(world, backend(kind))
    assert there.lost == 0


def test_the_mtu_follows_the_config_in_devices_file_and_pods(world: World) -> None:
    one, two, _ = meshed(world)
    change(world, backend("vxlan", MTU=1300))
    for daemon, pod in zip(world.daemons, (one, two), strict=False):
        assert show(daemon.host, "ip link show flannel.1")[0]["mtu"] == 1250
        assert "FLANNEL_MTU=1250\n" in subnet_env(daemon.host)
        eventually(lambda pod=pod: show(pod, "ip link show eth0")[0]["mtu"] == 1250, f"{pod}'s MTU")  # type: ignore[misc]
    assert ping_sized(one, address_of(two), 1250)
    assert transferred(one, two, address_of(two), bytes(1 << 20)) == bytes(1 << 20)


def test_another_vni_is_another_device_and_no_packet_is_lost_over_it(world: World) -> None:
    one, two, _ = meshed(world)
    with steady_ping(one, address_of(two)) as there:
        change(world, backend("vxlan", VNI=7))
        eventually(lambda: vxlan_entries(world.lab.host("h1"), "flannel.7"), "entries on the new device")
    assert there.lost == 0
    eventually(lambda: not vxlan_entries(world.lab.host("h1"), "flannel.1"), "no entry on the old one")


@pytest.mark.parametrize("kind", ["vxlan", "udp"])
def test_another_port_is_served_live(world: World, kind: str) -> None:
    world.configure(backend(kind))
    one, two, _ = meshed(world)
    change(world, backend(kind, Port=9000))
    eventually(lambda: ping(one, address_of(two)), "pods that reach each other")
    assert ":9000" in run(world.lab.host("h1"), "ss -Hlun")


def test_a_network_that_grows_keeps_every_subnet_and_every_packet(world: World) -> None:
    one, two, _ = meshed(world)
    before = {daemon.host.name: own_subnet(daemon.host) for daemon in world.daemons}
    with steady_ping(one, address_of(two)) as there:
        change(world, {**NETWORK, "Network": "10.240.0.0/12"})
    assert there.lost == 0
    assert {daemon.host.name: own_subnet(daemon.host) for daemon in world.daemons} == before
    for daemon in world.daemons:
        assert "FLANNEL_NETWORK=10.240.0.0/12\n" in subnet_env(daemon.host)
        assert "10.240.0.0/12" in run(daemon.host, "nft list table ip flannel-ipv4")
        assert "10.244.0.0/16" not in run(daemon.host, "nft list table ip flannel-ipv4")


UNSERVED = {
    "garbage": "network config not applied",
    '{"Network": "10.244.0.0/16", "Backend": {"Type": "pigeon"}}': "change not applied",
    '{"Network": "10.0.0.0/16"}': "change not applied",
}


@pytest.mark.parametrize(("text", "says"), UNSERVED.items())
def test_a_config_that_cannot_be_served_is_named_and_changes_nothing(world: World, text: str, says: str) -> None:
    one, two, _ = meshed(world)
    with steady_ping(one, address_of(two)) as there:
        world.configure(text)
        for daemon in world.daemons:
            daemon.await_said(says)
    assert there.lost == 0
    change(world, backend("host-gw"))


def test_a_config_that_is_deleted_is_missed_and_changes_nothing(world: World) -> None:
    one, two, _ = meshed(world)
    with steady_ping(one, address_of(two)) as there:
        world.etcd.delete("/coreos.com/network/config")
        for daemon in world.daemons:
            daemon.await_said("network config is gone, keeping what is served")
    assert there.lost == 0
