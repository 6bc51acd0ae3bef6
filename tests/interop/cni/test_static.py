"""The static plugin: addresses as configured or asked for, and no state."""

from __future__ import annotations

import pytest

from cni_chain import conf, gateways, ips
from cni_errors import Fault, refused
from cni_world import CniHost, Json, is_before

ADDRESSES = [
    {"address": "10.10.0.1/24", "gateway": "10.10.0.254"},
    {"address": "2001:db8:9::1/64", "gateway": "2001:db8:9::ff"},
]
ROUTES = [{"dst": "0.0.0.0/0"}, {"dst": "192.168.0.0/16", "gw": "10.10.5.1"}, {"dst": "2001:db8::/32"}]
DNS = {"nameservers": ["192.0.2.53"], "domain": "d.test", "search": ["d.test"], "options": ["ndots:2"]}


def static(version: str = "1.0.0", **ipam: object) -> Json:
    return conf("static", version, ipam={"type": "static", **ipam})


def test_addresses_routes_and_dns_are_those_of_the_configuration(host: CniHost, version: str) -> None:
    network = static(version, addresses=ADDRESSES, routes=ROUTES, dns=DNS)
    attachment = host.attachment()
    result = host.add(network, attachment)
    assert ips(result) == ["10.10.0.1/24", "2001:db8:9::1/64"]
    assert gateways(result) == ["10.10.0.254", "2001:db8:9::ff"]
    routes = result["routes"] if "routes" in result else result["ip4"]["routes"] + result["ip6"]["routes"]
    assert (routes, result["dns"]) == (ROUTES, DNS)
    host.delete(network, attachment)


def test_check_compares_with_the_result(host: CniHost, version: str) -> None:
    if is_before(version, "0.4.0"):
        pytest.skip(f"{version} has no CHECK")
    network = static(version, addresses=ADDRESSES, routes=ROUTES)
    attachment = host.attachment()
    host.check(network, attachment, host.add(network, attachment)).succeeded()


def test_check_without_a_result_is_refused(host: CniHost) -> None:
    attempt = host.call("static", "CHECK", static(addresses=ADDRESSES), host.attachment())
    refused(host, attempt, Fault.CONFIGURATION, "prevResult")


def test_without_addresses_the_result_has_none(host: CniHost) -> None:
    assert ips(host.add(static(), host.attachment()) | {"ips": []}) == []
    host.delete(static(), host.attachment())


def test_several_addresses_of_one_family_need_a_version_that_can_say_so(host: CniHost, version: str) -> None:
    addresses = [{"address": "10.10.0.1/24"}, {"address": "10.10.1.1/24"}]
    outcome = host.call("static", "ADD", static(version, addresses=addresses), host.attachment())
    if is_before(version, "0.3.0"):
        refused(host, outcome, Fault.CONFIGURATION, "does not support more than 1 address per family")
    else:
        assert ips(outcome.result) == ["10.10.0.1/24", "10.10.1.1/24"]


CNI_ARGS = {
    "one": ("IP=10.10.0.1/24;GATEWAY=10.10.0.254", ["10.10.0.1/24"], ["10.10.0.254"]),
    "several; the gateway goes to the one whose network it is in": (
        "IP=10.10.0.1/24,11.11.0.1/24;GATEWAY=11.11.0.254",
        ["10.10.0.1/24", "11.11.0.1/24"],
        ["11.11.0.254"],
    ),
    "v6": ("IP=2001:db8:9::5/64;GATEWAY=2001:db8:9::1", ["2001:db8:9::5/64"], ["2001:db8:9::1"]),
    "both families": (
        "IP=10.10.0.1/24,2001:db8:9::5/64;GATEWAY=10.10.0.254,2001:db8:9::1",
        ["10.10.0.1/24", "2001:db8:9::5/64"],
        ["10.10.0.254", "2001:db8:9::1"],
    ),
    "ignoring others": ("IgnoreUnknown=1;COLOUR=red;IP=10.10.0.1/24", ["10.10.0.1/24"], []),
}


@pytest.mark.parametrize("what", CNI_ARGS)
def test_cni_args_give_addresses_and_gateways(host: CniHost, what: str) -> None:
    args, addresses, routers = CNI_ARGS[what]
    result = host.add(static(), host.attachment(args=args))
    assert (ips(result), gateways(result)) == (addresses, routers)


def test_addresses_of_cni_args_come_after_those_of_the_configuration(host: CniHost) -> None:
    result = host.add(static(addresses=ADDRESSES[:1]), host.attachment(args="IP=11.11.0.1/24"))
    assert ips(result) == ["10.10.0.1/24", "11.11.0.1/24"]


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"args": {"cni": {"ips": ["13.0.0.1/24"]}}}, ["13.0.0.1/24"]),
        ({"runtimeConfig": {"ips": ["12.0.0.1/24", "2001:db8:9::4/64"]}}, ["12.0.0.1/24", "2001:db8:9::4/64"]),
        ({"args": {"cni": {"ips": ["13.0.0.1/24"]}}, "runtimeConfig": {"ips": ["12.0.0.1/24"]}}, ["12.0.0.1/24"]),
    ],
    ids=["args", "runtimeConfig", "runtimeConfig beats args"],
)
def test_addresses_of_args_and_runtime_replace_all_others(host: CniHost, keys: Json, expected: list[str]) -> None:
    result = host.add({**static(addresses=ADDRESSES), **keys}, host.attachment(args="IP=11.11.0.1/24"))
    assert (ips(result), gateways(result)) == (expected, [])


INVALID: dict[str, tuple[Json, str]] = {
    "no prefix": (static(addresses=[{"address": "10.0.0.1"}]), "got: '10.0.0.1'"),
    "no address": (static(addresses=[{"address": "junk"}]), "got: 'junk'"),
    "no prefix from the runtime": (static() | {"runtimeConfig": {"ips": ["12.0.0.1"]}}, "got: '12.0.0.1'"),
    "no prefix in args": (static() | {"args": {"cni": {"ips": ["13.0.0.1"]}}}, "got: '13.0.0.1'"),
}


@pytest.mark.parametrize("what", INVALID)
def test_what_is_no_address_with_a_prefix_is_refused(host: CniHost, what: str) -> None:
    network, gist = INVALID[what]
    refused(host, host.call("static", "ADD", network, host.attachment()), Fault.CONFIGURATION, gist)


@pytest.mark.parametrize(
    ("args", "gist"), [("IP=10.10.0.1", "'10.10.0.1'"), ("IP=junk", "'junk'"), ("IP=10.0.0.1/24;GATEWAY=junk", "junk")]
)
def test_nonsense_in_cni_args_is_refused(host: CniHost, args: str, gist: str) -> None:
    refused(host, host.call("static", "ADD", static(), host.attachment(args=args)), Fault.ARGUMENT, gist)
