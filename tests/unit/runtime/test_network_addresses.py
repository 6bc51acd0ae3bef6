"""Which subnets and addresses networks get: values in, values out."""

from __future__ import annotations

from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni.config import Section
from cni.ranges import parse_range_set
from runtime.config import EndpointSettings, IpamConfig
from runtime.errors import Forbidden, InvalidParameter
from runtime.networks.addresses import address_errors, checked_pool, choose_subnet, ranges, refuse_overlap, unique_local
from runtime.networks.endpoint_checks import check_endpoint, check_endpoints
from runtime.networks.network import Network, Pool, PoolRequest
from runtime.settings import Settings

POOLS = Settings().address_pools


def network(**more: object) -> Network:
    pools = (Pool(subnet="10.7.0.0/24", gateway="10.7.0.1"),)
    return Network(**{"id": "a" * 64, "name": "mine", "pools": pools, "user_subnets": True} | more)  # type: ignore[arg-type]


def asking(address: str = "", **more: object) -> EndpointSettings:
    return EndpointSettings(ipam_config=IpamConfig(ipv4_address=address), **more)  # type: ignore[arg-type]


def test_the_first_subnet_that_nothing_overlaps_is_chosen() -> None:
    taken = [ip_network("172.18.0.0/16"), ip_network("172.19.200.0/30"), ip_network("fd00::/8")]
    assert str(choose_subnet(POOLS, taken)) == "172.20.0.0/16"


def test_when_the_large_pools_are_taken_small_ones_follow() -> None:
    assert str(choose_subnet(POOLS, [ip_network("172.16.0.0/12"), ip_network("192.168.0.0/19")])) == "192.168.32.0/20"


def test_no_pool_left_is_dockers_error() -> None:
    with pytest.raises(InvalidParameter, match="all predefined address pools have been fully subnetted"):
        choose_subnet(POOLS, [ip_network("0.0.0.0/0")])


def test_unique_local_subnets_follow_from_the_network() -> None:
    one, other = unique_local("a" * 64), unique_local("b" * 64)
    assert one != other
    assert one.prefixlen == 64
    assert one.network_address in ip_network("fd00::/8")


def test_a_pool_without_a_gateway_gets_the_first_address() -> None:
    assert checked_pool(PoolRequest(subnet="10.7.0.0/24")).gateway == "10.7.0.1"


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        (PoolRequest(subnet="nonsense"), "invalid subnet nonsense: invalid CIDR block notation"),
        (PoolRequest(subnet="10.7.0.5/24"), r"invalid subnet 10\.7\.0\.5/24: it should be 10\.7\.0\.0/24"),
        (PoolRequest(subnet="10.7.0.0/31"), "no room"),
        (PoolRequest(subnet="10.7.0.0/24", gateway="10.8.0.1"), r"no matching subnet for gateway 10\.8\.0\.1"),
        (PoolRequest(subnet="10.7.0.0/24", ip_range="10.8.0.0/25"), r"no matching subnet for range 10\.8\.0\.0/25"),
        (PoolRequest(subnet="10.7.0.0/24", auxiliary_addresses={"a": "10.8.0.1"}), "no matching subnet for aux-address"),
    ],
)
def test_a_pool_that_makes_no_sense_is_refused(asked: PoolRequest, why: str) -> None:
    with pytest.raises(InvalidParameter, match=why):
        checked_pool(asked)


def test_a_subnet_of_another_network_is_refused() -> None:
    with pytest.raises(Forbidden, match="Pool overlaps"):
        refuse_overlap([Pool(subnet="10.7.1.0/24")], [ip_network("10.7.0.0/16")])


def test_ranges_leave_out_auxiliary_addresses_and_add_what_is_asked_for() -> None:
    pool = Pool(subnet="10.7.0.0/24", gateway="10.7.0.1", ip_range="10.7.0.8/29", auxiliary={"router": "10.7.0.10"})
    spans = [(each["rangeStart"], each["rangeEnd"]) for each in ranges(pool, ["10.7.0.200", "10.7.0.12"])]
    assert spans == [("10.7.0.8", "10.7.0.9"), ("10.7.0.11", "10.7.0.15"), ("10.7.0.200", "10.7.0.200")]


@given(st.integers(22, 29), st.sets(st.integers(2, 6), max_size=3), st.integers(2, 6))
def test_ranges_are_what_the_plugin_takes_and_hold_what_is_asked_for(length: int, auxiliary: set[int], asked: int) -> None:
    subnet = ip_network(f"10.7.0.0/{length}")
    names = {str(place): str(subnet[place]) for place in auxiliary}
    told = ranges(Pool(subnet=str(subnet), gateway="10.7.0.1", auxiliary=names), [str(subnet[asked])])
    read = parse_range_set([Section(each) for each in told], "ranges")
    assert read.of(subnet[asked]) is not None
    assert all(read.of(subnet[place]) is None for place in auxiliary - {asked})


def test_addresses_are_asked_for_on_subnets_of_users_alone() -> None:
    assert address_errors(network(), asking("10.7.0.9")) == []
    assert address_errors(network(), asking("10.8.0.9")) == ["no configured subnet contains IP address 10.8.0.9"]
    (why,) = address_errors(network(user_subnets=False), asking("10.7.0.9"))
    assert why.startswith("user specified IP address is supported only when connecting to networks with user configured subnets")


def test_the_default_bridge_gives_neither_addresses_nor_aliases_that_are_asked_for() -> None:
    with pytest.raises(InvalidParameter) as refused:
        check_endpoint(network(name="bridge"), asking("10.7.0.9", aliases=("web",)))
    assert str(refused.value) == (
        "invalid config for network bridge: invalid endpoint settings:\n"
        "* user specified IP address is supported on user defined networks only\n"
        "* network-scoped alias is supported only for containers in user defined networks"
    )


def test_none_and_host_go_with_no_other_network() -> None:
    for name in ("none", "host"):
        asked = {name: (network(name=name), EndpointSettings()), "mine": (network(), EndpointSettings())}
        with pytest.raises(InvalidParameter, match="container cannot be connected to"):
            check_endpoints(asked)


def test_a_mac_address_is_six_octets() -> None:
    with pytest.raises(InvalidParameter, match="invalid MAC address: 02:42"):
        check_endpoint(network(), EndpointSettings(mac_address="02:42"))
