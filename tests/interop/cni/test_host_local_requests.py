"""The host-local plugin: addresses that somebody asks for, and configurations that it refuses."""

from __future__ import annotations

from typing import Any

import pytest

from cni_chain import conf, host_local, ips
from cni_errors import Fault, refused
from cni_world import CniHost, Json, Outcome

NETWORK = conf("host-local", ipam=host_local("10.3.0.0/24"))
TWO = conf("host-local", ipam=host_local("10.3.0.0/24", "2001:db8:3::/64"))


def ask(host: CniHost, network: Json = NETWORK, cni_args: str = "", **keys: Any) -> Outcome:
    return host.call("host-local", "ADD", {**network, **keys}, host.attachment(args=cni_args))


REQUESTS: dict[str, tuple[str, Json]] = {
    "CNI_ARGS": ("IP=10.3.0.77", {}),
    "args": ("", {"args": {"cni": {"ips": ["10.3.0.77"]}}}),
    "runtimeConfig": ("", {"runtimeConfig": {"ips": ["10.3.0.77"]}}),
    "runtimeConfig with a prefix": ("", {"runtimeConfig": {"ips": ["10.3.0.77/24"]}}),
}


@pytest.mark.parametrize("way", REQUESTS)
def test_an_address_that_is_asked_for_is_given(host: CniHost, way: str) -> None:
    args, keys = REQUESTS[way]
    result = ask(host, cni_args=args, **keys).result
    assert ips(result) == ["10.3.0.77/24"]
    assert ips(ask(host).result) == ["10.3.0.78/24"]


def test_one_address_of_each_family_may_be_asked_for(host: CniHost) -> None:
    result = ask(host, TWO, args={"cni": {"ips": ["2001:db8:3::77", "10.3.0.77"]}}).result
    assert ips(result) == ["10.3.0.77/24", "2001:db8:3::77/64"]


def test_who_asks_for_one_family_gets_the_other_in_turn(host: CniHost) -> None:
    assert ips(ask(host, TWO, cni_args="IP=10.3.0.77").result) == ["10.3.0.77/24", "2001:db8:3::2/64"]


@pytest.mark.parametrize("address", ["10.99.0.1", "10.3.0.0", "10.3.0.255"])
def test_an_address_outside_of_the_range_is_refused_by_name(host: CniHost, address: str) -> None:
    refused(host, ask(host, cni_args=f"IP={address}"), Fault.OTHER, "failed to allocate all requested IPs", address)
    assert "10.3.0.2" not in host.files("/var/lib/cni/networks/net")


def test_the_gateways_address_is_refused(host: CniHost) -> None:
    refused(host, ask(host, cni_args="IP=10.3.0.1"), Fault.OTHER, "10.3.0.1", "gateway")


def test_an_address_that_is_taken_is_refused(host: CniHost) -> None:
    ask(host, cni_args="IP=10.3.0.77")
    refused(host, ask(host, cni_args="IP=10.3.0.77"), Fault.OTHER, "10.3.0.77", "is not available in range set")


def test_all_that_are_asked_for_have_to_be_given(host: CniHost) -> None:
    more = ask(host, args={"cni": {"ips": ["10.3.0.80", "10.3.0.90"]}})
    refused(host, more, Fault.OTHER, "failed to allocate all requested IPs: 10.3.0.")
    assert [name for name in host.files("/var/lib/cni/networks/net") if name.startswith("10.")] == []


def test_ranges_that_the_runtime_supplies_come_before_those_of_the_configuration(host: CniHost) -> None:
    result = ask(host, runtimeConfig={"ipRanges": [[{"subnet": "10.6.0.0/24"}]]}).result
    assert ips(result) == ["10.6.0.2/24", "10.3.0.2/24"]


@pytest.mark.parametrize(("args", "gist"), [("IP=junk", "junk"), ("IP", "IP")])
def test_nonsense_in_cni_args_is_refused(host: CniHost, args: str, gist: str) -> None:
    refused(host, ask(host, cni_args=args), Fault.ARGUMENT, gist)


@pytest.mark.parametrize("ignore", ["1", "true", "True"])
def test_unknown_cni_args_are_ignored_on_demand(host: CniHost, ignore: str) -> None:
    assert ask(host, cni_args=f"IgnoreUnknown={ignore};COLOUR=red;K8S_POD_NAME=web").exit_code == 0


@pytest.mark.differs("ours", "arguments that it does not know are for others")
@pytest.mark.parametrize("ignore", ["", "IgnoreUnknown=0;"])
def test_unknown_cni_args_are_refused_without_this_demand(host: CniHost, ignore: str) -> None:
    refused(host, ask(host, cni_args=f"{ignore}COLOUR=red"), Fault.ARGUMENT, "COLOUR=red")


def simple(**keys: Any) -> Json:
    return {"type": "host-local", **keys}


SUBNET = {"subnet": "10.3.0.0/24"}
INVALID: dict[str, tuple[Json, tuple[str, ...]]] = {
    "host bits": (simple(subnet="10.3.0.5/24"), ("host bits",)),
    "host bits v6": (simple(subnet="2001:db8::5/64"), ("host bits",)),
    "too small /31": (simple(subnet="10.3.0.0/31"), ("10.3.0.0/31", "too small")),
    "too small /32": (simple(subnet="10.3.0.0/32"), ("10.3.0.0/32", "too small")),
    "too small v6": (simple(subnet="2001:db8::/127"), ("2001:db8::/127", "too small")),
    "no network": (simple(subnet="junk"), ("junk",)),
    "start outside": (simple(**SUBNET, rangeStart="10.4.0.1"), ("10.4.0.1", "10.3.0.0/24")),
    "end outside": (simple(**SUBNET, rangeEnd="10.4.0.1"), ("10.4.0.1", "10.3.0.0/24")),
    "end before start": (simple(**SUBNET, rangeStart="10.3.0.9", rangeEnd="10.3.0.5"), ("10.3.0.9",)),
    "families mixed": (simple(ranges=[[SUBNET, {"subnet": "2001:db8::/64"}]]), ("mixed address families",)),
    "overlap within a set": (simple(ranges=[[SUBNET, {"subnet": "10.3.0.128/25"}]]), ("10.3.0.129-10.3.0.254", "overlap")),
    "overlap between sets": (simple(ranges=[[SUBNET], [{"subnet": "10.3.0.128/25"}]]), ("overlap",)),
    "no ranges": (simple(ranges=[]), ("ranges",)),
    "empty set": (simple(ranges=[[]]), ("empty",)),
}


@pytest.mark.parametrize("what", INVALID)
def test_a_range_that_makes_no_sense_is_refused(host: CniHost, what: str) -> None:
    ipam, gists = INVALID[what]
    refused(host, ask(host, ipam=ipam), Fault.CONFIGURATION, *gists)
    assert host.files("/var/lib/cni/networks/net") == {}


def test_without_an_ipam_section_the_error_names_it(host: CniHost) -> None:
    refused(host, ask(host, conf("host-local")), Fault.CONFIGURATION, "ipam")


@pytest.mark.parametrize("version", ["0.1.0", "0.2.0"])
def test_two_addresses_of_one_family_do_not_fit_into_an_old_result(host: CniHost, version: str) -> None:
    both = conf("host-local", version, ipam=host_local("10.3.0.0/24", "10.4.0.0/24"))
    refused(host, ask(host, both), Fault.CONFIGURATION, version, "does not support more than 1 address per family")


def test_the_smallest_network_has_one_address_besides_the_gateways(host: CniHost) -> None:
    network = conf("host-local", ipam=host_local("10.3.0.0/30"))
    assert ips(ask(host, network).result) == ["10.3.0.2/30"]
    assert "10.3.0.1-10.3.0.2" in ask(host, network).text
