"""The firewall plugin, by what it lets through a host that forwards nothing by itself."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from cni_chain import Chain, conf, host_local
from cni_errors import Fault, refused
from cni_traffic import OUTSIDE, outside, service
from cni_world import Attachment, CniHost, Json, Sandbox

VERSIONS = ("0.4.0", "1.0.0")
"""Those with CHECK: the reference speaks no others."""


@dataclass(frozen=True)
class Guarded:
    """A pod behind the plugin."""

    chain: Chain
    attachment: Attachment
    result: Json

    @property
    def pod(self) -> Sandbox:
        return self.chain.host.of(self.attachment)


def guarded(host: CniHost, name: str = "net", subnet: str = "10.1.1.0/24", version: str = "1.0.0", **keys: str) -> Guarded:
    bridge = {"type": "bridge", "bridge": f"br-{name}", "isDefaultGateway": True, "ipam": host_local(subnet)}
    chain = Chain(host, (bridge, {"type": "firewall", **keys}), name=name, version=version)
    attachment = host.attachment()
    return Guarded(chain, attachment, chain.add(attachment))


def forward_nothing(host: CniHost) -> None:
    """What Docker and careful administrators do."""
    for program in ("iptables", "ip6tables"):
        host.place.run([program, "-P", "FORWARD", "DROP"])


@pytest.mark.parametrize("version", VERSIONS)
def test_what_the_pod_asks_for_is_forwarded_until_del(host: CniHost, version: str) -> None:
    beyond = outside(host)
    forward_nothing(host)
    one = guarded(host, version=version)
    with service(beyond, 80) as web:
        assert web.reaches(one.pod, OUTSIDE[0], 80) == "10.1.1.2"
        firewall = conf("firewall", version, prevResult=one.result)
        host.delete(firewall, one.attachment)
        assert web.unreachable(one.pod, OUTSIDE[0], 80)


def test_ipv6_is_forwarded_too(host: CniHost) -> None:
    beyond = outside(host)
    forward_nothing(host)
    one = guarded(host, subnet="2001:db8:1::/64")
    with service(beyond, 80, address="::") as web:
        assert web.reaches(one.pod, OUTSIDE[1], 80) == "2001:db8:1::2"


def test_nobody_outside_gets_in_unasked(host: CniHost) -> None:
    beyond = outside(host)
    forward_nothing(host)
    one = guarded(host)
    with service(one.pod, 80) as web:
        assert web.unreachable(beyond, "10.1.1.2", 80)


@pytest.mark.parametrize("version", VERSIONS)
def test_the_result_from_before_is_passed_on(host: CniHost, version: str) -> None:
    one = guarded(host, version=version)
    assert host.add(conf("firewall", version, prevResult=one.result), one.attachment) == one.result


def test_check_finds_what_add_made_and_misses_what_del_took(host: CniHost) -> None:
    one = guarded(host)
    one.chain.check(one.attachment, one.result)
    host.delete(conf("firewall", prevResult=one.result), one.attachment)
    refused(host, host.check(conf("firewall"), one.attachment, one.result), Fault.OTHER)


def test_add_and_del_may_be_repeated(host: CniHost) -> None:
    one, two = guarded(host), guarded(host)
    firewall = conf("firewall", prevResult=one.result)
    host.add(firewall, one.attachment)
    for _ in range(2):
        host.delete(firewall, one.attachment)
    two.chain.check(two.attachment, two.result)


@pytest.mark.parametrize(("keys", "chain"), [({}, "CNI-ADMIN"), ({"iptablesAdminChainName": "SITE"}, "SITE")])
def test_rules_of_the_administrators_chain_come_first(host: CniHost, keys: dict[str, str], chain: str) -> None:
    beyond = outside(host)
    for rule in (["-N", chain], ["-A", chain, "-p", "tcp", "--dport", "81", "-j", "DROP"]):
        host.place.run(["iptables", *rule])
    one = guarded(host, **keys)
    with service(beyond, 80) as web, service(beyond, 81) as forbidden:
        assert web.reaches(one.pod, OUTSIDE[0], 80) == "10.1.1.2"
        assert forbidden.unreachable(one.pod, OUTSIDE[0], 81)


POLICIES = [
    pytest.param("open", True, True, id="open"),
    pytest.param("same-bridge", True, False, id="same-bridge"),
    pytest.param("isolated", False, False, id="isolated", marks=pytest.mark.differs("reference", "1.1.1 has no `isolated`")),
]


@pytest.mark.parametrize(("policy", "within", "across"), POLICIES)
def test_the_ingress_policy_says_which_pods_reach_a_pod(host: CniHost, policy: str, *, within: bool, across: bool) -> None:
    web, near = (guarded(host, "one", "10.1.1.0/24", ingressPolicy=policy) for _ in range(2))
    far = guarded(host, "two", "10.1.5.0/24", ingressPolicy=policy)
    with service(web.pod, 80) as server:
        assert server.reaches(host, "10.1.1.2", 80) == "10.1.1.1"
        for caller, allowed, address in ((near, within, "10.1.1.3"), (far, across, "10.1.5.2")):
            if allowed:
                assert server.reaches(caller.pod, "10.1.1.2", 80) == address
            else:
                assert server.unreachable(caller.pod, "10.1.1.2", 80)


def test_a_policy_lasts_as_long_as_one_pod_of_the_bridge_does(host: CniHost) -> None:
    web, near = (guarded(host, "one", "10.1.1.0/24", ingressPolicy="same-bridge") for _ in range(2))
    far = guarded(host, "two", "10.1.5.0/24", ingressPolicy="same-bridge")
    near.chain.delete(near.attachment, near.result)
    with service(web.pod, 80) as server:
        assert server.unreachable(far.pod, "10.1.1.2", 80)


def test_a_policy_that_does_not_exist_is_refused(host: CniHost) -> None:
    one = guarded(host)
    outcome = host.call("firewall", "ADD", conf("firewall", ingressPolicy="closed", prevResult=one.result), one.attachment)
    refused(host, outcome, Fault.CONFIGURATION, "ingress policy", "closed")


@pytest.mark.differs("reference", "takes every backend but firewalld for iptables")
def test_a_backend_that_does_not_exist_is_refused(host: CniHost) -> None:
    one = guarded(host)
    outcome = host.call("firewall", "ADD", conf("firewall", backend="wet-paper", prevResult=one.result), one.attachment)
    refused(host, outcome, Fault.CONFIGURATION, "wet-paper")


def test_firewalld_that_does_not_run_is_an_error(host: CniHost) -> None:
    one = guarded(host)
    outcome = host.call("firewall", "ADD", conf("firewall", backend="firewalld", prevResult=one.result), one.attachment)
    refused(host, outcome, Fault.OTHER)


def test_without_a_result_it_is_refused(host: CniHost) -> None:
    refused(host, host.call("firewall", "ADD", conf("firewall"), host.attachment()), Fault.CONFIGURATION, "prevResult")
