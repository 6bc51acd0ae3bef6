"""The bridge plugin's options: addresses of the bridge, MACs, MTU, masquerade; and what is left after it failed."""

from __future__ import annotations

from typing import Any

import pytest

from cni_chain import conf, host_end, host_local, interface, ips, static
from cni_traffic import HOST, OUTSIDE, outside, service
from cni_world import CniHost, Json

POD4, POD6 = "10.1.2.0/24", "2001:db8:1::/64"
MAC, OTHER_MAC, THIRD_MAC = "02:00:00:00:00:01", "02:00:00:00:00:02", "02:00:00:00:00:03"


def gateway_of(subnet: str, **keys: Any) -> Json:
    return conf("bridge", bridge="cni0", isGateway=True, ipam=host_local(subnet), **keys)


def test_a_bridge_with_another_ipv4_address_is_refused_unless_forced(host: CniHost) -> None:
    host.add(gateway_of(POD4), host.attachment())
    moved = gateway_of("10.7.7.0/24", name="moved")
    refusal = host.call("bridge", "ADD", moved, host.attachment())
    assert "already has an IP address different from 10.7.7.1/24" in refusal.text
    assert host.addresses("cni0") == {"10.1.2.1/24"}
    host.add({**moved, "forceAddress": True}, host.attachment())
    assert host.addresses("cni0") == {"10.7.7.1/24"}


def test_a_bridge_takes_an_ipv6_address_besides_one_that_does_not_overlap(host: CniHost) -> None:
    host.add(gateway_of(POD6), host.attachment())
    host.add(gateway_of("2001:db8:2::/64", name="second"), host.attachment())
    assert host.addresses("cni0") == {"2001:db8:1::1/64", "2001:db8:2::1/64"}


def test_an_overlapping_ipv6_address_is_refused_unless_forced(host: CniHost) -> None:
    host.add(gateway_of(POD6), host.attachment())
    wider = gateway_of("2001:db8::/32", name="wider")
    assert "already has an IP address different from 2001:db8::1/32" in host.call("bridge", "ADD", wider, host.attachment()).text
    host.add({**wider, "forceAddress": True}, host.attachment())
    assert host.addresses("cni0") == {"2001:db8::1/32"}


def test_the_macs_of_a_bridge_that_is_a_gateway_do_not_change_with_its_ports(host: CniHost) -> None:
    seen = {interface(host.add(gateway_of(POD4), host.attachment()), "cni0")["mac"] for _ in range(6)}
    assert seen == {host.links()["cni0"]["address"]}


MAC_SOURCES: dict[str, tuple[str, Json, str]] = {
    "environment": (MAC, {}, "IgnoreUnknown=1;MAC=" + MAC),
    "args beat the environment": (OTHER_MAC, {"args": {"cni": {"mac": OTHER_MAC}}}, "IgnoreUnknown=1;MAC=" + MAC),
    "runtimeConfig beats both": (
        THIRD_MAC,
        {"args": {"cni": {"mac": OTHER_MAC}}, "capabilities": {"mac": True}, "runtimeConfig": {"mac": THIRD_MAC}},
        "IgnoreUnknown=1;MAC=" + MAC,
    ),
}


@pytest.mark.parametrize("source", MAC_SOURCES)
def test_the_container_has_the_mac_that_the_runtime_asks_for(host: CniHost, source: str) -> None:
    expected, keys, args = MAC_SOURCES[source]
    attachment = host.attachment(args=args)
    result = host.add(conf("bridge", ipam=host_local(POD4), **keys), attachment)
    assert interface(result, "eth0")["mac"] == host.of(attachment).links()["eth0"]["address"] == expected


def test_the_mtu_is_that_of_both_ends_and_of_a_new_bridge(host: CniHost) -> None:
    attachment = host.attachment()
    result = host.add(conf("bridge", ipam=host_local(POD4), mtu=1400), attachment)
    near = host_end(result, "cni0")["name"]
    mtus = [host.links()["cni0"]["mtu"], host.links()[near]["mtu"], host.of(attachment).links()["eth0"]["mtu"]]
    assert mtus == [1400, 1400, 1400]


def test_what_fails_after_ipam_gives_the_address_back(host: CniHost) -> None:
    host.add(gateway_of("10.7.7.0/24", name="first"), host.attachment())
    assert host.call("bridge", "ADD", gateway_of(POD4), host.attachment()).error["msg"]
    left = host.files("/var/lib/cni/networks/net")
    assert [name for name in left if name.startswith("10.1.2.")] == []


@pytest.mark.differs("reference", "leaves the veth pair of an ADD that failed")
def test_what_fails_leaves_no_link(host: CniHost) -> None:
    host.add(gateway_of("10.7.7.0/24", name="first"), host.attachment())
    failing = host.attachment()
    assert host.call("bridge", "ADD", gateway_of(POD4), failing).error["msg"]
    assert host.of(failing).is_left_with("lo")
    assert len(host.read("ip link show master cni0")) == 1


@pytest.mark.differs("reference", "notices that both ends are in one namespace only when the pair is made, and leaves it")
def test_a_container_in_the_hosts_own_namespace_is_refused_and_leaves_nothing(host: CniHost) -> None:
    assert host.call("bridge", "ADD", gateway_of(POD4), host.attachment(host)).error["msg"]
    assert not [name for name in host.links() if name.startswith(("veth", "eth0"))]


@pytest.mark.parametrize(("subnet", "source", "target"), [(POD4, HOST[0], OUTSIDE[0]), (POD6, HOST[1], OUTSIDE[1])])
def test_masquerade_hides_pods_from_the_outside_until_the_last_is_gone(
    host: CniHost, subnet: str, source: str, target: str
) -> None:
    beyond = outside(host)
    hidden, plain = host.attachment(), host.attachment()
    network = conf("bridge", bridge="cni0", isDefaultGateway=True, ipMasq=True, ipam=host_local(subnet))
    host.add(network, hidden)
    address = ips(host.add({**network, "ipMasq": False}, plain))[0].partition("/")[0]
    any_address = "::" if ":" in target else "0.0.0.0"  # noqa: S104
    with service(beyond, 8000, address=any_address) as web:
        assert web.reaches(host.of(hidden), target, 8000) == source
        assert web.reaches(host.of(plain), target, 8000) == address
    host.delete(network, hidden)


def test_masquerade_leaves_pods_of_one_network_their_addresses(host: CniHost) -> None:
    network = conf("bridge", bridge="cni0", isDefaultGateway=True, ipMasq=True, ipam=host_local(POD4))
    one, two = host.attachment(), host.attachment()
    results = [host.add(network, attachment) for attachment in (one, two)]
    with service(host.of(two), 8000) as web:
        assert web.reaches(host.of(one), "10.1.2.3", 8000) == "10.1.2.2"
    for attachment, result in zip((one, two), results, strict=True):
        host.delete({**network, "prevResult": result}, attachment)
        host.delete(network, attachment)


def test_an_address_that_was_masqueraded_is_not_after_del(host: CniHost) -> None:
    beyond = outside(host)
    network = conf("bridge", bridge="cni0", isDefaultGateway=True, ipMasq=True, ipam=static("10.1.2.9/24"))
    network["ipam"]["addresses"][0]["gateway"] = "10.1.2.1"
    first, second = host.attachment(), host.attachment()
    host.add(network, first)
    host.delete(network, first)
    host.add({**network, "ipMasq": False}, second)
    with service(beyond, 8000) as web:
        assert web.reaches(host.of(second), OUTSIDE[0], 8000) == "10.1.2.9"
