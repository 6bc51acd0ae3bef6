"""Networks of hosts that speak BGP in other ways than everybody with everybody, plainly: reflectors, BFD, passwords, a rival."""

from __future__ import annotations

import signal
import socket
import time
from ipaddress import ip_address, ip_network
from pathlib import Path

from bgp.path import Asn
from bgp_world import (
    HOLD_S,
    all_reach_all,
    bgp_world,
    established,
    kill_exabgp,
    nothing_lost,
    peers_of,
    routes,
)
from flanneld_world import World, eventually, own_subnet, run, write_file
from lab.pods import LabHost
from netns.test_cleanup import clean
from router import missing
from router_configs import Neighbour, RouterPlan
from routers import Bird
from traffic import meshed

PASSWORD_FILE = Path("/run/bgp-password")
NOTICED_S = 2.0
"""Ten times what BFD needs, and far from the hold time."""


def ip_of(world: World, host: LabHost) -> str:
    return next(str(spec.addresses[0].ip) for spec in world.lab.topology.hosts if spec.name == host.name)


def test_with_reflectors_hosts_speak_with_them_only_and_pods_with_all() -> None:
    with bgp_world(4, ipv6=True, Reflectors={"Count": 2}) as world:
        pods = meshed(world)
        all_reach_all(pods, (4, 6))
        sessions = {host.name: established(host) for host in world.lab.hosts}
        reflectors = [host for host in world.lab.hosts if len(sessions[host.name]) == 3]
        addresses = {ip_of(world, host) for host in reflectors}
        assert len(addresses) == 2
        clients = [host for host in world.lab.hosts if host not in reflectors]
        assert all(sessions[host.name] == addresses for host in clients)
        lost = reflectors[0]
        left = [pod for pod in pods if pod.host != lost.name]
        before = {host.name: routes(host) for host in clients}
        with nothing_lost(pods):
            next(one for one in world.daemons if one.host.name == lost.name).end(signal.SIGKILL)
            kill_exabgp(lost)
            time.sleep(5)
        assert {host.name: routes(host) for host in clients} == before
        all_reach_all(left, (4, 6))


def test_a_reflector_that_takes_leave_is_not_missed() -> None:
    with bgp_world(4, Reflectors={"Count": 2}) as world:
        pods = meshed(world)
        lost = next(host for host in world.lab.hosts if len(established(host)) == 3)
        with nothing_lost([pod for pod in pods if pod.host != lost.name]):
            next(one for one in world.daemons if one.host.name == lost.name).end()
            clean(lost, "--yes")
            time.sleep(2)


def test_a_link_that_is_cut_is_noticed_by_bfd_long_before_the_hold_time() -> None:
    with bgp_world(3, BFD={"Interval": 100, "Multiplier": 3}) as world:
        pods = meshed(world)
        h1, subnet = world.lab.host("h1"), f"{own_subnet(world.lab.host('h2'))}/24"
        eventually(lambda: [peer["bfd"] for peer in peers_of(h1).values()] == ["up", "up"], "bfd up")
        with nothing_lost([pods[0], pods[2]]):
            run(world.lab.fabric, "ip link set h2 nomaster")
            began = time.monotonic()
            eventually(lambda: subnet not in routes(h1), "no route", HOLD_S)
            print(f"noticed after {time.monotonic() - began:.2f} s")
            assert time.monotonic() - began < NOTICED_S
            down = world.daemons[0].await_said("bgp session down")
        assert "bfd" in down["why"]
        run(world.lab.fabric, "ip link set h2 master lan1")
        all_reach_all(pods)
        eventually(lambda: peers_of(h1)["10.0.0.12"]["bfd"] == "up", "bfd up")


def test_a_host_with_another_password_is_alone_and_said_to_be() -> None:
    with bgp_world(3, PasswordFile=str(PASSWORD_FILE)) as world:
        for host in world.lab.hosts:
            write_file(host, PASSWORD_FILE, "wrong" if host.name == "h3" else "right")
            run(host, f"chmod 600 {PASSWORD_FILE}")
        one, two, _ = [world.start(host.name) for host in world.lab.hosts]
        h1, h3 = world.lab.host("h1"), world.lab.host("h3")
        eventually(lambda: established(h1) == {"10.0.0.12"}, "one session")
        refused = one.await_said("peer refused", 20)
        assert refused["peer"].startswith("10.244.")
        assert "10.0.0.13" in str(refused) or own_subnet(h3) in str(refused)
        one.ready(), two.ready()
        assert established(h3) == set()
        assert peers_of(h1)["10.0.0.13"]["state"] != "established"
        write_file(h3, PASSWORD_FILE, "right")
        eventually(lambda: established(h3) == {"10.0.0.11", "10.0.0.12"}, "both sessions", 30)


def test_a_port_that_another_router_has_is_named_and_waited_for() -> None:
    with bgp_world(2) as world:
        h1 = world.lab.host("h1")
        with h1.call(socket.create_server, ("10.0.0.11", 179)):
            one, two = world.start("h1"), world.start("h2")
            assert "10.0.0.11 port 179" in one.await_said("bgp speaker lost")["why"]
        eventually(lambda: established(h1) == {"10.0.0.12"}, "the session")
        one.ready(), two.ready()


async def test_a_router_that_claims_a_hosts_subnet_is_said_to_and_takes_none_of_its_traffic() -> None:
    assert not (why := missing(Bird)), why
    with bgp_world(3, Peers=[{"Address": "10.0.0.13", "AS": 65101}]) as world:
        pods = meshed(world, "h1", "h2")
        h1, h2 = world.lab.host("h1"), world.lab.host("h2")
        subnet = f"{own_subnet(h2)}/24"
        plan = RouterPlan("10.0.0.13", Asn(65101), (neighbour("10.0.0.11"), neighbour("10.0.0.12")), (ip_network(subnet),))
        before = routes(h1)
        with nothing_lost(pods):
            async with Bird.planned(world.lab.host("h3").namespaces[0], plan):
                conflicts = [one.await_said("bgp conflict", 30) for one in world.daemons]
                assert all(subnet in said["why"] and "AS 65101" in said["why"] for said in conflicts)
                assert "traffic goes to 10.0.0.12" in conflicts[0]["why"]
                assert "traffic goes to this host" in conflicts[1]["why"]
                assert routes(h1) == before
            for one in world.daemons:
                one.await_said("bgp conflict is over")
        assert len(world.daemons[0].said("bgp conflict")) == 1


def neighbour(address: str) -> Neighbour:
    return Neighbour(ip_address(address), Asn(64512))
