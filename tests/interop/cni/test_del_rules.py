"""DEL is a best effort: it succeeds when there is nothing left to do, whatever is missing (CNI spec 1.1.0 §2, DEL)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cni_chain import Chain, conf, host_local
from cni_world import CniHost, Json

IPAM = host_local("10.1.2.0/24")
PORTMAP = {"type": "portmap", "capabilities": {"portMappings": True}, "snat": True}
PORTS = [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]
MAIN: dict[str, Json] = {
    "bridge": conf("bridge", isDefaultGateway=True, ipMasq=True, ipam=IPAM),
    "ptp": conf("ptp", ipMasq=True, ipam=IPAM),
    "macvlan": conf("macvlan", master="uplink", ipam=IPAM),
}
META: dict[str, Json] = {
    "portmap": conf("portmap", runtimeConfig={"portMappings": PORTS}),
    "bandwidth": conf("bandwidth", ingressRate=1_000_000, ingressBurst=1_000_000, egressRate=1_000_000, egressBurst=1_000_000),
    "firewall": conf("firewall"),
    "tuning": conf("tuning", sysctl={"net.ipv4.conf.IFNAME.arp_filter": "1"}),
    "loopback": conf("loopback"),
    "host-local": conf("host-local", ipam=IPAM),
    "static": conf("static", ipam={"type": "static", "addresses": [{"address": "10.0.0.1/24"}]}),
}
ALL = {**MAIN, **META}
EMPTY_RESULTS: dict[str, Json] = {
    "no prevResult": {},
    "empty prevResult": {"prevResult": {"cniVersion": "1.0.0"}},
    "prevResult with empty lists": {"prevResult": {"cniVersion": "1.0.0", "interfaces": [], "ips": [], "routes": [], "dns": {}}},
    "prevResult null": {"prevResult": None},
}


@pytest.fixture(autouse=True)
def uplink(host: CniHost) -> None:
    host.ip("link add uplink type veth peer name downlink\nlink set uplink up\nlink set downlink up")


def leases(host: CniHost) -> set[str]:
    return {name for name in host.files("/var/lib/cni/networks/net") if name.startswith("10.")}


@pytest.mark.parametrize("previous", EMPTY_RESULTS)
@pytest.mark.parametrize("plugin", ALL)
def test_del_of_an_unknown_container_succeeds_with_and_without_a_namespace(host: CniHost, plugin: str, previous: str) -> None:
    network = {**ALL[plugin], **EMPTY_RESULTS[previous]}
    attachment = host.attachment()
    host.delete(network, attachment)
    for missing in ("", None, "/run/netns/none"):
        host.delete(network, attachment, CNI_NETNS=missing)


@pytest.mark.parametrize("plugin", MAIN)
@pytest.mark.parametrize("missing", ["", None, "/run/netns/none"])
def test_del_gives_the_address_back_without_a_namespace(host: CniHost, plugin: str, missing: str | None) -> None:
    attachment = host.attachment()
    result = host.add(MAIN[plugin], attachment)
    assert leases(host) == {"10.1.2.2"}
    host.delete({**MAIN[plugin], "prevResult": result}, attachment, CNI_NETNS=missing)
    assert leases(host) == set()


@pytest.mark.parametrize("plugin", MAIN)
def test_del_may_be_repeated_after_the_namespace_is_gone_as_containerd_does(host: CniHost, plugin: str) -> None:
    pod = host.sandbox()
    attachment = host.attachment(pod)
    result = host.add(MAIN[plugin], attachment)
    host.delete({**MAIN[plugin], "prevResult": result}, attachment)
    host.remove(pod)
    host.delete(MAIN[plugin], attachment)
    host.delete(MAIN[plugin], attachment, CNI_NETNS="")
    host.delete(MAIN[plugin], attachment, CNI_NETNS="")
    bridges = ("cni0",) if plugin == "bridge" else ()
    assert host.is_left_with("lo", "uplink", "downlink", *bridges)


@pytest.mark.parametrize("plugin", MAIN)
def test_del_after_somebody_took_the_link_succeeds(host: CniHost, plugin: str) -> None:
    attachment = host.attachment()
    result = host.add(MAIN[plugin], attachment)
    host.of(attachment).ip("link delete eth0")
    host.delete({**MAIN[plugin], "prevResult": result}, attachment)
    assert leases(host) == set()


@pytest.mark.differs(
    "reference", "names the masquerade chain by network and container: two interfaces share one, and DEL of the first fails"
)
def test_del_of_one_interface_leaves_the_others(host: CniHost) -> None:
    first = host.attachment()
    second = replace(first, ifname="eth1")
    for attachment in (first, second):
        host.add(MAIN["bridge"], attachment)
    host.delete(MAIN["bridge"], first)
    assert host.of(first).is_left_with("lo", "eth1")
    assert leases(host) == {"10.1.2.3"}


def test_del_of_an_unknown_container_does_not_touch_the_one_in_that_namespace_that_is_known(host: CniHost) -> None:
    attachment = host.attachment()
    host.add(MAIN["bridge"], attachment)
    host.delete(MAIN["bridge"], replace(attachment, container_id="another"), CNI_NETNS="")
    assert leases(host) == {"10.1.2.2"}
    assert "eth0" in host.of(attachment).links()


def test_a_whole_chain_is_deleted_three_times_as_containerd_does(host: CniHost) -> None:
    bandwidth = {"type": "bandwidth", "capabilities": {"bandwidth": True}}
    chain = Chain(host, (MAIN["bridge"], PORTMAP, bandwidth, {"type": "firewall"}))
    attachment = host.attachment()
    limits = {"ingressRate": 8_000_000, "ingressBurst": 1_000_000, "egressRate": 8_000_000, "egressBurst": 1_000_000}
    result = chain.add(attachment, portMappings=PORTS, bandwidth=limits)
    chain.delete(attachment, result, portMappings=PORTS, bandwidth=limits)
    gone = replace(attachment, netns="")
    for _ in range(2):
        chain.delete(gone, None, portMappings=PORTS, bandwidth=limits)
    assert leases(host) == set()
    assert host.is_left_with("lo", "cni0", "uplink", "downlink")
