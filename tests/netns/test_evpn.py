"""Hosts whose vxlan is controlled by EVPN: pods reach each other, through deaths of daemon and exabgp, and as methods change."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from bgp.control import SOCKET, ControlError, ask
from bgp_world import STATE, all_reach_all, bgp_world, exabgp, kill_exabgp, nothing_lost
from flanneld.mesh import LINGER_S
from flanneld_world import NETWORK, WAIT_S, Flanneld, World, eventually, own_subnet, peer_entries, vxlan_entries, vxlan_lease
from lab.pods import LabHost, Pod
from traffic import await_peers, meshed

NAMES = ("h1", "h2", "h3")
EVPN: Mapping[str, Any] = {"Type": "vxlan", "Control": "bgp-evpn", "AS": 64512}
EVPN_STATE = STATE.with_name("evpn")
DEAD_S = 3.0
OTHER, OTHER_IP, OTHER_MAC = "10.244.200.0", "10.0.0.99", "0e:00:00:00:00:99"


def asked(host: LabHost, what: str) -> list[dict[str, Any]]:
    """What the host's daemon answers; nothing while there is none."""
    try:
        answer: Any = host.call(ask, EVPN_STATE / SOCKET, {"do": what})
    except ControlError:
        return []
    return list(answer)


def established(host: LabHost) -> set[str]:
    return {peer["peer"] for peer in asked(host, "peers") if peer["state"] == "established"}


def in_use(host: LabHost) -> dict[str, str]:
    """Where EVPN says that subnets are."""
    return {route["prefix"]: route["nextHop"] for route in asked(host, "routes") if route["inUse"]}


def settled(world: World, names: tuple[str, ...] = NAMES, sessions: int = 2, routes: int = 4) -> None:
    """Wait until all sessions stand, and each host has heard of so many subnets."""
    for name in names:
        host = world.lab.host(name)
        eventually(lambda host=host: len(established(host)) == sessions, f"{sessions} sessions on {name}")  # type: ignore[misc]
        eventually(lambda host=host: len(in_use(host)) == routes, f"{routes} subnets on {name}")  # type: ignore[misc]


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with bgp_world(3, ipv6=True, **EVPN) as up:
        yield up


@pytest.fixture(scope="module")
def pods(world: World) -> list[Pod]:
    found = meshed(world)
    settled(world)
    return found


def test_pods_reach_each_other_in_both_families(pods: list[Pod]) -> None:
    all_reach_all(pods, (4, 6))


@pytest.mark.usefixtures("pods")
def test_evpn_says_where_each_subnet_is_and_nothing_is_refused(world: World) -> None:
    addresses = {"h1": "10.0.0.11", "h2": "10.0.0.12", "h3": "10.0.0.13"}
    found = {f"{own_subnet(world.lab.host(name))}/24": addresses[name] for name in ("h2", "h3")}
    heard = in_use(world.lab.host("h1"))
    assert {prefix: hop for prefix, hop in heard.items() if ":" not in prefix} == found
    assert sorted(hop for prefix, hop in heard.items() if ":" in prefix) == ["fd00:10::12", "fd00:10::13"]
    assert [peer["refused"] for peer in asked(world.lab.host("h1"), "peers")] == [{}, {}]


@pytest.mark.usefixtures("pods")
def test_people_are_told_of_sessions_as_of_the_bgp_method_s(world: World) -> None:
    told = world.lab.host("h1").run([sys.executable, "-m", "tartan", "bgp", "peers"]).stdout
    assert {word for line in told.splitlines() for word in line.split()} >= {"10.0.0.12", "10.0.0.13", "established"}


@pytest.mark.usefixtures("pods")
def test_a_host_by_lease_alone_is_reached_as_vxlan_reaches_it(world: World) -> None:
    h1 = world.lab.host("h1")
    entries = peer_entries(OTHER, OTHER_IP, OTHER_MAC)
    world.etcd.put(f"/coreos.com/network/subnets/{OTHER}-24", vxlan_lease(OTHER_IP, OTHER_MAC))
    eventually(lambda: entries <= vxlan_entries(h1), "its entries")
    assert OTHER_IP not in {peer["peer"] for peer in asked(h1, "peers")}
    world.etcd.delete(f"/coreos.com/network/subnets/{OTHER}-24")
    eventually(lambda: not entries & vxlan_entries(h1), "no entry of it")


def daemon_of(world: World, name: str) -> Flanneld:
    return next(one for one in world.daemons if one.host.name == name)


def again(world: World, name: str, peers: int = 2) -> None:
    """Start the daemon of that host again, in its old place; returns when it has dealt with its peers."""
    place = world.daemons.index(daemon_of(world, name))
    world.daemons[place] = world.start(name)
    world.daemons.pop()
    await_peers(world.daemons[place].ready(), peers)


@pytest.mark.parametrize("what", ["flanneld", "exabgp", "both"])
def test_nothing_is_lost_while_they_are_dead(world: World, pods: list[Pod], what: str) -> None:
    h1 = world.lab.host("h1")
    daemon = daemon_of(world, "h1")
    with nothing_lost(pods, (4, 6)):
        if what != "exabgp":
            daemon.end(signal.SIGKILL)
        if what != "flanneld":
            kill_exabgp(h1)
        time.sleep(DEAD_S)
        if what == "exabgp":
            settled(world)
        else:
            again(world, "h1")
            settled(world)
        time.sleep(1)


def test_a_daemon_that_comes_back_withdraws_what_it_does_not_say_any_more(world: World, pods: list[Pod]) -> None:
    h1, h2 = world.lab.host("h1"), world.lab.host("h2")
    prefix = "10.244.201.0/24"
    assert h1.call(ask, EVPN_STATE / SOCKET, {"do": "announce", "prefix": prefix}) is not None
    # Of a host that speaks for itself others take its lease's subnets alone; what it says more is seen, and refused.
    eventually(lambda: prefix in {route["prefix"] for route in asked(h2, "routes")}, "the prefix")
    daemon_of(world, "h1").end(signal.SIGKILL)
    h1.call((EVPN_STATE / "asked.json").unlink)
    again(world, "h1")
    settled(world)
    eventually(lambda: prefix not in {route["prefix"] for route in asked(h2, "routes")}, "no such prefix")
    all_reach_all(pods)


def test_hosts_change_over_one_by_one_and_no_packet_is_lost() -> None:
    with bgp_world(2, **{**EVPN, "Control": "leases"}) as world:
        pods = meshed(world)
        all_reach_all(pods)
        with nothing_lost(pods):
            for control in ("bgp-evpn", "leases"):
                world.configure({**NETWORK, "Backend": {**EVPN, "Control": control}})
                for name in ("h1", "h2"):
                    assert daemon_of(world, name).end(signal.SIGTERM) == 0
                    again(world, name, peers=1)
                if control == "bgp-evpn":
                    settled(world, ("h1", "h2"), sessions=1, routes=1)


def reconfigured(world: World, backend: Mapping[str, Any], changes: int) -> None:
    """Have all daemons apply their change of that number."""
    world.configure({**NETWORK, "Backend": backend})
    eventually(lambda: all(len(one.said("change applied")) == changes for one in world.daemons), f"change {changes}")
    if "Control" in backend:
        settled(world, ("h1", "h2"), sessions=1, routes=1)


def test_the_control_changes_while_daemons_run_and_no_packet_is_lost() -> None:
    with bgp_world(2, **{**EVPN, "Control": "leases"}) as world:
        pods = meshed(world)
        all_reach_all(pods)
        with nothing_lost(pods):
            for changes, backend in enumerate((EVPN, {**EVPN, "HoldTime": 3}, {"Type": "vxlan"}), 1):
                reconfigured(world, backend, changes)
        reconfigured(world, {**EVPN, "Mode": "userspace"}, 4)
        all_reach_all(pods)


def test_of_evpn_nothing_is_left_once_nobody_speaks_vxlan() -> None:
    with bgp_world(2, **EVPN) as world:
        meshed(world)
        settled(world, ("h1", "h2"), sessions=1, routes=1)
        world.configure({**NETWORK, "Backend": {"Type": "host-gw"}})
        for name in ("h1", "h2"):
            assert daemon_of(world, name).end(signal.SIGTERM) == 0
            again(world, name, peers=1)
        for host in world.lab.hosts:
            eventually(lambda host=host: exabgp(host) == [], "no exabgp", LINGER_S + WAIT_S)  # type: ignore[misc]
            assert not host.call(EVPN_STATE.exists)
