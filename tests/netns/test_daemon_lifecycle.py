"""A daemon's end and its next start: what goes on without it, what it adopts, and several of them on one host."""

from __future__ import annotations

import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from flanneld_world import (
    NETWORK,
    PREFIX,
    Flanneld,
    World,
    eventually,
    flanneld_world,
    hostgw_lease,
    own_subnet,
    peer_entries,
    run,
    show,
    subnet_env,
    traces,
    vxlan_entries,
    vxlan_lease,
)
from lab.etcd import start_etcd
from lab.pods import LabHost, Pod

PEER = ("10.244.9.0", "10.0.0.99", "0e:00:00:00:00:02")


@pytest.fixture
def world() -> Iterator[World]:
    with flanneld_world(hosts=2) as up:
        yield up


def both(world: World, *flags: str) -> tuple[Flanneld, Flanneld]:
    """A ready daemon on each host, which knows the other."""
    first, second = (world.start(host, *flags) for host in ("h1", "h2"))
    for one in (first, second):
        one.ready()
        eventually(lambda one=one: routes(one.host), "a route to the other host")  # type: ignore[misc]
    return first, second


def routes(host: LabHost, network: str = "10.244.0.0/16") -> list[str]:
    return run(host, f"ip route show root {network} proto 84").splitlines()


def everything(host: LabHost) -> tuple[object, ...]:
    """What of flanneld's is on a host, with everything that would change if it were made anew."""
    rules = run(host, "nft --stateless --handle list ruleset")
    device = [(link["ifindex"], link["address"]) for link in show(host, "ip link show flannel.1", check=False)]
    return vxlan_entries(host), device, rules, subnet_env(host)


@contextmanager
def pinging(source: Pod, destination: Pod) -> Iterator[None]:
    """Echo requests all the time; from the first answer on every one must be answered."""
    target = str(destination.addresses[0].ip)
    # A link that has just come up may swallow what is sent at once (the kernel's link watch works beside).
    eventually(lambda: source.run(["ping", "-c1", "-W1", target], check=False).returncode == 0, f"an answer from {target}")
    ping = source.popen(["ping", "-q", "-i", "0.02", target], stdout=subprocess.PIPE)
    try:
        yield
    finally:
        ping.send_signal(signal.SIGINT)
        said, _ = ping.communicate()
    sent, received = map(int, re.findall(r"(\d+) packets transmitted, (\d+) received", said)[0])
    assert received >= sent - 1, said  # the last one may be under way
    assert received > 5


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT])
def test_pods_do_not_notice_the_daemons_end_and_return(world: World, number: int) -> None:
    first, _ = both(world)
    pods = [world.lab.host(name).pod("p1") for name in ("h1", "h2")]
    before = everything(first.host)
    with pinging(*pods):
        assert first.end(number) == (-number if number == signal.SIGKILL else 0)
        assert everything(first.host) == before
        again = world.start("h1").ready()
        assert everything(first.host) == before
    assert not again.said("rules restored")


@contextmanager
def watched(host: LabHost, log: Path) -> Iterator[list[str]]:
    """What `ip monitor` says about flannel's device meanwhile; complete when the context has ended."""
    found: list[str] = []
    with log.open("w") as output:
        monitor = host.popen(["ip", "monitor", "link", "route", "neigh", "address"], stdout=output.fileno())

        def marked(name: str) -> bool:
            run(host, f"ip link add {name} type bridge")
            run(host, f"ip link del {name}")
            return name in log.read_text()

        try:
            eventually(lambda: marked("begin"), "ip monitor's ear")
            begin = len(log.read_text())
            yield found
            eventually(lambda: marked("end"), "all that came before")
        finally:
            monitor.kill()
            monitor.wait()
    found += [line for line in log.read_text()[begin:].splitlines() if "flannel" in line]


def test_a_restart_adopts_what_is_there_and_touches_none_of_it(world: World, tmp_path: Path) -> None:
    first, second = both(world)
    assert first.end() == 0
    with watched(second.host, tmp_path / "control") as control:
        assert second.end() == 0
        run(second.host, f"ip route del {routes(second.host)[0].split()[0]}")
    assert control, "a change must show"
    with watched(first.host, tmp_path / "monitor") as changes:
        world.start("h1").ready()
    assert changes == []


def test_a_restart_forgets_peers_that_left_meanwhile_and_learns_those_that_came(world: World) -> None:
    world.etcd.put(f"{PREFIX}/subnets/{PEER[0]}-24", vxlan_lease(*PEER[1:]))
    flanneld = world.start("h1").ready()
    assert vxlan_entries(flanneld.host) == peer_entries(*PEER)
    flanneld.end(signal.SIGKILL)
    world.etcd.delete(f"{PREFIX}/subnets/{PEER[0]}-24")
    other = ("10.244.8.0", "10.0.0.98", "0e:00:00:00:00:08")
    world.etcd.put(f"{PREFIX}/subnets/{other[0]}-24", vxlan_lease(*other[1:]))
    world.start("h1").ready()
    assert vxlan_entries(flanneld.host) == peer_entries(*other)


def test_a_host_that_lost_its_lease_while_it_was_down_takes_the_same_subnet_again(world: World) -> None:
    flanneld = world.start("h1").ready()
    before = everything(flanneld.host)
    flanneld.end()
    world.etcd.delete(f"{PREFIX}/subnets/")
    world.start("h1").ready()
    assert everything(flanneld.host) == before


def test_udps_device_waits_for_the_next_daemon(world: World) -> None:
    world.configure({**NETWORK, "Backend": {"Type": "udp"}})
    flanneld = world.start("h1").ready()
    before = (subnet_env(flanneld.host), show(flanneld.host, "ip link show flannel0")[0]["ifindex"])
    flanneld.end(signal.SIGKILL)
    world.start("h1").ready()
    assert (subnet_env(flanneld.host), show(flanneld.host, "ip link show flannel0")[0]["ifindex"]) == before


def test_a_new_pod_network_takes_the_routes_of_the_old_one_away(world: World) -> None:
    world.configure({**NETWORK, "Backend": {"Type": "host-gw"}})
    world.etcd.put(f"{PREFIX}/subnets/{PEER[0]}-24", hostgw_lease(PEER[1]))
    flanneld = world.start("h1").ready()
    assert routes(flanneld.host)
    flanneld.end()
    world.configure({**NETWORK, "Network": "10.200.0.0/16", "Backend": {"Type": "host-gw"}})
    world.start("h1").ready()
    assert not routes(flanneld.host)
    assert own_subnet(flanneld.host).startswith("10.200.")
    assert list(world.etcd.keys()) == [f"{own_subnet(flanneld.host)}-24", f"{PEER[0]}-24"], "our old lease is given back"


BACKENDS = {"vxlan": vxlan_lease(*PEER[1:]), "host-gw": hostgw_lease(PEER[1]), "udp": f'{{"PublicIP":"{PEER[1]}"}}'}


@pytest.mark.parametrize("change", ["vxlan host-gw", "host-gw vxlan", "vxlan udp", "udp vxlan", "vxlan alloc"])
def test_another_backend_leaves_no_route_of_the_old_one(world: World, change: str) -> None:
    ways = {"vxlan": ["flannel.1"], "host-gw": ["eth0"], "udp": ["flannel0"], "alloc": []}
    for backend in change.split():
        world.configure({**NETWORK, "Backend": {"Type": backend}})
        world.etcd.put(f"{PREFIX}/subnets/{PEER[0]}-24", BACKENDS.get(backend, BACKENDS["udp"]))
        flanneld = world.start("h1").ready()
        assert [route.split("dev ")[1].split()[0] for route in routes(flanneld.host)] == ways[backend]
        flanneld.end()


@pytest.mark.parametrize("event", ["waiting for network config", "lease acquired", "ready"])
def test_sigterm_is_an_orderly_end_at_any_time(world: World, event: str) -> None:
    if event.startswith("waiting"):
        world.etcd.delete(f"{PREFIX}/config")
    flanneld = world.start("h1")
    flanneld.await_said(event)
    assert flanneld.end() == 0
    assert flanneld.lines()[-1]["event"] == "stopped"


@pytest.mark.parametrize(
    ("flags", "what"),
    [
        (["--etcd-prefix=/other"], "the subnet file /run/flannel/subnet.env"),
        (["--etcd-prefix=/other", "--subnet-file=/run/flannel/../flannel/subnet.env"], "the subnet file /run/flannel/subnet.env"),
        (["--subnet-file=/run/other.env"], "the network at etcd prefix /coreos.com/network"),
        (["--subnet-file=/run/other.env", f"--etcd-prefix={PREFIX}/"], "the network at etcd prefix /coreos.com/network"),
    ],
)
def test_a_second_daemon_in_the_place_of_the_first_is_refused(world: World, flags: list[str], what: str) -> None:
    first = world.start("h1").ready()
    world.configure(NETWORK, "/other")
    before = (everything(first.host), traces(first.host), world.etcd.keys())
    assert world.start("h1", "--healthz-port=0", *flags).fails() == f"another flanneld on this host already serves {what}"
    assert (everything(first.host), traces(first.host), world.etcd.keys()) == before
    assert first.process.poll() is None


def test_two_networks_cannot_share_a_device(world: World) -> None:
    first = world.start("h1").ready()
    world.configure({"Network": "10.245.0.0/16", "EnableNFTables": True, "Backend": {"Type": "vxlan"}}, "/second")
    before = (everything(first.host), traces(first.host), world.etcd.keys())
    assert second_daemon(world, "h1").fails() == (
        "another flanneld on this host already serves the device flannel.1, expected another VNI for each network"
    )
    assert (everything(first.host), traces(first.host), world.etcd.keys()) == before


def second_daemon(world: World, host: str) -> Flanneld:
    return world.start(host, "--etcd-prefix=/second", "--subnet-file=/run/second.env", "--healthz-port=0")


@pytest.mark.parametrize(
    "second",
    [
        {"Network": "10.245.0.0/16", "EnableNFTables": True, "Backend": {"Type": "host-gw"}},
        {"Network": "10.245.0.0/16", "Backend": {"Type": "vxlan", "VNI": 2}},
        {"Network": "10.245.0.0/16", "EnableNFTables": True, "Backend": {"Type": "vxlan", "VNI": 2, "Port": 4789}},
        {"Network": "10.245.0.0/16", "Backend": {"Type": "udp"}},
    ],
    ids=["host-gw", "vxlan and iptables", "vxlan on another port", "udp"],
)
def test_two_daemons_on_one_host_leave_each_other_alone(world: World, second: dict[str, object]) -> None:
    """Networks of their own by -etcd-prefix and -subnet-file, as flannel's functional test `multi` has it."""
    world.configure(second, "/second")
    first, _ = both(world)
    beside, _ = (second_daemon(world, host).ready() for host in ("h1", "h2"))
    host = first.host
    eventually(lambda: routes(host, "10.245.0.0/16"), "the second network's routes")
    assert subnet_env(host, Path("/run/second.env")).startswith("FLANNEL_NETWORK=10.245.0.0/16\n")
    whole = (traces(host), everything(host))
    for one, start in ((beside, second_daemon), (first, World.start)):
        one.end()
        start(world, "h1").ready()
        eventually(lambda: (traces(host), everything(host)) == whole, "the same as before")


def test_etcd_may_be_away_for_a_while(world: World) -> None:
    first, _ = both(world)
    pods = [world.lab.host(name).pod("p1") for name in ("h1", "h2")]
    etcd = world.lab._children[0]
    with pinging(*pods):
        etcd.kill()
        etcd.wait()
        first.await_said("store is unreachable")
        again = start_etcd(world.lab.fabric, world.lab.etcd_url, world.lab.directory / "fabric")
        world.lab._children.append(again)
        first.await_said("store is back")
    world.etcd.put(f"{PREFIX}/subnets/{PEER[0]}-24", vxlan_lease(*PEER[1:]))
    eventually(lambda: any(PEER[0] in route for route in routes(first.host)), "the newcomer")
    assert len(first.said("store is unreachable")) == len(first.said("store is back")) == 1
