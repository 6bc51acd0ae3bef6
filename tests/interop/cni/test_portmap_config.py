"""The portmap plugin: what it passes on, what it refuses, its options, and DEL from many sides at once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from cni_chain import conf, host_local
from cni_errors import Fault, refused
from cni_traffic import HOST, OUTSIDE, outside, service
from cni_world import Attachment, CniHost, Json, Outcome, is_before

ADDRESSES = [{"address": "10.1.2.2/24", "interface": 0}]
OTHERS: Json = {
    "cniVersion": "1.0.0",
    "interfaces": [{"name": "eth0", "sandbox": "/run/netns/pod"}],
    "ips": ADDRESSES,
    "routes": [{"dst": "0.0.0.0/0", "gw": "10.1.2.1"}],
    "dns": {"nameservers": ["192.0.2.53"]},
}
WEB = {"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}
POD = Attachment("c-1", "/run/netns/pod")


def portmap(*ports: Json, previous: Json | None = OTHERS, version: str = "1.0.0", **keys: Any) -> Json:
    result = {} if previous is None else {"prevResult": {**previous, "cniVersion": version}}
    return conf("portmap", version, runtimeConfig={"portMappings": list(ports)}, **result, **keys)


@pytest.fixture(autouse=True)
def pod(host: CniHost) -> None:
    host.sandbox("pod")


def test_the_result_from_before_is_passed_on_with_and_without_ports(host: CniHost, version: str) -> None:
    if is_before(version, "0.3.0"):
        pytest.skip(f"{version} has no chains")
    previous = {**OTHERS, "ips": [{**ADDRESSES[0], "version": "4"}]} if is_before(version, "1.0.0") else OTHERS
    for ports in ((), (WEB,)):
        network = portmap(*ports, previous=previous, version=version)
        assert host.add(network, POD) == {**previous, "cniVersion": version}


@pytest.mark.parametrize("ports", [(), (WEB,)], ids=["no ports", "a port"])
def test_it_has_to_come_after_another_plugin(host: CniHost, ports: tuple[Json, ...]) -> None:
    outcome = host.call("portmap", "ADD", portmap(*ports, previous=None), POD)
    refused(host, outcome, Fault.CONFIGURATION, "chained plugin")


def test_a_container_without_addresses_gets_no_ports(host: CniHost) -> None:
    nothing: Json = {"cniVersion": "1.0.0"}
    assert host.add(portmap(WEB, previous=nothing), POD) == {"cniVersion": "1.0.0", "dns": {}}


def test_an_address_without_an_interface_index_is_the_containers(host: CniHost) -> None:
    beyond, attachment = outside(host), host.attachment()
    result = host.add(conf("bridge", isDefaultGateway=True, ipam=host_local("10.1.2.0/24")), attachment)
    bare = {"cniVersion": "1.0.0", "ips": [{"address": result["ips"][0]["address"]}]}
    host.add(portmap(WEB, previous=bare), attachment)
    with service(host.of(attachment), 80) as web:
        assert web.reaches(beyond, HOST[0], 8080) == OUTSIDE[0]


INVALID = {
    "host port 0": (WEB | {"hostPort": 0}, ("host port", "0")),
    "host port -1": (WEB | {"hostPort": -1}, ("host port", "-1")),
    "host port 70000": (WEB | {"hostPort": 70000}, ("port", "70000")),
    "container port 0": (WEB | {"containerPort": 0}, ("container port", "0")),
    "container port -1": (WEB | {"containerPort": -1}, ("container port", "-1")),
    "no container port": ({"hostPort": 8080, "protocol": "tcp"}, ("container port",)),
    "a protocol without ports": (WEB | {"protocol": "icmp"}, ("icmp",)),
    "a text for a number": (WEB | {"hostPort": "8080"}, ("hostPort",)),
}


@pytest.mark.parametrize("what", INVALID)
def test_a_mapping_that_makes_no_sense_is_refused_by_name(host: CniHost, what: str) -> None:
    mapping, gists = INVALID[what]
    refused(host, host.call("portmap", "ADD", portmap(mapping), POD), Fault.CONFIGURATION, *gists)


@pytest.mark.differs("reference", "takes it for IPv6, of which an IPv4 container has nothing")
def test_a_host_address_that_is_none_is_refused_by_name(host: CniHost) -> None:
    mapping = WEB | {"hostIP": "999.1.1.1"}
    refused(host, host.call("portmap", "ADD", portmap(mapping), POD), Fault.CONFIGURATION, "999.1.1.1")


@pytest.mark.differs("reference", "refuses DEL, too, of a mapping that it refused to make")
def test_del_of_a_mapping_that_makes_no_sense_succeeds(host: CniHost) -> None:
    host.delete(portmap(WEB | {"hostPort": 0}), POD)


def test_options_that_exclude_each_other_are_refused(host: CniHost) -> None:
    both = portmap(WEB, markMasqBit=5, externalSetMarkChain="KUBE-MARK-MASQ")
    refused(host, host.call("portmap", "ADD", both, POD), Fault.CONFIGURATION, "externalSetMarkChain and markMasqBit")


@pytest.mark.parametrize("bit", [-1, 32])
def test_a_mark_bit_that_no_mark_has_is_refused(host: CniHost, bit: int) -> None:
    outcome = host.call("portmap", "ADD", portmap(WEB, markMasqBit=bit), POD)
    refused(host, outcome, Fault.CONFIGURATION, "between 0 and 31")


@pytest.mark.differs("reference", "1.1.1 has no choice of backend and ignores the key")
def test_a_backend_that_does_not_exist_is_refused(host: CniHost) -> None:
    refused(host, host.call("portmap", "ADD", portmap(WEB, backend="carrier-pigeon"), POD), Fault.CONFIGURATION, "carrier-pigeon")


OPTIONS = [
    pytest.param({"markMasqBit": 5}, marks=pytest.mark.differs("ours", "nftables carries a mark of our own, no other")),
    {"snat": True},
    {"backend": "nftables"},
    {"backend": "iptables"},
]


@pytest.mark.parametrize("options", OPTIONS)
def test_a_port_is_mapped_with_any_of_the_options(host: CniHost, options: Json) -> None:
    attachment = host.attachment()
    result = host.add(conf("bridge", isDefaultGateway=True, hairpinMode=True, ipam=host_local("10.1.2.0/24")), attachment)
    host.add(portmap(WEB, previous=result, **options), attachment)
    with service(host.of(attachment), 80) as web:
        assert web.reaches(host.of(attachment), "10.1.2.1", 8080) == "10.1.2.1"


@pytest.mark.differs("reference", "1.1.1 does not know masqAll")
def test_with_masq_all_callers_from_everywhere_look_like_the_host(host: CniHost) -> None:
    beyond, attachment = outside(host), host.attachment()
    result = host.add(conf("bridge", isDefaultGateway=True, ipam=host_local("10.1.2.0/24")), attachment)
    host.add(portmap(WEB, previous=result, masqAll=True), attachment)
    with service(host.of(attachment), 80) as web:
        assert web.reaches(beyond, HOST[0], 8080) == "10.1.2.1"


@pytest.mark.differs("ours", "conditions are written for iptables, and ports are mapped by nftables")
@pytest.mark.parametrize(("source", "mapped"), [(OUTSIDE[0], True), ("192.0.2.99", False)])
def test_a_condition_says_for_whom_a_port_is_mapped(host: CniHost, source: str, *, mapped: bool) -> None:
    beyond, attachment = outside(host), host.attachment()
    result = host.add(conf("bridge", isDefaultGateway=True, ipam=host_local("10.1.2.0/24")), attachment)
    host.add(portmap(WEB, previous=result, conditionsV4=["-s", source]), attachment)
    with service(host.of(attachment), 80) as web:
        if mapped:
            assert web.reaches(beyond, HOST[0], 8080) == source
        else:
            assert web.unreachable(beyond, HOST[0], 8080)


def test_without_snat_another_network_keeps_its_address(host: CniHost) -> None:
    beyond, attachment = outside(host), host.attachment()
    result = host.add(conf("bridge", isDefaultGateway=True, ipam=host_local("10.1.2.0/24")), attachment)
    host.add(portmap(WEB, previous=result, snat=False), attachment)
    with service(host.of(attachment), 80) as web:
        assert web.reaches(beyond, HOST[0], 8080) == OUTSIDE[0]


@pytest.mark.differs("reference", "looks for an IPv4 container's rules among IPv6's too, and does not find them")
def test_check_finds_the_mapping(host: CniHost) -> None:
    host.add(portmap(WEB), POD)
    host.check(portmap(WEB), POD, OTHERS).succeeded()


def test_check_misses_a_mapping(host: CniHost) -> None:
    refused(host, host.check(portmap(WEB), POD, OTHERS), Fault.OTHER)


ATTACHMENTS = [Attachment(f"c-{n}", "/run/netns/pod") for n in range(6)]


def all_at_once(host: CniHost, command: str) -> list[Outcome]:
    with ThreadPoolExecutor(3) as threads:
        networks = [portmap(WEB | {"hostPort": 8000 + n}) for n in range(len(ATTACHMENTS))]
        return list(threads.map(lambda one, network: host.call("portmap", command, network, one), ATTACHMENTS, networks))


@pytest.mark.differs("reference", "two may make the common chains at the same time, and one fails", strict=False)
def test_adds_at_the_same_time_do_not_disturb_each_other(host: CniHost) -> None:
    assert [outcome.error for outcome in all_at_once(host, "ADD") if outcome.exit_code] == []


def test_dels_at_the_same_time_do_not_disturb_each_other_and_may_be_repeated(host: CniHost) -> None:
    for n, attachment in enumerate(ATTACHMENTS):
        host.add(portmap(WEB | {"hostPort": 8000 + n}), attachment)
    for _ in range(2):
        assert [outcome.error for outcome in all_at_once(host, "DEL") if outcome.exit_code] == []
