"""Another backend in the network config and flanneld started anew: pods that stay reach each other, by the new way alone."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from flanneld.mesh import LINGER_S
from flanneld_world import NETWORK, WAIT_S, World, eventually, flanneld_world, show
from lab.ping import ping_all
from traffic import meshed

VXLAN, VNI_7 = {"Type": "vxlan"}, {"Type": "vxlan", "VNI": 7, "Port": 4789, "MTU": 1400}
HOST_GW, UDP = {"Type": "host-gw"}, {"Type": "udp"}
DEVICE = {"host-gw": "eth0", "udp": "flannel0"}


def ways(world: World) -> set[tuple[str, str]]:
    """Destination prefix length and device of every route to other hosts' pods on h1."""
    routes = show(world.lab.host("h1"), "ip route show root 10.244.0.0/16")
    return {(route["dst"].rpartition("/")[2], route["dev"]) for route in routes if route["dev"] != "cni0" and "/" in route["dst"]}


def restarted(world: World, backend: Mapping[str, object]) -> None:
    for one in world.daemons:
        assert one.end() == 0
    world.daemons.clear()
    world.configure({**NETWORK, "Backend": backend})
    echoes = ping_all(meshed(world))
    assert [echo for echo in echoes if echo.rtt_s is None] == []


@pytest.mark.parametrize(
    "story",
    [
        pytest.param([VXLAN, HOST_GW, VXLAN], id="vxlan, host-gw, vxlan"),
        pytest.param([VXLAN, UDP, HOST_GW, UDP, VXLAN], id="by way of udp"),
        pytest.param([VXLAN, VNI_7, VXLAN], id="another VNI, port and MTU"),
    ],
)
def test_no_route_of_the_old_backend_remains_and_traffic_flows(story: list[Mapping[str, object]]) -> None:
    with flanneld_world(2) as world:
        for backend in story:
            restarted(world, backend)
            device = DEVICE.get(str(backend["Type"]), f"flannel.{backend.get('VNI', 1)}")
            way = ("16" if device == "flannel0" else "24", device)
            eventually(lambda way=way: ways(world) == {way}, f"the way by {device} alone")  # type: ignore[misc]


def test_alloc_takes_out_what_vxlan_put_in() -> None:
    with flanneld_world(2) as world:
        restarted(world, VXLAN)
        for one in world.daemons:
            one.end()
        world.configure({**NETWORK, "Backend": {"Type": "alloc"}})
        world.start("h1").ready()
        assert ways(world) == {("24", "flannel.1")}, "a peer that still speaks vxlan is reached by it"
        world.start("h2").ready()
        eventually(lambda: ways(world) == set(), "no route")


def test_of_vxlan_nothing_is_left_once_nobody_speaks_it() -> None:
    with flanneld_world(2) as world:
        restarted(world, VXLAN)
        restarted(world, HOST_GW)
        host = world.lab.host("h1")
        assert show(host, "ip route show dev flannel.1") == []
        eventually(lambda: not show(host, "ip link show type vxlan"), "no device", LINGER_S + WAIT_S)
