"""The bridge plugin: ADD, CHECK and DEL of a container on a bridge, in every version and family."""

from __future__ import annotations

import re

import pytest

from cni_chain import conf, gateways, host_end, host_local, interface, ips, static
from cni_errors import Fault, refused
from cni_world import CniHost, Json, is_before

POD4, POD6, MORE4 = "10.1.2.0/24", "2001:db8:1::/64", "10.9.9.0/24"
DEFAULTS = [{"dst": "0.0.0.0/0"}]
FAMILIES = {
    "v4": ((POD4,), ["10.1.2.2/24"], ["10.1.2.1"]),
    "v6": ((POD6,), ["2001:db8:1::2/64"], ["2001:db8:1::1"]),
    "dual-stack": ((POD4, POD6), ["10.1.2.2/24", "2001:db8:1::2/64"], ["10.1.2.1", "2001:db8:1::1"]),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_add_makes_bridge_veth_addresses_and_default_route_and_del_takes_them(host: CniHost, version: str, family: str) -> None:
    subnets, addresses, routers = FAMILIES[family]
    network = conf("bridge", version, bridge="cni0", isDefaultGateway=True, ipMasq=False, ipam=host_local(*subnets))
    attachment = host.attachment()
    pod = host.of(attachment)
    result = host.add(network, attachment)
    assert (ips(result), gateways(result), result["cniVersion"]) == (addresses, routers, version)
    assert pod.addresses("eth0") == set(addresses)
    assert [pod.routes(6 if ":" in router else 4)["default"]["gateway"] for router in routers] == routers
    lengths = [address.partition("/")[2] for address in addresses]
    assert host.addresses("cni0") == {f"{router}/{length}" for router, length in zip(routers, lengths, strict=True)}
    host.delete({**network, **({} if is_before(version, "0.4.0") else {"prevResult": result})}, attachment)
    assert pod.is_left_with("lo")
    assert host.is_left_with("lo", "cni0")


@pytest.mark.parametrize("family", FAMILIES)
def test_check_finds_what_add_made(host: CniHost, version: str, family: str) -> None:
    if is_before(version, "0.4.0"):
        pytest.skip(f"{version} has no CHECK")
    network = conf("bridge", version, bridge="cni0", isDefaultGateway=True, ipam=host_local(*FAMILIES[family][0]))
    attachment = host.attachment()
    result = host.add(network, attachment)
    host.check(network, attachment, result).succeeded()
    host.of(attachment).ip("link set eth0 down\naddress flush dev eth0")
    assert host.check(network, attachment, result).error["msg"]


def wrong(result: Json, what: str) -> Json:
    """The result of an ADD that was different in one thing."""
    bridge, near, far = result["interfaces"]
    changes: dict[str, Json] = {
        "address": {"ips": [{**result["ips"][0], "address": "10.1.2.99/24"}]},
        "mac": {"interfaces": [bridge, near, {**far, "mac": "02:00:00:00:00:01"}]},
        "sandbox": {"interfaces": [bridge, near, {**far, "sandbox": "/run/netns/other"}]},
        "container's end": {"interfaces": [bridge, near]},
        "route": {"routes": [{"dst": "10.77.0.0/16", "gw": "10.1.2.1"}]},
    }
    return {**result, **changes[what]}


@pytest.mark.parametrize("what", ["address", "mac", "sandbox", "container's end", "route"])
def test_check_sees_that_something_is_not_as_in_the_result(host: CniHost, what: str) -> None:
    network = conf("bridge", bridge="cni0", ipam=host_local(POD4))
    attachment = host.attachment()
    result = host.add(network, attachment)
    refused(host, host.check(network, attachment, wrong(result, what)), Fault.OTHER)


def test_a_result_names_bridge_host_end_and_container_end_in_this_order(host: CniHost) -> None:
    network = conf("bridge", bridge="cni0", ipam=host_local(POD4, POD6))
    attachment = host.attachment()
    result = host.add(network, attachment)
    bridge, near, far = result["interfaces"]
    assert (bridge["name"], far["name"], far["sandbox"]) == ("cni0", "eth0", attachment.netns)
    assert [ip["interface"] for ip in result["ips"]] == [2, 2]
    assert bridge["mac"] == host.links()["cni0"]["address"]
    assert near["mac"] == host.links()[near["name"]]["address"]
    assert far["mac"] == host.of(attachment).links()["eth0"]["address"]
    assert "sandbox" not in bridge | near


def test_the_host_end_is_a_port_of_the_bridge_and_named_veth_and_digits(host: CniHost) -> None:
    result = host.add(conf("bridge", bridge="br7", ipam=host_local(POD4)), host.attachment())
    near = host_end(result, "br7")["name"]
    assert re.fullmatch(r"veth[0-9a-f]{8,11}", near)
    assert host.links()[near]["master"] == "br7"
    assert host.links()[near]["operstate"] == "UP"


def test_the_bridge_is_called_cni0_unless_it_is_named(host: CniHost) -> None:
    host.add(conf("bridge", ipam=host_local(POD4)), host.attachment())
    assert host.links()["cni0"]["linkinfo"]["info_kind"] == "bridge"


def test_a_bridge_that_is_there_is_used_as_it_is(host: CniHost) -> None:
    host.ip("link add mine type bridge\nlink set mine mtu 1400\nlink set mine address 02:00:00:00:00:07")
    result = host.add(conf("bridge", bridge="mine", ipam=host_local(POD4)), host.attachment())
    assert interface(result, "mine")["mac"] == "02:00:00:00:00:07"
    assert "UP" in host.links()["mine"]["flags"]


def test_what_is_there_under_the_name_and_no_bridge_is_refused(host: CniHost) -> None:
    host.ip("link add mine type veth peer name other")
    refusal = host.call("bridge", "ADD", conf("bridge", bridge="mine", ipam=host_local(POD4)), host.attachment())
    refused(host, refusal, Fault.OTHER, "mine", "bridge")


def test_without_ipam_there_is_a_link_and_no_address(host: CniHost, version: str) -> None:
    if version in ("0.1.0", "0.2.0"):
        pytest.skip(f"a {version} result has to have an address")
    attachment = host.attachment()
    result = host.add(conf("bridge", version, bridge="cni0", ipam={}), attachment)
    assert host.of(attachment).addresses("eth0") == host.addresses("cni0") == set()
    assert [one["name"] for one in result["interfaces"]][::2] == ["cni0", "eth0"]
    assert result.get("ips", []) == []
    host.delete(conf("bridge", version, bridge="cni0", ipam={}), attachment)


def test_del_of_what_was_never_added_succeeds(host: CniHost, version: str) -> None:
    network = conf("bridge", version, bridge="cni0", isDefaultGateway=True, ipMasq=True, ipam=host_local(POD4))
    host.delete(network, host.attachment())


def test_without_a_gateway_the_bridge_has_no_address_and_the_pod_still_knows_one(host: CniHost) -> None:
    attachment = host.attachment()
    result = host.add(conf("bridge", bridge="cni0", ipam=host_local(POD4, routes=DEFAULTS)), attachment)
    assert host.addresses("cni0") == set()
    assert host.of(attachment).routes()["default"]["gateway"] == "10.1.2.1" == gateways(result)[0]


def test_is_default_gateway_adds_the_route_once_to_the_result(host: CniHost) -> None:
    network = conf("bridge", bridge="cni0", isDefaultGateway=True, ipam=host_local(POD4))
    assert host.add(network, host.attachment())["routes"] == [{"dst": "0.0.0.0/0", "gw": "10.1.2.1"}]


@pytest.mark.differs("reference", "does not recognise IPAM's default route as one, adds its own: file exists")
def test_is_default_gateway_adds_no_second_default_route_to_that_of_ipam(host: CniHost) -> None:
    network = conf("bridge", bridge="cni0", isDefaultGateway=True, ipam=host_local(POD4, routes=DEFAULTS))
    assert host.add(network, host.attachment())["routes"] == DEFAULTS


def test_several_ranges_give_one_address_each(host: CniHost) -> None:
    network = conf("bridge", bridge="cni0", ipam=host_local(POD4, POD6, MORE4))
    attachment = host.attachment()
    result = host.add(network, attachment)
    assert ips(result) == ["10.1.2.2/24", "2001:db8:1::2/64", "10.9.9.2/24"]
    assert host.of(attachment).addresses("eth0") == set(ips(result))
    host.check(network, attachment, result).succeeded()


def test_pods_on_one_bridge_reach_each_other_and_the_gateway(host: CniHost) -> None:
    network = conf("bridge", bridge="cni0", isGateway=True, ipam=host_local(POD4))
    one, two = host.attachment(), host.attachment()
    results = [host.add(network, attachment) for attachment in (one, two)]
    assert [ips(result) for result in results] == [["10.1.2.2/24"], ["10.1.2.3/24"]]
    for target in ("10.1.2.3", "10.1.2.1"):
        host.of(one).place.run(["ping", "-c1", "-W5", target])


def test_a_second_interface_may_bring_a_second_default_route(host: CniHost) -> None:
    pod = host.sandbox()
    network = conf("bridge", bridge="cni0", isDefaultGateway=True, ipam=host_local(POD4, POD6))
    for ifname in ("eth0", "eth1"):
        host.add(network, host.attachment(pod, ifname))
    for family in ("-4", "-6"):
        defaults = pod.read(f"ip {family} route show default")
        assert "eth0" in str(defaults)


def test_a_gateway_forwards(host: CniHost) -> None:
    host.add(conf("bridge", bridge="cni0", isGateway=True, ipam=host_local(POD4, POD6)), host.attachment())
    assert [host.sysctl(key) for key in ("net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding")] == ["1", "1"]


def test_addresses_are_of_use_at_once_in_both_families(host: CniHost) -> None:
    attachment = host.attachment(host.sandbox(detects_duplicates=True))
    host.add(conf("bridge", bridge="cni0", isGateway=True, ipam=static("10.1.2.9/24", "2001:db8:1::9/64")), attachment)
    (link,) = host.of(attachment).read("ip address show dev eth0")
    assert not [ip for ip in link["addr_info"] if ip["scope"] == "global" and ip.get("tentative")]
