"""The ptp plugin: a pair of veths, no bridge, everything by way of the host."""

from __future__ import annotations

import time

import pytest

from cni_chain import conf, gateways, host_end, host_local, interface, ips
from cni_errors import Fault, refused
from cni_traffic import HOST, OUTSIDE, outside, service
from cni_world import CniHost, Json, is_before

POD4, POD6 = "10.1.2.0/24", "2001:db8:1::/64"
ROUTES = [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}, {"dst": "10.9.0.0/16", "gw": "10.1.2.77"}]
FAMILIES = {"v4": (POD4,), "v6": (POD6,), "dual-stack": (POD4, POD6)}
ADDRESS = {POD4: "10.1.2.2", POD6: "2001:db8:1::2"}
GATEWAY = {POD4: "10.1.2.1", POD6: "2001:db8:1::1"}


@pytest.mark.parametrize("family", FAMILIES)
def test_add_connects_host_and_pod_and_del_takes_it_back(host: CniHost, version: str, family: str) -> None:
    network = conf("ptp", version, ipam=host_local(*FAMILIES[family], routes=ROUTES[:2] if family == "dual-stack" else []))
    attachment = host.attachment()
    result = host.add(network, attachment)
    assert gateways(result) == [GATEWAY[subnet] for subnet in FAMILIES[family]]
    assert {address.partition("/")[0] for address in host.of(attachment).addresses("eth0")} == {
        ADDRESS[subnet] for subnet in FAMILIES[family]
    }
    for subnet in FAMILIES[family]:
        with service(host.of(attachment), 80, address=ADDRESS[subnet]) as web:
            assert web.reaches(host, ADDRESS[subnet], 80) == GATEWAY[subnet]
    host.delete({**network, **({} if is_before(version, "0.4.0") else {"prevResult": result})}, attachment)
    assert host.of(attachment).is_left_with("lo")
    assert host.is_left_with("lo")
    assert not [name for name in host.files("/var/lib/cni/networks/net") if name in ADDRESS.values()]


def test_check_finds_what_add_made_and_misses_what_is_gone(host: CniHost, version: str) -> None:
    if is_before(version, "0.4.0"):
        pytest.skip(f"{version} has no CHECK")
    network = conf("ptp", version, ipam=host_local(POD4, POD6, routes=ROUTES[:2]))
    attachment = host.attachment()
    result = host.add(network, attachment)
    host.check(network, attachment, result).succeeded()
    host.of(attachment).ip("address flush dev eth0")
    assert host.check(network, attachment, result).error["msg"]


def test_a_result_names_the_host_end_and_the_container_end_in_this_order(host: CniHost) -> None:
    attachment = host.attachment()
    result = host.add(conf("ptp", ipam=host_local(POD4, POD6)), attachment)
    near, far = result["interfaces"]
    assert (near["mac"], far["mac"]) == (host.links()[near["name"]]["address"], host.of(attachment).links()["eth0"]["address"])
    assert (far["name"], far["sandbox"], near["name"][:4]) == ("eth0", attachment.netns, "veth")
    assert [ip["interface"] for ip in result["ips"]] == [1, 1]


def test_the_pod_sends_everything_to_the_host_and_the_host_has_a_route_to_the_pod_alone(host: CniHost) -> None:
    attachment = host.attachment()
    result = host.add(conf("ptp", ipam=host_local(POD4, POD6, routes=ROUTES)), attachment)
    routes = host.of(attachment).routes()
    assert {dst: route.get("gateway") for dst, route in routes.items()} == {
        "default": "10.1.2.1",
        "10.1.2.0/24": "10.1.2.1",
        "10.1.2.1": None,
        "10.9.0.0/16": "10.1.2.77",
    }
    near = host_end(result)["name"]
    assert host.addresses(near) == {"10.1.2.1/32", "2001:db8:1::1/128"}
    assert host.routes()["10.1.2.2"]["dev"] == host.routes(6)["2001:db8:1::2"]["dev"] == near


def test_two_pods_reach_each_other_through_the_host_with_their_own_addresses(host: CniHost) -> None:
    one, two = host.attachment(), host.attachment()
    network = conf("ptp", ipMasq=True, ipam=host_local(POD4, routes=ROUTES[:1]))
    for attachment in (one, two):
        host.add(network, attachment)
    with service(host.of(two), 80) as web:
        assert web.reaches(host.of(one), "10.1.2.3", 80) == "10.1.2.2"


@pytest.mark.parametrize(("subnet", "route", "source", "target"), [(POD4, 0, HOST[0], OUTSIDE[0]), (POD6, 1, HOST[1], OUTSIDE[1])])
def test_masquerade_hides_the_pod_from_the_outside(host: CniHost, subnet: str, route: int, source: str, target: str) -> None:
    beyond, hidden, plain = outside(host), host.attachment(), host.attachment()
    network = conf("ptp", ipam=host_local(subnet, routes=[ROUTES[route]]))
    host.add({**network, "ipMasq": True}, hidden)
    address = ips(host.add({**network, "ipMasq": False}, plain))[0].partition("/")[0]
    with service(beyond, 80, address="::" if ":" in target else "0.0.0.0") as web:  # noqa: S104
        assert web.reaches(host.of(hidden), target, 80) == source
        assert web.reaches(host.of(plain), target, 80) == address
    host.delete({**network, "ipMasq": True}, hidden)


IPAM_DNS = {"nameservers": ["192.0.2.53"], "domain": "ipam.test"}
DNS: dict[str, tuple[Json, Json]] = {
    "that of IPAM without another": ({}, IPAM_DNS),
    "that of the configuration": ({"dns": {"nameservers": ["192.0.2.54"]}}, {"nameservers": ["192.0.2.54"]}),
    "an empty one of the configuration": ({"dns": {"nameservers": []}}, {}),
}


@pytest.mark.parametrize("what", DNS)
def test_the_dns_of_the_result_is(host: CniHost, what: str) -> None:
    keys, expected = DNS[what]
    ipam = {"type": "static", "addresses": [{"address": "10.1.2.9/24", "gateway": "10.1.2.1"}], "dns": IPAM_DNS}
    assert host.add(conf("ptp", ipam=ipam, **keys), host.attachment())["dns"] == expected


def test_the_mtu_is_that_of_both_ends(host: CniHost) -> None:
    attachment = host.attachment()
    near = host_end(host.add(conf("ptp", mtu=1400, ipam=host_local(POD4)), attachment))["name"]
    assert host.links()[near]["mtu"] == host.of(attachment).links()["eth0"]["mtu"] == 1400


def test_del_of_what_was_never_added_succeeds(host: CniHost, version: str) -> None:
    host.delete(conf("ptp", version, ipMasq=True, ipam=host_local(POD4)), host.attachment())


def test_without_ipam_it_is_refused_and_leaves_nothing(host: CniHost) -> None:
    attachment = host.attachment()
    refused(host, host.call("ptp", "ADD", conf("ptp"), attachment), Fault.OTHER)
    assert host.of(attachment).is_left_with("lo")
    assert host.is_left_with("lo")


@pytest.mark.differs("reference", "waits for the detection of duplicates, about two seconds")
def test_addresses_are_of_use_at_once_in_both_families(host: CniHost) -> None:
    attachment = host.attachment(host.sandbox(detects_duplicates=True))
    start = time.monotonic()
    host.add(conf("ptp", ipam=host_local(POD4, POD6)), attachment)
    (link,) = host.of(attachment).read("ip address show dev eth0")
    assert not [ip for ip in link["addr_info"] if ip["scope"] == "global" and ip.get("tentative")]
    assert time.monotonic() - start < 1


def test_an_interface_that_is_there_is_refused_and_gives_the_address_back(host: CniHost) -> None:
    network = conf("ptp", ipam=host_local(POD4))
    first = host.attachment()
    result = host.add(network, first)
    again = host.attachment(host.of(first))
    refused(host, host.call("ptp", "ADD", network, again), Fault.OTHER, "eth0", "already exists")
    assert "10.1.2.3" not in host.files("/var/lib/cni/networks/net")
    assert interface(result, "eth0")["mac"] == host.of(first).links()["eth0"]["address"]
