"""The bridge plugin's options that are about its ports: hairpin, promiscuity, isolation, spoofed MACs, VLANs, no container end."""

from __future__ import annotations

from typing import Any

import pytest

from cni_chain import conf, host_end, host_local
from cni_errors import Fault, refused
from cni_traffic import service
from cni_world import CniHost, Json, kernel_has

POD4 = "10.1.2.0/24"
GATEWAY = "10.1.2.1"
NO_VLANS = pytest.mark.skipif(not kernel_has("vlan"), reason="this kernel has no 802.1Q, and so no bridge that filters VLANs")


def network(**keys: Any) -> Json:
    usual: Json = {"bridge": "cni0", "isGateway": True, "ipam": host_local(POD4)}
    return conf("bridge", **usual | keys)


def test_hairpin_is_a_mode_of_the_port(host: CniHost) -> None:
    networks = [conf("bridge", ipam=host_local(POD4), hairpinMode=mode) for mode in (True, False)]
    ports = [host_end(host.add(network, host.attachment()), "cni0")["name"] for network in networks]
    assert [host.links()[port]["linkinfo"]["info_slave_data"]["hairpin"] for port in ports] == [True, False]


def test_promiscuous_is_the_bridge(host: CniHost) -> None:
    host.add(conf("bridge", ipam=host_local(POD4), promiscMode=True), host.attachment())
    assert host.links()["cni0"]["promiscuity"] >= 1


def test_hairpin_and_promiscuous_together_are_refused(host: CniHost) -> None:
    network = conf("bridge", ipam=host_local(POD4), hairpinMode=True, promiscMode=True)
    refusal = host.call("bridge", "ADD", network, host.attachment())
    assert "hairpin" in refusal.text
    assert "promisc" in refusal.text
    assert set(host.links()) == {"lo"}


def test_hairpin_brings_a_packet_back_to_the_port_it_came_from(host: CniHost) -> None:
    port = host_end(host.add(network(hairpinMode=True), host.attachment()), "cni0")["name"]
    (row,) = [row for row in host.read("bridge link show") if row["ifname"] == port]
    assert (row["hairpin"], row["state"]) == (True, "forwarding")


@pytest.mark.differs("reference", "1.1.1 does not know portIsolation")
def test_isolated_ports_reach_the_gateway_and_not_each_other(host: CniHost) -> None:
    one, two = host.attachment(), host.attachment()
    for attachment in (one, two):
        host.add(network(portIsolation=True), attachment)
    with service(host.of(two), 80) as web, service(host, 80) as own:
        assert own.reaches(host.of(one), GATEWAY, 80) == "10.1.2.2"
        assert web.unreachable(host.of(one), "10.1.2.3", 80)


def test_a_port_with_spoof_check_lets_only_its_own_mac_in_until_del(host: CniHost) -> None:
    attachment = host.attachment()
    pod = host.of(attachment)
    result = host.add(network(macspoofchk=True), attachment)
    with service(host, 80) as own:
        assert own.reaches(pod, GATEWAY, 80) == "10.1.2.2"
        pod.ip("link set eth0 address 02:00:00:00:00:66\nneighbour flush all")
        host.ip("neighbour flush all")
        assert own.unreachable(pod, GATEWAY, 80)
    host.delete({**network(macspoofchk=True), "prevResult": result}, attachment)
    for _ in range(2):
        host.delete(network(macspoofchk=True), attachment)


@pytest.mark.differs("reference", "1.1.1 does not know disableContainerInterface")
def test_a_container_end_may_be_left_down_without_addresses(host: CniHost) -> None:
    attachment = host.attachment()
    host.add(network(disableContainerInterface=True, ipam={}, isGateway=False), attachment)
    assert host.of(attachment).links()["eth0"]["operstate"] == "DOWN"


@pytest.mark.differs("reference", "1.1.1 does not know disableContainerInterface")
def test_a_container_end_that_is_left_down_gets_no_addresses(host: CniHost) -> None:
    attempt = host.call("bridge", "ADD", network(disableContainerInterface=True), host.attachment())
    refused(host, attempt, Fault.CONFIGURATION, "IPAM", "disableContainerInterface")


@NO_VLANS
@pytest.mark.parametrize(("subnets", "vlan"), [((), 100), ((POD4,), 100)])
def test_a_vlan_is_the_untagged_one_of_the_port(host: CniHost, subnets: tuple[str, ...], vlan: int) -> None:
    result = host.add(conf("bridge", vlan=vlan, ipam=host_local(*subnets) if subnets else {}), host.attachment())
    near = host_end(result, "cni0")["name"]
    (port,) = [row for row in host.read("bridge vlan show") if row["ifname"] == near]
    assert {"vlan": vlan, "flags": ["PVID", "Egress Untagged"]} in port["vlans"]


@pytest.mark.differs("ours", "VLANs of a bridge are not supported: error 2, whatever their number")
@pytest.mark.parametrize("vlan", [-1, 4095])
def test_a_vlan_out_of_range_is_refused(host: CniHost, vlan: int) -> None:
    refusal = host.call("bridge", "ADD", conf("bridge", vlan=vlan, ipam=host_local(POD4)), host.attachment())
    assert "vlan" in refusal.text.lower()
    assert str(vlan) in refusal.text
    assert set(host.links()) == {"lo"}


@NO_VLANS
def test_a_trunk_carries_its_vlans_tagged_and_the_port_keeps_its_own(host: CniHost) -> None:
    trunk = [{"id": 101}, {"minID": 200, "maxID": 210}]
    result = host.add(conf("bridge", vlan=100, vlanTrunk=trunk, ipam={}), host.attachment())
    near = host_end(result, "cni0")["name"]
    (port,) = [row for row in host.read("bridge vlan show") if row["ifname"] == near]
    tags = {(vlan["vlan"], vlan.get("vlanEnd"), "PVID" in vlan.get("flags", [])) for vlan in port["vlans"]}
    assert {(100, None, True), (101, None, False), (200, 210, False)} <= tags


TRUNKS: dict[str, Json] = {
    "nothing": {},
    "no end": {"minID": 100},
    "no start": {"maxID": 100},
    "start 0": {"minID": 0, "maxID": 100},
    "start too high": {"minID": 4095, "maxID": 4095},
    "end too high": {"minID": 100, "maxID": 4095},
    "end before start": {"minID": 200, "maxID": 100},
    "id 0": {"id": 0},
    "id too high": {"id": 4095},
}


@pytest.mark.differs("ours", "VLANs of a bridge are not supported: error 2, whatever their number")
@pytest.mark.differs("reference", "1.1.1 does not know vlanTrunk")
@pytest.mark.parametrize("what", TRUNKS)
def test_a_trunk_that_makes_no_sense_is_refused(host: CniHost, what: str) -> None:
    attempt = host.call("bridge", "ADD", network(vlanTrunk=[TRUNKS[what]]), host.attachment())
    refused(host, attempt, Fault.CONFIGURATION, "trunk")
    assert set(host.links()) == {"lo"}
