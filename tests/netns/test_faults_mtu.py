"""The uplink's MTU changes under running pods: what passes them has the new one soon, and nothing that is sent vanishes."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from flanneld_world import NETWORK, PREFIX, World, eventually, flanneld_world, run, show, subnet_env
from flow import Flow, flowing
from lab.pods import LabHost, Pod
from traffic import address_of, connected, meshed, ping_sized, transferred

MB = 1_000_000
BACKENDS: Mapping[str, tuple[Mapping[str, object], int]] = {"vxlan": ({"Type": "vxlan"}, 50), "host-gw": ({"Type": "host-gw"}, 0)}
"""Configuration, and what the method takes of a packet."""
IPV6 = {**NETWORK, "EnableIPv4": False, "EnableIPv6": True, "IPv6Network": "fd00:244::/48"}


@dataclass(frozen=True)
class Two:
    """Hosts that mesh, with a pod each."""

    world: World
    pods: tuple[Pod, ...]

    @property
    def hosts(self) -> list[LabHost]:
        return [self.world.lab.host(pod.host) for pod in self.pods]

    def set_uplinks(self, mtu: int) -> None:
        for host in self.hosts:
            run(host, f"ip link set eth0 mtu {mtu}")

    def await_mtu(self, *mtus: int) -> None:
        """Wait until all that a pod's packet passes on each host has that host's MTU."""
        began = time.monotonic()
        for host, pod, mtu in zip(self.hosts, self.pods, mtus, strict=True):
            eventually(lambda host=host, pod=pod, mtu=mtu: present(host, pod) == {mtu}, f"MTU {mtu} on {host.name}")  # type: ignore[misc]  # mypy knows no defaults of lambdas
        print(f"MTU {mtus} after {time.monotonic() - began:.3f} s")

    def transfers(self) -> bool:
        """True if a megabyte gets from each pod to the other."""
        one, two = self.pods
        content = os.urandom(MB)
        return all(transferred(a, b, b.addresses[0].ip, content) == content for a, b in ((one, two), (two, one)))


def present(host: LabHost, pod: Pod) -> set[int]:
    """Of the device, the bridge, the pairs' ends, the route in the pod; and what subnet.env says."""
    names = ("flannel.", "flannel-v6.", "cni0", "veth")
    found = {int(link["mtu"]) for link in show(host, "ip link") if str(link["ifname"]).startswith(names)}
    told = dict(line.split("=") for line in subnet_env(host).splitlines())
    (inside,) = json.loads(pod.run(["ip", "-j", "link", "show", "eth0"]).stdout)
    network, family = (told["FLANNEL_NETWORK"], "-4") if "FLANNEL_NETWORK" in told else (told["FLANNEL_IPV6_NETWORK"], "-6")
    (route,) = json.loads(pod.run(["ip", "-j", family, "route", "show", "exact", network]).stdout)
    return {*found, int(inside["mtu"]), int(told["FLANNEL_MTU"]), int(route["metrics"][0]["mtu"])}


def untouched(_: World) -> None: ...


@contextmanager
def two_hosts(network: Mapping[str, object], prepare: Callable[[World], None] = untouched, **lab: int | bool) -> Iterator[Two]:
    """`prepare` is called before the daemons start."""
    with flanneld_world(2, network, **lab) as world:
        prepare(world)
        yield Two(world, tuple(meshed(world)))


@pytest.mark.parametrize("backend", BACKENDS)
def test_device_bridge_and_pods_follow_the_uplink_and_a_megabyte_comes_through_each_time(backend: str) -> None:
    config, taken = BACKENDS[backend]
    with two_hosts({**NETWORK, "Backend": config}) as two:
        for mtu in (1500, 1400, 1500):
            two.set_uplinks(mtu)
            two.await_mtu(mtu - taken, mtu - taken)
            assert two.transfers()
            for one, other in (two.pods, reversed(two.pods)):
                assert ping_sized(one, address_of(other), mtu - taken)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_connection_that_is_open_goes_on(backend: str) -> None:
    config, taken = BACKENDS[backend]
    with two_hosts({**NETWORK, "Backend": config}) as two, flow_between(*two.pods) as flow:
        for mtu in (1400, 1500, 1300):
            two.set_uplinks(mtu)
            flow.await_more(MB)
            two.await_mtu(mtu - taken, mtu - taken)
            flow.await_more(MB)


@contextmanager
def flow_between(client: Pod, server: Pod) -> Iterator[Flow]:
    with connected(client, server, server.addresses[0].ip) as (near, far), flowing(near, far) as flow:
        yield flow


def test_what_changed_while_the_daemon_was_away_is_followed_at_its_start() -> None:
    with two_hosts(NETWORK) as two:
        for daemon in two.world.daemons:
            daemon.end()
        two.set_uplinks(1400)
        two.world.etcd.delete(f"{PREFIX}/config")
        for host in two.hosts:
            two.world.start(host.name).await_said("CNI is served")
        two.world.configure(NETWORK)  # so that pods were looked at before the lease was
        two.await_mtu(1350, 1350)
        assert two.transfers()


def test_an_ipv6_underlay_takes_70_bytes() -> None:
    with two_hosts(IPV6, ipv6=True) as two:
        for mtu in (1500, 1400, 1500):
            two.set_uplinks(mtu)
            two.await_mtu(mtu - 70, mtu - 70)
            assert two.transfers()


def test_a_backend_that_takes_less_gives_pods_the_rest() -> None:
    with two_hosts({**NETWORK, "Backend": {"Type": "vxlan"}}) as two, flow_between(*two.pods) as flow:
        two.await_mtu(1450, 1450)
        two.world.configure({**NETWORK, "Backend": {"Type": "host-gw"}})
        for host, pod in zip(two.hosts, two.pods, strict=True):
            eventually(lambda host=host, pod=pod: pods_have(host, pod, 1500), f"MTU 1500 on {host.name}")  # type: ignore[misc]
        flow.await_more(MB)
        assert two.transfers()


def pods_have(host: LabHost, pod: Pod, mtu: int) -> bool:
    """The former backend's device may still be there."""
    links = {str(link["ifname"]): int(link["mtu"]) for link in show(host, "ip link")}
    (inside,) = json.loads(pod.run(["ip", "-j", "link", "show", "eth0"]).stdout)
    return {links["cni0"], int(inside["mtu"])} | {size for name, size in links.items() if name.startswith("veth")} == {mtu}


def narrow_second_segment(world: World) -> None:
    """The router's side too: what is too long for it, it cuts or refuses."""
    world.lab.fabric.run(["ip", "link", "set", "h2", "mtu", "1400"])
    world.lab.fabric.run(["ip", "link", "set", "lan2", "mtu", "1400"])
    run(world.lab.host("h2"), "ip link set eth0 mtu 1400")


def test_hosts_on_segments_of_different_mtus_reach_each_other_both_ways() -> None:
    with two_hosts({**NETWORK, "Backend": {"Type": "vxlan"}}, narrow_second_segment, segments=2) as two:
        two.await_mtu(1450, 1350)
        assert two.transfers()
        one, other = two.pods
        assert ping_sized(one, address_of(other), 1350)
        assert ping_sized(other, address_of(one), 1350)


@pytest.mark.parametrize("network", [NETWORK, IPV6], ids=["IPv4", "IPv6"])
def test_a_connection_goes_on_when_only_its_receivers_segment_gets_narrow(network: Mapping[str, object]) -> None:
    taken = 50 if network is NETWORK else 70
    with two_hosts(network, segments=2, ipv6=network is IPV6) as two, flow_between(*two.pods) as flow:
        flow.await_more(MB)
        narrow_second_segment(two.world)
        two.await_mtu(1500 - taken, 1400 - taken)
        flow.await_more(MB)
        assert two.transfers()


def test_hosts_of_different_mtus_on_one_segment_reach_each_other_both_ways_by_host_gw() -> None:
    def narrow(world: World) -> None:
        run(world.lab.host("h2"), "ip link set eth0 mtu 1400")

    with two_hosts({**NETWORK, "Backend": {"Type": "host-gw"}}, narrow) as two:
        two.await_mtu(1500, 1400)
        assert two.transfers()
