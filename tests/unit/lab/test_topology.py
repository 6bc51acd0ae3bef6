from __future__ import annotations

import json
from ipaddress import ip_address, ip_interface
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab import LabError
from lab.table import TopologyError
from lab.topology import DEFAULT_NETWORK, Topology, document, generate, parse_topology, read_topology

EXAMPLES = Path(__file__).parents[3] / "lab/topologies"
LEAF_SPINE = Path(__file__).parents[3] / "examples/leaf-spine.toml"
LAN = {"name": "lan", "subnet": "10.0.0.0/24"}
LEAF = {"name": "leaf", "asn": 65101, "addresses": ["10.0.0.254"]}


def parsed(*hosts: dict[str, object], **others: object) -> Topology:
    return parse_topology({"segment": [LAN], "host": list(hosts) or [{"name": "h1"}], **others})


def test_what_is_left_out_has_defaults() -> None:
    topology = parsed({"name": "h1"}, {"name": "h2"})
    assert topology.network == DEFAULT_NETWORK
    assert topology.segments[0].routers == (ip_interface("10.0.0.1/24"),)
    assert [host.addresses for host in topology.hosts] == [(ip_interface("10.0.0.11/24"),), (ip_interface("10.0.0.12/24"),)]


def test_the_network_config_goes_through_word_for_word_whatever_the_case_of_its_keys() -> None:
    topology = parsed(network={"network": "10.5.0.0/16", "Backend": {"Type": "udp", "Port": 7000}})
    assert topology.network == {"network": "10.5.0.0/16", "Backend": {"Type": "udp", "Port": 7000}, "EnableNFTables": True}


def test_another_backend_replaces_the_files_whole() -> None:
    topology = parsed(network={"backend": {"Type": "vxlan", "DirectRouting": True}}).with_backend("host-gw")
    assert topology.network["Backend"] == {"Type": "host-gw"}
    assert "backend" not in topology.network


def test_a_dual_stack_segment_gives_hosts_an_address_that_reads_the_same_in_both_families() -> None:
    host = generate(2, ipv6=True).hosts[1]
    assert host.addresses == (ip_interface("10.0.0.12/24"), ip_interface("fd00:10::12/64"))


def test_hosts_are_spread_in_order_over_segments() -> None:
    assert [host.segment for host in generate(5, segments=2).hosts] == ["lan1", "lan1", "lan1", "lan2", "lan2"]


@pytest.mark.parametrize("path", sorted(EXAMPLES.iterdir()), ids=lambda path: path.name)
def test_the_examples_can_be_read(path: Path) -> None:
    assert len(read_topology(path).hosts) == 3


def test_a_host_has_labels_and_an_as_of_its_own() -> None:
    plain, labelled = parsed({"name": "h1"}, {"name": "h2", "labels": {"rack": "r1", "a/b": ""}, "asn": 65001}).hosts
    assert (plain.labels, plain.asn) == ({}, None)
    assert (labelled.labels, labelled.asn) == ({"rack": "r1", "a/b": ""}, 65001)


def test_a_router_is_in_the_segments_that_it_has_addresses_of() -> None:
    router = {**LEAF, "addresses": ["fd00:9::2", "10.9.0.2", "10.0.0.254"], "bfd": True}
    spine = {"name": "spine", "subnet": "10.9.0.0/24", "subnet6": "fd00:9::/64"}
    topology = parsed(segment=[LAN, spine], router=[router])
    (leaf,) = topology.routers
    assert (leaf.kind, leaf.bfd, leaf.router_id) == ("bird", True, "10.9.0.2")
    assert {segment.name: list(map(str, ips)) for segment, ips in topology.joined(leaf).items()} == {
        "spine": ["fd00:9::2/64", "10.9.0.2/24"],
        "lan": ["10.0.0.254/24"],
    }


def test_the_first_router_of_a_segment_is_its_hosts_gateway() -> None:
    dual = {**LAN, "subnet6": "fd00::/64"}
    topology = parsed(segment=[dual], router=[LEAF, {**LEAF, "name": "b", "addresses": ["10.0.0.253"]}])
    assert topology.gateways(topology.hosts[0]) == (ip_interface("10.0.0.254/24"), ip_interface("fd00::1/64"))
    assert parsed().gateways(parsed().hosts[0]) == (ip_interface("10.0.0.1/24"),)


def test_the_example_with_routers_has_a_leaf_for_each_rack_and_a_spine() -> None:
    topology = read_topology(LEAF_SPINE)
    assert [router.name for router in topology.routers] == ["leaf1", "leaf2", "spine"]
    gateways = [topology.gateways(host)[0].ip for host in topology.hosts]
    assert list(map(str, gateways)) == ["10.0.1.254", "10.0.1.254", "10.0.2.254", "10.0.2.254"]
    assert parse_topology(json.loads(json.dumps(document(topology)))) == topology


def test_the_plain_example_is_what_one_gets_without_a_file() -> None:
    assert read_topology(EXAMPLES / "one-segment.toml") == generate(3)


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "unknown key": ({"hosts": []}, "hosts: unknown key, expected one of network, segment, host, router"),
    "unknown host key": (
        {"host": [{"name": "a", "adress": "x"}]},
        "host[1].adress: unknown key, expected one of name, segment, address, labels, asn",
    ),
    "no host": ({"host": []}, "host: the list is empty"),
    "no name": ({"host": [{}]}, "host[1].name: missing"),
    "bad name": ({"host": [{"name": "H1"}]}, "host[1].name: 'H1' is not a name"),
    "reserved name": ({"host": [{"name": "outside"}]}, "host[1].name: 'outside' is taken"),
    "name twice": ({"host": [{"name": "lan"}]}, "name: 'lan' is used twice"),
    "no such segment": ({"host": [{"name": "a", "segment": "x"}]}, "host[1].segment: there is no segment 'x', expected one of lan"),
    "foreign address": (
        {"host": [{"name": "a", "address": "10.9.0.1"}]},
        "host[1].address: 10.9.0.1 is not a host's address in 10.0.0.0/24",
    ),
    "router's address": (
        {"host": [{"name": "a", "address": "10.0.0.1"}]},
        "host[1].address: 10.0.0.1 is already the address of the router",
    ),
    "address twice": (
        {"host": [{"name": "a"}, {"name": "b", "address": "10.0.0.11"}]},
        "host[2].address: 10.0.0.11 is already the address of a",
    ),
    "address6 without subnet6": ({"host": [{"name": "a", "address6": "fd00::9"}]}, "host[1].address6: unknown key"),
    "host bits": ({"segment": [{"name": "a", "subnet": "10.0.0.1/24"}]}, "segment[1].subnet: '10.0.0.1/24' is not an IPv4 subnet"),
    "other family": (
        {"segment": [{"name": "a", "subnet": "fd00::/64"}]},
        "segment[1].subnet: 'fd00::/64' is not an IPv4 subnet: Expected 4 octets",
    ),
    "small subnet": ({"segment": [{"name": "a", "subnet": "10.0.0.0/30"}]}, "segment[1].subnet: 10.0.0.0/30 is too small"),
    "small subnet6": (
        {"segment": [LAN | {"subnet6": "fd00::/127"}]},
        "segment[1].subnet6: fd00::/127 is too small, expected 8 addresses or more",
    ),
    "address with a zone": (
        {"segment": [LAN | {"subnet6": "fd00::/64"}], "host": [{"name": "a", "address6": "fd00::9%eth0"}]},
        "host[1].address6: fd00::9%eth0 is not a host's address in fd00::/64",
    ),
    "no room": ({"segment": [{"name": "a", "subnet": "10.0.0.0/29"}]}, "host[1].address: missing, and 10.0.0.0/29 has no room"),
    "mtu": ({"segment": [LAN | {"mtu": 100}]}, "segment[1].mtu: 100 is out of range, expected 576 to 65535"),
    "mtu's type": ({"segment": [LAN | {"mtu": True}]}, "segment[1].mtu: True is not an integer"),
    "overlap": (
        {"segment": [LAN, {"name": "b", "subnet": "10.0.0.0/16"}]},
        "segment: segment lan (10.0.0.0/24) overlaps segment b",
    ),
    "the outside": ({"segment": [{"name": "b", "subnet": "203.0.113.0/28"}]}, "overlaps the lab's outside"),
    "loopback": ({"segment": [{"name": "b", "subnet": "127.0.0.0/24"}]}, "overlaps what no host can have (127.0.0.0/8)"),
    "multicast": ({"segment": [LAN | {"subnet6": "ff02::/64"}]}, "segment lan (ff02::/64) overlaps what no host can have"),
    "not JSON": ({"network": {"x": float("inf")}}, "network: not JSON"),
    "labels' type": ({"host": [{"name": "a", "labels": ["rack"]}]}, "host[1].labels: ['rack'] is not a table"),
    "label's name": (
        {"host": [{"name": "a", "labels": {"a,b": "c"}}]},
        "host[1].labels: 'a,b' is no label's name, expected letters",
    ),
    "label's value": (
        {"host": [{"name": "a", "labels": {"rack": "a=b"}}]},
        "host[1].labels.rack: 'a=b' is no label's value, expected a string of letters",
    ),
    "label's type": ({"host": [{"name": "a", "labels": {"rack": 1}}]}, "host[1].labels.rack: 1 is no label's value"),
    "host's AS": ({"host": [{"name": "a", "asn": 0}]}, "host[1].asn: 0 is out of range, expected 1 to 4294967294"),
}
WRONG_ROUTER: dict[str, tuple[dict[str, Any], str]] = {
    "unknown key": ({"as": 1}, "router[1].as: unknown key, expected one of name, kind, asn, addresses, bfd"),
    "bad name": ({"name": "Leaf"}, "router[1].name: 'Leaf' is not a name"),
    "host's name": ({"name": "h1"}, "name: 'h1' is used twice, expected every segment, host and router to have its own"),
    "segment's name": ({"name": "lan"}, "name: 'lan' is used twice"),
    "kind": ({"kind": "frr"}, "router[1].kind: 'frr' is no kind of router, expected bird"),
    "no AS": ({"asn": None}, "router[1].asn: missing"),
    "AS": ({"asn": 1 << 32}, "router[1].asn: 4294967296 is out of range, expected 1 to 4294967294"),
    "AS's type": ({"asn": "65101"}, "router[1].asn: '65101' is not an integer"),
    "bfd's type": ({"bfd": 1}, "router[1].bfd: 1 is not true or false"),
    "no addresses": ({"addresses": []}, "router[1].addresses: no IPv4 address is there, expected one: the first is the router id"),
    "addresses' type": ({"addresses": "10.0.0.254"}, "router[1].addresses: '10.0.0.254' is not an array"),
    "address's type": ({"addresses": [7]}, "router[1].addresses[1]: 7 is not an address"),
    "no address": ({"addresses": ["10.0.0.2/24"]}, "router[1].addresses[1]: '10.0.0.2/24' is not an address"),
    "foreign": ({"addresses": ["10.9.0.1"]}, "router[1].addresses[1]: 10.9.0.1 is not a host's address in 10.0.0.0/24"),
    "broadcast": ({"addresses": ["10.0.0.255"]}, "router[1].addresses[1]: 10.0.0.255 is not a host's address in 10.0.0.0/24"),
    "host's": ({"addresses": ["10.0.0.11"]}, "router[1].addresses[1]: 10.0.0.11 is already the address of h1"),
    "the lab's": ({"addresses": ["10.0.0.1"]}, "router[1].addresses[1]: 10.0.0.1 is already the address of the lab's own router"),
    "two in one": ({"addresses": ["10.0.0.5", "10.0.0.6"]}, "router[1].addresses[2]: 10.0.0.6 is a second address in 10.0.0.0/24"),
}


@pytest.mark.parametrize(("change", "message"), WRONG.values(), ids=WRONG)
def test_an_error_names_key_value_and_what_was_expected(change: dict[str, Any], message: str) -> None:
    with pytest.raises(TopologyError) as caught:
        parse_topology({"segment": [LAN], "host": [{"name": "h1"}]} | change)
    assert message in str(caught.value)


@pytest.mark.parametrize(("change", "message"), WRONG_ROUTER.values(), ids=WRONG_ROUTER)
def test_an_error_about_a_router_does_so_too(change: dict[str, Any], message: str) -> None:
    router = {key: value for key, value in (LEAF | change).items() if value is not None}
    with pytest.raises(TopologyError) as caught:
        parsed(router=[router])
    assert message in str(caught.value)


def test_two_routers_have_addresses_of_their_own() -> None:
    with pytest.raises(TopologyError, match=r"router\[2\].addresses\[1\]: 10.0.0.254 is already the address of leaf"):
        parsed(router=[LEAF, {**LEAF, "name": "other"}])


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b"[host", "not TOML"),
        (b"\xff", "not TOML"),
        (b"a = 1", "segment: missing"),
        (b"a = " + b"[" * 5000, "too deep"),
        (None, "No such file"),
    ],
)
def test_an_error_in_a_file_names_the_file(tmp_path: Path, text: bytes | None, why: str) -> None:
    path = tmp_path / "lab.toml"
    if text is not None:
        path.write_bytes(text)
    with pytest.raises(LabError, match=why) as caught:
        read_topology(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_the_number_of_hosts_and_segments_has_bounds() -> None:
    for hosts, segments in ((0, 1), (201, 1), (3, 0), (3, 4)):
        with pytest.raises(TopologyError):
            generate(hosts, segments=segments)


@given(st.integers(1, 200), st.data(), st.booleans())
def test_a_topology_survives_being_written_as_json_and_read(hosts: int, data: st.DataObject, ipv6: bool) -> None:
    topology = generate(hosts, segments=data.draw(st.integers(1, min(hosts, 20))), ipv6=ipv6)
    assert parse_topology(json.loads(json.dumps(document(topology)))) == topology


WORDS = st.sampled_from(["lan", "h1", "10.0.0.0/24", "255.255.255.240/28", "fd00::/120", "::/0", "10.0.0.11", "fd00::5", "", "x/y"])
VALUES = st.recursive(WORDS | st.integers() | st.booleans() | st.none(), lambda inner: st.lists(inner, max_size=3), max_leaves=4)
TABLES = st.dictionaries(
    st.sampled_from(["name", "segment", "subnet", "subnet6", "address", "address6", "mtu", "labels", "asn", "addresses", "y"]),
    WORDS | VALUES,
)
LISTS = st.lists(TABLES)


@given(st.fixed_dictionaries({}, optional={"network": TABLES, "segment": LISTS, "host": LISTS | VALUES, "router": LISTS | VALUES}))
def test_any_document_is_a_topology_or_a_topology_error(anything: dict[str, object]) -> None:
    try:
        topology = parse_topology(anything)
    except TopologyError:
        return
    used = [ip.ip for host in topology.hosts for ip in host.addresses]
    assert len(set(used)) == len(used)
    assert ip_address("10.0.0.1") not in used
