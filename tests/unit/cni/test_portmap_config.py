"""The portmap plugin's configuration, and what it holds for it: no kernel."""

from __future__ import annotations

import logging
from dataclasses import replace
from ipaddress import ip_address, ip_interface
from typing import Any

import pytest

from cni import portmap
from cni.ledger import HeldElement
from cni.portmap import MARK_BIT, Mapping, elements_for, parse, pod_addresses
from cni.result import Interface, Ip, Result
from cni.spec import CniError, Code, Command
from cni_requests import request

WEB = {"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}
POD = Result(
    (Interface("eth0", sandbox="/pod"),), (Ip(ip_interface("10.1.1.2/24"), None, 0), Ip(ip_interface("fd00::2/64"), None, 0))
)


def conf(*ports: dict[str, Any], **keys: Any) -> dict[str, Any]:
    return {"runtimeConfig": {"portMappings": list(ports)}, **keys}


def held(*ports: dict[str, Any], result: Result = POD, **keys: Any) -> set[HeldElement]:
    asked = replace(request("portmap", conf(*ports, **keys)), prev_result=result)
    return set(elements_for(parse(asked), asked))


def refused(*ports: dict[str, Any], **keys: Any) -> CniError:
    with pytest.raises(CniError) as error:
        held(*ports, **keys)
    return error.value


def test_keys_as_go_names_fields_are_understood() -> None:
    told = {"HostPort": 8081, "ContainerPort": 80, "Protocol": "tcp", "HostIP": ""}
    assert parse(request("portmap", conf(told))).mappings == (Mapping(8081, 80, "tcp"),)


def test_each_family_of_the_pod_has_its_mapping_and_its_hairpin() -> None:
    assert held(WEB) == {
        HeldElement("ports4", "tcp . 8080", "10.1.1.2 . 80"),
        HeldElement("hairpin4", "10.1.1.2"),
        HeldElement("near4", "10.1.1.0/24 . 10.1.1.0/24"),
        HeldElement("ports6", "tcp . 8080", "fd00::2 . 80"),
        HeldElement("hairpin6", "fd00::2"),
        HeldElement("near6", "fd00::/64 . fd00::/64"),
    }


def test_a_host_address_is_of_one_family() -> None:
    assert {element.set for element in held(WEB | {"hostIP": "192.0.2.1"})} == {"ip_ports4", "hairpin4", "near4"}
    assert held(WEB | {"hostIP": "2001:db8::1"}, result=replace(POD, ips=POD.ips[:1])) == set()


@pytest.mark.parametrize(("anywhere", "name"), [("0.0.0.0", "ports4"), ("::", "ports6")])  # noqa: S104
def test_an_unspecified_host_address_is_any_of_its_family(anywhere: str, name: str) -> None:
    assert {element.set for element in held(WEB | {"hostIP": anywhere}) if element.value} == {name}


def test_snat_and_masq_all_choose_who_is_masqueraded() -> None:
    assert {element.set for element in held(WEB, snat=False)} == {"ports4", "ports6"}
    assert {element.set for element in held(WEB, masqAll=True)} == {"ports4", "ports6", "hairpin_all4", "hairpin_all6"}
    assert {element.set for element in held(WEB, masqAll=True, snat=False)} == {"ports4", "ports6"}


def test_without_ports_nothing_is_held() -> None:
    assert held() == held(WEB, result=Result()) == set()
    assert parse(request("portmap", {})).mappings == ()


def test_a_mapping_named_twice_is_one_and_one_with_two_targets_is_refused() -> None:
    assert held(WEB, WEB) == held(WEB)
    error = refused(WEB, WEB | {"containerPort": 81})
    assert (error.code, "tcp . 8080" in error.message) == (Code.INVALID_CONFIG, True)


def test_the_pods_address_is_on_its_interface_or_on_none_that_is_known() -> None:
    interfaces = (Interface("cni0"), Interface("eth0", sandbox="/pod"), Interface("eth1", sandbox="/pod"))
    addresses = [Ip(ip_interface(f"10.1.1.{n + 2}/24"), None, place) for n, place in enumerate((2, 0, 1, None))]
    for ips, expected in ((addresses, "10.1.1.4"), (addresses[3:], "10.1.1.5"), (addresses[:2], None)):
        found = pod_addresses(Result(interfaces, tuple(ips)), "eth0")
        assert [str(each.ip) for each in found] == ([expected] if expected else [])
    assert pod_addresses(Result((), tuple(addresses[:1])), "eth0") == [ip_interface("10.1.1.2/24")]


@pytest.mark.parametrize(
    ("port", "words"),
    [
        ({"hostPort": 0}, "hostPort: got 0, expected a host port"),
        ({"hostPort": 65536}, "65536"),
        ({"hostPort": True}, "hostPort"),
        ({"containerPort": None}, "containerPort: got null, expected a container port"),
        ({"protocol": "icmp"}, 'protocol: got "icmp"'),
        ({"hostIP": "999.1.1.1"}, "hostIP"),
    ],
)
def test_a_mapping_that_makes_no_sense_is_refused_by_its_path(port: dict[str, Any], words: str) -> None:
    error = refused(WEB | port)
    assert error.code == Code.INVALID_CONFIG
    assert "runtimeConfig.portMappings[0]." in error.message
    assert words in error.message


@pytest.mark.parametrize(
    ("keys", "code", "words"),
    [
        ({"markMasqBit": 5}, Code.UNSUPPORTED_FIELD, "markMasqBit"),
        ({"externalSetMarkChain": "KUBE-MARK-MASQ"}, Code.UNSUPPORTED_FIELD, "externalSetMarkChain"),
        ({"conditionsV4": ["-s", "192.0.2.1"]}, Code.UNSUPPORTED_FIELD, "conditionsV4"),
        ({"conditionsV6": ["-s", "::1"]}, Code.UNSUPPORTED_FIELD, "conditionsV6"),
        ({"markMasqBit": 32}, Code.INVALID_CONFIG, "between 0 and 31"),
        ({"markMasqBit": 5, "externalSetMarkChain": "X"}, Code.INVALID_CONFIG, "externalSetMarkChain and markMasqBit"),
        ({"backend": "pigeon"}, Code.INVALID_CONFIG, "pigeon"),
        ({"snatt": True}, Code.UNSUPPORTED_FIELD, "snatt"),
    ],
)
def test_what_we_cannot_do_is_refused_by_name(keys: dict[str, Any], code: Code, words: str) -> None:
    error = refused(WEB, **keys)
    assert (error.code, words in str(error)) == (code, True)


def test_what_is_the_same_without_it_is_accepted() -> None:
    assert held(WEB, markMasqBit=MARK_BIT, conditionsV4=[], conditionsV6=None, externalSetMarkChain="", backend="nftables") == held(
        WEB
    )


def test_iptables_are_named_in_the_log_and_nftables_used(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert held(WEB, backend="iptables", name="someone's") == held(WEB)
    assert "ports are mapped by nftables" in caplog.text


def test_it_is_chained_only() -> None:
    asked = request("portmap", conf(WEB))
    with pytest.raises(CniError, match="must be called as"):
        elements_for(parse(asked), asked)


def test_del_takes_any_configuration() -> None:
    asked = request("portmap", conf({"hostPort": "x"}, nonsense=1), Command.DEL)

    class Ledger:
        def record(self, *_: object) -> None:
            return None

    class Node:
        ledger = Ledger()

    portmap.delete(asked, Node())  # type: ignore[arg-type]  # all that it looks at


def test_the_loopback_of_ipv6_is_left_to_the_host(caplog: pytest.LogCaptureFixture) -> None:
    assert held(WEB | {"hostIP": "::1"}) == set()
    assert "leads nowhere" in caplog.text


def test_a_loopback_address_of_the_host_may_be_mapped() -> None:
    (element,) = (each for each in held(WEB | {"hostIP": "127.0.0.1"}) if each.value)
    assert element.key == f"{ip_address('127.0.0.1')} . tcp . 8080"
