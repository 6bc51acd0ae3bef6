"""Who is attached, in words."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network
from pathlib import Path

from cni.ledger import HeldAddress, HeldElement, Key, Record, State
from cni.pods import named
from cni.service import Service
from cni_requests import bare_node, request

SUBNETS = (ip_network("10.244.5.0/24"), ip_network("fd00:5::/64"))
LONG = "0123456789abcdef" * 4


def held(container: str, *ips: str, pod: str = "") -> Record:
    addresses = tuple(HeldAddress("/pool", ip_address(ip)) for ip in ips)
    return Record(Key("cbr0", container, "eth0"), "host-local", addresses, None, State.MADE, pod=pod)


def test_pods_are_called_as_kubernetes_does_and_others_by_their_container() -> None:
    records = [held("c2", "10.244.5.10", pod="default/web-1"), held(LONG, "10.244.5.7")]
    assert named(records, SUBNETS) == ("container 0123456789ab eth0 (10.244.5.7)", "default/web-1 (10.244.5.10)")


def test_a_pod_with_addresses_of_both_families_is_one() -> None:
    (said,) = named([held("c1", "fd00:5::7", "10.244.5.7", "192.0.2.1", pod="a/b")], SUBNETS)
    assert said == "a/b (10.244.5.7, fd00:5::7)"


def test_who_has_another_address_or_is_not_attached_is_not_named() -> None:
    making = replace(held("c2", "10.244.5.8"), state=State.MAKING)
    going = replace(held("c3", "10.244.5.9"), state=State.GOING)
    assert named([held("c1", "10.244.6.7"), making, going], SUBNETS) == ()
    assert named([held("c1", "10.244.5.7")], ()) == ()


def test_the_name_may_stand_in_any_of_an_attachments_records() -> None:
    address = held("c1", "10.244.5.7")
    other = replace(address, plugin="bridge", holdings=(HeldElement("s", "k"),), pod="a/b")
    assert named([address, other], SUBNETS) == named([other, address], SUBNETS) == ("a/b (10.244.5.7)",)


def test_a_record_has_the_name_that_the_runtime_told(tmp_path: Path) -> None:
    args = {"K8S_POD_NAMESPACE": "default", "K8S_POD_NAME": "web-1", "IgnoreUnknown": "1"}
    with bare_node(tmp_path) as node:
        node.hold(request("host-local", {}, args=args), HeldAddress("/pool", ip_address("10.244.5.7")))
        node.hold(request("host-local", {}, container="c2"), HeldAddress("/pool", ip_address("10.244.5.8")))
    with Service(tmp_path / "journal", tmp_path / "subnet.env", lasting=False) as service:
        assert service.pods(SUBNETS) == ("default/web-1 (10.244.5.7)", "container c2 eth0 (10.244.5.8)")
