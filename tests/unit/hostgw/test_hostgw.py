from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest

from flanneld.backend import BackendError, Refusal
from flanneld.kernel import Route
from flanneld.lease import FAMILIES
from hostgw.backend import HostGwBackend, plan
from memory_kernel import MemoryKernel
from peers_of import apply, lease, network, uplink

HOST_GW = '{"Type": "host-gw"}'


def test_a_peer_is_one_route_per_family_by_its_public_ip() -> None:
    assert plan(lease(7, "host-gw", FAMILIES), uplink(FAMILIES), lambda _: True) == (
        Route(ip_network("10.244.7.0/24"), 2, ip_address("10.0.0.7")),
        Route(ip_network("fd00:244:0:7::/64"), 2, ip_address("fd00:10::7")),
    )


def test_a_peer_behind_a_router_is_refused_in_words() -> None:
    refusal = plan(lease(7, "host-gw"), uplink(), lambda _: False)
    assert str(refusal) == (
        "peer 10.244.7.0/24 at 10.0.0.7 is not on the segment of eth0 (10.0.0.1/24): host-gw needs it there, vxlan does not"
    )


def test_a_peer_without_an_address_of_the_family_is_refused() -> None:
    peer = lease(7, "host-gw", FAMILIES)
    half = replace(peer, attrs=replace(peer.attrs, public_ips=peer.attrs.public_ips[:1]))
    refusal = plan(half, uplink(FAMILIES), lambda _: True)
    assert isinstance(refusal, Refusal)
    assert refusal.why == "has the subnet fd00:244:0:7::/64 but no public IPv6 address"


async def test_behind_a_nat_it_does_not_start() -> None:
    nat = replace(uplink(), public_ips=(ip_address("192.0.2.9"),))
    with pytest.raises(BackendError, match=r"host-gw: public IP 192\.0\.2\.9 is not an address of eth0"):
        async with HostGwBackend().attach(nat, network(HOST_GW), MemoryKernel()):
            pass


async def test_a_peer_of_another_segment_does_not_keep_the_others_out() -> None:
    kernel = MemoryKernel()
    async with HostGwBackend().attach(uplink(), network(HOST_GW), kernel) as attached:
        refused = await apply(attached, kernel, [lease(7, "host-gw"), lease(8, "host-gw", segment="10.0.1")])
    assert [refusal.lease for refusal in refused] == [lease(8, "host-gw", segment="10.0.1")]
    assert kernel.present == {Route(ip_network("10.244.7.0/24"), 2, ip_address("10.0.0.7"))}
