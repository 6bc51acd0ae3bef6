"""CNI spec section 5 in every version: results as JSON, and back."""

from __future__ import annotations

import json
from dataclasses import replace
from ipaddress import ip_address, ip_interface, ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni.result import Dns, Interface, Ip, PodRoute, Result, decode_result, encode_result
from cni.spec import VERSIONS, CniError, Code, at_least
from cni_refusals import code_of

RESULT = Result(
    interfaces=(
        Interface("cni0", "0a:58:0a:01:00:01", mtu=1450),
        Interface("eth0", "0a:58:0a:01:00:02", "/run/netns/pod", 1450, "/run/s", "0000:00:1f.6"),
    ),
    ips=(
        Ip(ip_interface("10.1.0.2/24"), ip_address("10.1.0.1"), 1),
        Ip(ip_interface("fd00::2/64"), None, 1),
        Ip(ip_interface("10.9.0.2/24")),
    ),
    routes=(
        PodRoute(ip_network("0.0.0.0/0"), ip_address("10.1.0.1"), 1400, 1360, 7, 100, 0),
        PodRoute(ip_network("fd00:1::/32")),
    ),
    dns=Dns(("10.0.0.10",), "local", ("a.local", "b.local"), ("ndots:5",)),
)
DNS = {"nameservers": ["10.0.0.10"], "domain": "local", "search": ["a.local", "b.local"], "options": ["ndots:5"]}
PLAIN_ROUTES = [{"dst": "0.0.0.0/0", "gw": "10.1.0.1"}, {"dst": "fd00:1::/32"}]
PLAIN_INTERFACES = [
    {"name": "cni0", "mac": "0a:58:0a:01:00:01"},
    {"name": "eth0", "mac": "0a:58:0a:01:00:02", "sandbox": "/run/netns/pod"},
]
IPS: list[dict[str, object]] = [
    {"interface": 1, "address": "10.1.0.2/24", "gateway": "10.1.0.1"},
    {"interface": 1, "address": "fd00::2/64"},
    {"address": "10.9.0.2/24"},
]

interface = st.builds(
    Interface, st.text(), st.text(), st.text(), st.integers(0, 65535), st.text(), st.text()
)  # what is in the texts is not ours to judge
ip = st.builds(Ip, st.ip_addresses().map(ip_interface), st.none() | st.ip_addresses(), st.none() | st.integers(0, 9))
u32 = st.integers(0, 2**32 - 1)
route = st.builds(
    PodRoute, st.ip_addresses().map(ip_network), st.none() | st.ip_addresses(), u32, u32, u32, st.none() | u32, st.none() | u32
)
texts = st.lists(st.text(), max_size=3).map(tuple)
dns = st.builds(Dns, texts, st.text(), texts, texts)
results = st.builds(Result, *(st.lists(part, max_size=4).map(tuple) for part in (interface, ip, route)), dns)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just("10.0.0.1/24"),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["address", "dst", "gw", "ip", "interface"]), inner)
    ),
    max_leaves=8,
)


@pytest.mark.parametrize("version", ["0.1.0", "0.2.0"])
def test_before_0_3_0_there_is_one_address_of_each_family(version: str) -> None:
    assert encode_result(RESULT, version) == {
        "cniVersion": version,
        "ip4": {"ip": "10.1.0.2/24", "gateway": "10.1.0.1", "routes": PLAIN_ROUTES[:1]},
        "ip6": {"ip": "fd00::2/64", "routes": PLAIN_ROUTES[1:]},
        "dns": DNS,
    }


@pytest.mark.parametrize("version", ["0.3.0", "0.3.1", "0.4.0"])
def test_before_1_0_0_an_address_says_its_version(version: str) -> None:
    ips = [{"version": family} | shown for family, shown in zip("464", IPS, strict=True)]
    shown = {"cniVersion": version, "interfaces": PLAIN_INTERFACES, "ips": ips, "routes": PLAIN_ROUTES, "dns": DNS}
    assert encode_result(RESULT, version) == shown


def test_1_0_0_says_it_no_more() -> None:
    shown = {"cniVersion": "1.0.0", "interfaces": PLAIN_INTERFACES, "ips": IPS, "routes": PLAIN_ROUTES, "dns": DNS}
    assert encode_result(RESULT, "1.0.0") == shown


def test_1_1_0_has_mtu_and_more_of_interfaces_and_routes() -> None:
    shown: Any = encode_result(RESULT, "1.1.0")
    assert shown["interfaces"] == [
        PLAIN_INTERFACES[0] | {"mtu": 1450},
        PLAIN_INTERFACES[1] | {"mtu": 1450, "socketPath": "/run/s", "pciID": "0000:00:1f.6"},
    ]
    more = {"mtu": 1400, "advmss": 1360, "priority": 7, "table": 100, "scope": 0}
    assert shown["routes"] == [PLAIN_ROUTES[0] | more, PLAIN_ROUTES[1]]


@pytest.mark.parametrize("version", VERSIONS)
def test_an_empty_result_is_version_and_dns(version: str) -> None:
    assert encode_result(Result(), version) == {"cniVersion": version, "dns": {}}


@given(results)
def test_decoding_undoes_encoding(result: Result) -> None:
    for version in VERSIONS:
        if at_least(version, "1.1.0"):
            assert decode_result(json.loads(json.dumps(encode_result(result, version))), version) == result
        elif at_least(version, "0.3.0"):
            plain = replace(
                result,
                interfaces=tuple(Interface(each.name, each.mac, each.sandbox) for each in result.interfaces),
                routes=tuple(PodRoute(each.dst, each.gw) for each in result.routes),
            )
            assert decode_result(json.loads(json.dumps(encode_result(result, version))), version) == plain


@given(results)
def test_of_the_oldest_shape_addresses_and_dns_come_back(result: Result) -> None:
    back = decode_result(encode_result(result, "0.2.0"), "0.2.0")
    firsts = [next((each for each in result.ips if each.address.version == family), None) for family in (4, 6)]
    assert [(each.address, each.gateway) for each in back.ips] == [(each.address, each.gateway) for each in firsts if each]
    assert back.dns == result.dns


@given(st.dictionaries(st.sampled_from(["cniVersion", "interfaces", "ips", "routes", "dns", "ip4", "ip6"]), json_values))
def test_any_json_is_a_result_or_an_error_of_code_6(told: dict[str, Any]) -> None:
    assert code_of(lambda: decode_result(told, "1.0.0")) in (None, Code.DECODE)


def test_a_results_own_version_counts_before_its_configs() -> None:
    told = {"ip4": {"ip": "10.1.0.2/24"}}
    assert decode_result({"cniVersion": "0.2.0"} | told, "1.0.0").ips == (Ip(ip_interface("10.1.0.2/24")),)
    assert decode_result(told, "1.0.0").ips == ()
    with pytest.raises(CniError, match="prevResult cannot be decoded"):
        decode_result({"cniVersion": "7.0.0"} | told, "1.0.0")


def test_null_is_absence_everywhere() -> None:
    told = {"interfaces": [{"name": "a", "mac": None, "mtu": None}], "ips": None, "routes": None, "dns": {"search": None}}
    assert decode_result(told, "1.1.0") == Result((Interface("a"),))


@pytest.mark.parametrize(
    "told",
    [
        {"ips": [{"gateway": "10.0.0.1"}]},
        {"ips": [{"address": "10.0.0.256/24"}]},
        {"routes": [{"dst": "x"}]},
        {"routes": [{"dst": 167772160}]},
        {"ips": [{"address": "10.0.0.2/24", "gateway": True}]},
        {"interfaces": ["eth0"]},
        {"dns": {"nameservers": "10.0.0.1"}},
        {"interfaces": [{"mtu": float("inf")}]},
    ],
)
def test_what_is_no_result_is_refused(told: dict[str, Any]) -> None:
    with pytest.raises(CniError) as error:
        decode_result(told, "1.0.0")
    assert error.value.code == Code.DECODE
    assert error.value.details


def test_an_ipam_result_is_put_on_an_interface() -> None:
    assert {ip.interface for ip in RESULT.on_interface(2).ips} == {2}
    assert [interface.name for interface in RESULT.pod_interfaces()] == ["eth0"]
