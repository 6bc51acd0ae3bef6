from __future__ import annotations

from ipaddress import IPv4Address, ip_address, ip_interface, ip_network

import pytest

from flanneld.backend import BackendError, Refusal, Uplink
from flanneld.backends.udp.backend import Row, UdpBackend, plan
from flanneld.config import ConfigError, parse_network
from flanneld.lease import Lease, LeaseAttrs
from memory_kernel import MemoryKernel


def lease(subnet: str, *public_ips: str, backend_type: str = "") -> Lease:
    return Lease((ip_network(subnet),), LeaseAttrs(tuple(map(ip_address, public_ips)), backend_type))


@pytest.mark.parametrize("backend_type", ["", "udp", "vxlan", "something"])
def test_a_peer_of_any_backend_type_is_a_row_of_the_table(backend_type: str) -> None:
    peer = lease("10.5.2.0/24", "192.0.2.2", backend_type=backend_type)
    found = plan(peer, 8285)
    assert isinstance(found, Row)
    assert (found.subnet, found.host, found.endpoint) == (ip_network("10.5.2.0/24"), ip_address("192.0.2.2"), ("192.0.2.2", 8285))
    assert found.numbers == (0xFFFFFF00, 0x0A050200)


@pytest.mark.parametrize(
    "peer",
    [
        lease("10.5.2.0/24"),
        lease("10.5.2.0/24", "2001:db8::2"),
        lease("fd00::/64", "192.0.2.2"),
        lease("10.5.2.0/24", str(IPv4Address(0))),
    ],
)
def test_a_peer_without_ipv4_is_refused_and_the_others_are_served(peer: Lease) -> None:
    other = lease("10.5.3.0/24", "192.0.2.3")
    refused, row = (plan(one, 8285) for one in (peer, other))
    assert isinstance(row, Row)
    assert row.endpoint == ("192.0.2.3", 8285)
    assert isinstance(refused, Refusal)
    assert refused.lease == peer


def test_the_port_is_8285_unless_the_config_says_another() -> None:
    assert UdpBackend.parse({}).port == 8285
    assert UdpBackend.parse({"port": 9000}).port == 9000


@pytest.mark.parametrize("port", [-1, 0, 65536, "8285", 8285.0, True])
def test_a_port_that_cannot_be_is_an_error_naming_it(port: object) -> None:
    with pytest.raises(ConfigError, match=r"Backend\.Port: .*(8285|-1|0|65536|true)"):
        UdpBackend.parse({"port": port})


def test_a_data_path_is_one_of_four_in_any_case_and_another_is_an_error_naming_it() -> None:
    assert [UdpBackend.parse(config).data_path for config in ({}, {"datapath": "eBPF"}, {"datapath": "AUTO"})] == [
        "tun",
        "ebpf",
        "auto",
    ]
    with pytest.raises(ConfigError, match=r"^Backend\.DataPath: 'xdp', expected one of tun, native, ebpf, auto$"):
        UdpBackend.parse({"datapath": "xdp"})


UPLINK = Uplink("eth0", 2, 1500, (ip_interface("192.0.2.1/24"),), (ip_address("192.0.2.1"),))


@pytest.mark.parametrize(
    "config",
    [
        '{"Network": "10.5.0.0/16", "EnableIPv6": true, "IPv6Network": "fd00:5::/48"}',
        '{"EnableIPv4": false, "EnableIPv6": true, "IPv6Network": "fd00:5::/48"}',
    ],
)
async def test_a_network_with_ipv6_is_refused(config: str) -> None:
    with pytest.raises(ConfigError, match="udp carries IPv4 only"):
        async with UdpBackend().attach(UPLINK, parse_network(config), MemoryKernel()):
            pass


async def test_an_uplink_without_ipv4_is_refused_by_name() -> None:
    uplink = Uplink("eth0", 2, 1500, (ip_interface("2001:db8::1/64"),), (ip_address("2001:db8::1"),))
    with pytest.raises(BackendError, match="eth0 has no IPv4 address"):
        async with UdpBackend().attach(uplink, parse_network('{"Network": "10.5.0.0/16"}'), MemoryKernel()):
            pass
