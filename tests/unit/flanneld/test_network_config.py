"""flannel's network config: every default and every rule."""

from __future__ import annotations

import json
from contextlib import suppress
from ipaddress import IPv4Address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flanneld.config import ConfigError, NetworkConfig, parse_network, read_bool, read_int
from flanneld.lease import Pool


def pool_of(**settings: object) -> Pool:
    (pool,) = parse_network(json.dumps(settings)).pools
    return pool


def v6_only(**settings: object) -> dict[str, object]:
    return {"EnableIPv4": False, "EnableIPv6": True} | settings


def bounds(pool: Pool) -> tuple[str, str]:
    return str(pool.first), str(pool.last)


def test_network_alone_gets_flannels_defaults_and_our_default_backend() -> None:
    config = parse_network('{"Network": "10.5.0.0/16"}')
    expected = Pool(ip_network("10.5.0.0/16"), 24, ip_network("10.5.1.0/24"), ip_network("10.5.255.0/24"))
    assert config == NetworkConfig(pools=(expected,), backend_type="vxlan", enable_nftables=False)


def test_host_bits_of_the_network_are_masked_off() -> None:
    assert pool_of(Network="10.5.6.7/16").network == ip_network("10.5.0.0/16")


@pytest.mark.parametrize(
    ("network", "length"),
    [("10.0.0.0/8", 24), ("10.5.0.0/22", 24), ("10.5.0.0/23", 25), ("10.5.0.0/28", 30)],
)
def test_ipv4_subnet_len_defaults_to_24_or_a_quarter_of_the_network(network: str, length: int) -> None:
    assert pool_of(Network=network).subnet_len == length


@pytest.mark.parametrize(
    ("network", "length"),
    [("fd00::/48", 64), ("fd00::/62", 64), ("fd00::/63", 65), ("fd00::/124", 126)],
)
def test_ipv6_subnet_len_defaults_to_64_or_a_quarter_of_the_network(network: str, length: int) -> None:
    assert pool_of(**v6_only(IPv6Network=network)).subnet_len == length


def test_pool_goes_from_the_second_subnet_to_the_last() -> None:
    assert bounds(pool_of(Network="10.5.0.0/28")) == ("10.5.0.4/30", "10.5.0.12/30")
    assert bounds(pool_of(**v6_only(IPv6Network="fd00::/62"))) == ("fd00:0:0:1::/64", "fd00:0:0:3::/64")


def test_subnet_min_and_max_bound_the_pool() -> None:
    ipv4 = pool_of(Network="10.5.0.0/16", SubnetLen=20, SubnetMin="10.5.0.0", SubnetMax="10.5.32.0")
    ipv6 = pool_of(**v6_only(IPv6Network="fd00::/48", IPv6SubnetMin="fd00:0:0:8::", IPv6SubnetMax="fd00:0:0:8::"))
    assert (bounds(ipv4), ipv4.size) == (("10.5.0.0/20", "10.5.32.0/20"), 3)
    assert (bounds(ipv6), ipv6.size) == (("fd00:0:0:8::/64", "fd00:0:0:8::/64"), 1)


def test_zero_and_null_mean_absent_as_in_go() -> None:
    plain = pool_of(Network="10.5.0.0/16")
    assert pool_of(Network="10.5.0.0/16", SubnetLen=0, SubnetMin=str(IPv4Address(0)), SubnetMax=None, Backend=None) == plain


def test_dual_stack_has_two_pools_ipv4_first() -> None:
    config = parse_network('{"EnableIPv6": true, "IPv6Network": "fd00::/48", "Network": "10.5.0.0/16"}')
    assert [pool.family for pool in config.pools] == [4, 6]
    assert config.pool(6) is config.pools[1]


def test_keys_match_in_any_case_and_the_last_of_equals_wins() -> None:
    config = parse_network('{"network": "10.1.0.0/16", "NETWORK": "10.2.0.0/16", "Network": null, "enablenftables": true}')
    assert config.pools[0].network == ip_network("10.2.0.0/16")
    assert config.enable_nftables


def test_backend_type_and_keys_are_lower_cased_and_values_kept() -> None:
    config = parse_network('{"Network": "10.5.0.0/16", "Backend": {"Type": "VXLAN", "VNI": 7, "DirectRouting": true, "MTU": null}}')
    assert config.backend_type == "vxlan"
    assert config.backend == {"vni": 7, "directrouting": True}


def test_backend_mapping_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        parse_network('{"Network": "10.5.0.0/16"}').backend["vni"] = 1  # type: ignore[index]


def test_keys_without_effect_are_warned_of_as_written() -> None:
    config = parse_network('{"Network": "10.5.0.0/16", "Subnetlen": 24, "NetWorks": [], "IPv6Network": "fd00::/48"}')
    assert config.warnings == ("NetWorks: unknown key, ignored", "IPv6Network: ignored, EnableIPv6 is not true")


V4 = {"Network": "10.5.0.0/16"}
V6 = v6_only(IPv6Network="fd00::/48")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "Network: please define a correct Network parameter in the flannel config"),
        ({"Network": ""}, 'Network: please define a correct Network parameter .*, got ""'),
        ({"Network": "10.5.0.0"}, "Network: please define .*10.5.0.0"),
        ({"Network": "10.5.0.0/255.255.0.0"}, "Network: please define .*255.255.0.0"),
        ({"Network": "0.0.0.0/0"}, "Network: please define .*0.0.0.0/0"),
        ({"Network": "10.5.0.0/33"}, "Network: please define .*/33"),
        ({"Network": "fd00::/48"}, "Network: please define .*fd00::/48"),
        ({"Network": 10}, "Network: expected a string, got 10"),
        ({"Network": "10.5.0.0/29"}, r"Network: network is too small. Minimum useful network prefix is /28, got 10.5.0.0/29"),
        (V4 | {"SubnetLen": 31}, "SubnetLen: SubnetLen must be less than /31, got 31"),
        (V4 | {"SubnetLen": 17}, "SubnetLen: network must be able to accommodate at least four subnets: .*, got 17"),
        (V4 | {"SubnetLen": -1}, "SubnetLen: .*got -1"),
        (V4 | {"SubnetLen": 24.0}, "SubnetLen: expected a whole number, got 24.0"),
        (V4 | {"SubnetLen": "24"}, 'SubnetLen: expected a whole number, got "24"'),
        (V4 | {"SubnetLen": True}, "SubnetLen: expected a whole number, got true"),
        (V4 | {"SubnetMin": "10.6.0.0"}, "SubnetMin: SubnetMin is not in the range of the Network 10.5.0.0/16, got 10.6.0.0"),
        (V4 | {"SubnetMax": "10.6.0.0"}, "SubnetMax: SubnetMax is not in the range of the Network 10.5.0.0/16, got 10.6.0.0"),
        (V4 | {"SubnetMin": "10.5.3.1"}, "SubnetMin: SubnetMin is not on a SubnetLen boundary: 10.5.3.1"),
        (V4 | {"SubnetMax": "10.5.3.1"}, "SubnetMax: SubnetMax is not on a SubnetLen boundary: 10.5.3.1"),
        (V4 | {"SubnetMin": "10.5.3"}, 'SubnetMin: expected an IPv4 address, got "10.5.3"'),
        (V4 | {"SubnetMin": "10.5.9.0", "SubnetMax": "10.5.8.0"}, "SubnetMin: 10.5.9.0 is above SubnetMax 10.5.8.0"),
        (V4 | {"EnableIPv6": True}, "IPv6Network: please define a correct IPv6Network parameter"),
        (v6_only(IPv6Network="fd00::/125"), "IPv6Network: network is too small. Minimum useful network prefix is /124"),
        (v6_only(IPv6Network="fe80::%eth0/64"), "IPv6Network: please define"),
        (V6 | {"IPv6SubnetLen": 127}, "IPv6SubnetLen: SubnetLen must be less than /127, got 127"),
        (V6 | {"IPv6SubnetLen": 49}, "IPv6SubnetLen: network must be able to accommodate at least four subnets"),
        (V6 | {"IPv6SubnetMin": "fd01::"}, "IPv6SubnetMin: IPv6SubnetMin is not in the range of the Network fd00::/48"),
        (V6 | {"IPv6SubnetMax": "fd00::1"}, "IPv6SubnetMax: IPv6SubnetMax is not on a SubnetLen boundary: fd00::1"),
        ({"EnableIPv4": False}, "EnableIPv4: false, and EnableIPv6 is not true"),
        ({"EnableIPv4": "yes"}, 'EnableIPv4: expected true or false, got "yes"'),
        (V4 | {"EnableNFTables": 1}, "EnableNFTables: expected true or false, got 1"),
        (V4 | {"Backend": "vxlan"}, 'Backend: expected an object, got "vxlan"'),
        (V4 | {"Backend": {"Type": 1}}, "Backend.Type: expected a string, got 1"),
    ],
)
def test_wrong_values_are_errors_that_name_key_and_value(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_network(json.dumps(settings))


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", "10", '{"Network": NaN}', "[" * 100_000, '{"Network": ' + "9" * 5000 + "}"]
)
def test_what_is_not_a_json_object_is_a_config_error_on_one_short_line(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^network config: .{1,250}$"):
        parse_network(text)


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-2, 130)
    | st.text(max_size=5)
    | st.sampled_from(["10.5.0.0/16", "10.5.4.0", "fd00::/48"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["Type", "VNI"]), inner, max_size=2),
    max_leaves=3,
)
KEYS = ["Network", "network", "IPv6Network", "EnableIPv6", "SubnetLen", "IPv6SubnetLen", "SubnetMin", "SubnetMax", "Backend", "x"]


@given(st.dictionaries(st.sampled_from(KEYS), VALUES))
def test_any_json_object_is_a_usable_network_or_a_config_error(settings: dict[str, object]) -> None:
    with suppress(ConfigError):
        pools = parse_network(json.dumps(settings)).pools
        assert all(pool[0] in pool and pool[pool.size - 1].subnet_of(pool.network) for pool in pools)  # type: ignore[arg-type]


def test_backend_numbers_have_a_default_and_a_range() -> None:
    assert read_int({"vni": 7}, "VNI", 1, 0, 100) == 7
    assert read_int({}, "VNI", 1, 0, 100) == 1
    with pytest.raises(ConfigError, match=r"^Backend\.VNI: expected 0 to 100, got 101$"):
        read_int({"vni": 101}, "VNI", 1, 0, 100)
    with pytest.raises(ConfigError, match=r"^Backend\.VNI: expected a whole number, got \[1\]$"):
        read_int({"vni": [1]}, "VNI", 1, 0, 100)


def test_backend_switches_have_a_default_and_are_never_numbers() -> None:
    assert read_bool({"gbp": False}, "GBP", True) is False
    assert read_bool({}, "GBP", True) is True
    with pytest.raises(ConfigError, match=r"^Backend\.GBP: expected true or false, got 1$"):
        read_bool({"gbp": 1}, "GBP", False)
