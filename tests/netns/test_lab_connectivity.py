"""Who reaches whom, and under which address, with each backend and each firewall, on three hosts of one segment."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address

import pytest
from scapy.layers.inet import IP

from flanneld_world import NETWORK, World, flanneld_world, show
from lab.ping import ping_all
from lab.pods import LabHost, Pod
from traffic import address_of, meshed, ping, ping_sized, seen_source, tapped, transferred

OUTSIDE = ip_address("203.0.113.2")
MTU = {"vxlan": 1450, "host-gw": 1500, "udp": 1472, "bgp": 1500}
WORLDS = [(backend, nftables) for backend in MTU for nftables in (True, False)]


@dataclass(frozen=True)
class Meshed:
    """Three hosts that are ready, and a pod on each."""

    world: World
    backend: str
    pods: list[Pod]

    @property
    def hosts(self) -> tuple[LabHost, ...]:
        return self.world.lab.hosts


@pytest.fixture(scope="module", params=WORLDS, ids=[f"{backend}-{'nftables' if nft else 'iptables'}" for backend, nft in WORLDS])
def mesh(request: pytest.FixtureRequest) -> Iterator[Meshed]:
    backend, nftables = request.param
    with flanneld_world(3, {**NETWORK, "EnableNFTables": nftables, "Backend": {"Type": backend}}) as world:
        yield Meshed(world, backend, meshed(world))


def address(host: LabHost) -> str:
    (interface,) = show(host, "ip -4 address show dev eth0")
    return str(interface["addr_info"][0]["local"])


def test_every_pod_reaches_every_other(mesh: Meshed) -> None:
    echoes = ping_all(mesh.pods)
    assert [echo for echo in echoes if echo.rtt_s is None] == []
    assert len(echoes) == 6


def test_megabytes_arrive_as_they_were_sent(mesh: Meshed) -> None:
    content = os.urandom(2 << 20)
    for near, far in (mesh.pods[:2], mesh.pods[1::-1]):
        received = transferred(near, far, address_of(far), content)
        assert hashlib.sha256(received).digest() == hashlib.sha256(content).digest()


def test_pods_see_each_other_as_themselves(mesh: Meshed) -> None:
    near, far = mesh.pods[:2]
    assert seen_source(near, far, address_of(far)) == str(address_of(near))
    assert seen_source(far, near, address_of(near)) == str(address_of(far))


def test_the_outside_sees_the_host(mesh: Meshed) -> None:
    assert seen_source(mesh.pods[0], mesh.world.lab.outside, OUTSIDE) == address(mesh.hosts[0])


def test_other_hosts_see_the_host_and_our_own_sees_the_pod(mesh: Meshed) -> None:
    pod, (ours, other, _) = mesh.pods[0], mesh.hosts
    assert seen_source(pod, other, ip_address(address(other))) == address(ours)
    assert seen_source(pod, ours, ip_address(address(ours))) == str(address_of(pod))


def test_a_host_reaches_its_own_pods_and_those_of_others(mesh: Meshed) -> None:
    for pod in mesh.pods:
        assert ping(mesh.hosts[0], address_of(pod))
        assert seen_source(mesh.hosts[0], pod, address_of(pod))


def test_the_promised_mtu_passes_in_one_piece_and_one_byte_more_does_not(mesh: Meshed) -> None:
    env, (near, far, _) = mesh.hosts[0].subnet_env(), mesh.pods
    assert env is not None
    assert env.mtu == MTU[mesh.backend]
    with tapped(mesh.world.lab.fabric, "h1") as tap:
        assert ping_sized(near, address_of(far), env.mtu)
        packets = [frame[IP] for frame in tap.frames() if IP in frame]
    assert sum(packet.len == 1500 for packet in packets) == 3, "the underlay is filled to the last byte"
    assert not any(packet.frag or packet.flags.MF for packet in packets)
    assert not ping_sized(near, address_of(far), env.mtu + 1)
