"""IPv6 alone and both families: every host has subnets of its own, and a change loses nothing in either family."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from flanneld_world import NETWORK, World, eventually, flanneld_world, run, show, subnet_env
from lab.pods import Pod
from traffic import address_of, meshed, ping, ping_sized, steady_ping, transferred

V6 = {"EnableIPv6": True, "IPv6Network": "fd00:10:244::/48"}
FAMILIES: Mapping[str, Mapping[str, object]] = {"ipv6": {**V6, "EnableIPv4": False}, "dual": V6}


def network(families: str, backend: str) -> dict[str, object]:
    kept = {key: value for key, value in NETWORK.items() if families == "dual" or key != "Network"}
    return {**kept, **FAMILIES[families], "Backend": {"Type": backend}}


def versions(families: str) -> tuple[int, ...]:
    return (6,) if families == "ipv6" else (4, 6)


def assert_meshed(pods: list[Pod], families: str) -> None:
    for version in versions(families):
        for one in pods:
            for other in pods:
                assert one is other or ping(one, address_of(other, version)), f"{one} -> {other} by IPv{version}"


@pytest.mark.parametrize("families", FAMILIES)
@pytest.mark.parametrize("backend", ["vxlan", "host-gw"])
def test_three_hosts_have_subnets_of_their_own_and_pods_reach_each_other(families: str, backend: str) -> None:
    with flanneld_world(3, network(families, backend), ipv6=True) as world:
        pods = meshed(world)
        names = list(world.etcd.keys())
        assert len({key for name in names for key in name.split("&")} - {"0.0.0.0-0"}) == 3 * len(versions(families))
        assert_meshed(pods, families)
        assert transferred(pods[0], pods[1], address_of(pods[1], 6), bytes(1 << 20)) == bytes(1 << 20)
        overhead = 70 if backend == "vxlan" else 0
        assert f"FLANNEL_MTU={1500 - overhead}\n" in subnet_env(world.lab.host("h1"))
        assert ping_sized(pods[0], address_of(pods[1], 6), 1500 - overhead)


@pytest.mark.parametrize("families", FAMILIES)
def test_a_backend_is_exchanged_without_losing_a_packet_of_either_family(families: str) -> None:
    with flanneld_world(2, network(families, "vxlan"), ipv6=True) as world:
        one, two = meshed(world)
        for after in ("host-gw", "vxlan"):
            echoes = [steady_ping(one, address_of(two, version)) for version in versions(families)]
            with echoes[0] as first, echoes[-1] if len(echoes) > 1 else steady_ping(two, address_of(one, 6)) as last:
                told = [len(daemon.said("change applied")) for daemon in world.daemons]
                world.configure(network(families, after))
                for daemon, before in zip(world.daemons, told, strict=True):
                    eventually(lambda daemon=daemon, before=before: len(daemon.said("change applied")) > before, "it")  # type: ignore[misc]
            assert (first.lost, last.lost) == (0, 0)


def test_another_public_ipv6_address_keeps_the_subnet() -> None:
    with flanneld_world(2, network("ipv6", "vxlan"), ipv6=True) as world:
        one, two = meshed(world)
        before = subnet_env(world.lab.host("h1"))
        host = world.lab.host("h1")
        run(host, "ip -6 addr flush dev eth0 scope global")
        run(host, "ip -6 addr add fd00:10::61/64 dev eth0 nodad")
        run(host, "ip -6 route replace default via fd00:10::1")
        eventually(lambda: '"PublicIPv6":"fd00:10::61"' in str(world.etcd.keys()), "the address")
        eventually(lambda: ping(one, address_of(two, 6)), "pods that reach each other")
        assert subnet_env(host) == before


def test_a_family_that_is_switched_on_and_off_again_comes_and_goes_with_its_device(world: World) -> None:
    meshed(world)
    host = world.lab.host("h1")
    for families in ("dual", "ipv4", "dual"):
        config = network("dual", "vxlan") if families == "dual" else NETWORK
        told = len(world.daemons[0].said("change applied"))
        world.configure(config)
        eventually(lambda told=told: len(world.daemons[0].said("change applied")) > told, "the change")  # type: ignore[misc]
        devices = {link["ifname"] for link in show(host, "ip link show type vxlan")}
        assert devices == ({"flannel.1", "flannel-v6.1"} if families == "dual" else {"flannel.1"})


@pytest.fixture
def world() -> object:
    with flanneld_world(1, ipv6=True) as up:
        yield up
