"""How runtimes really write configurations: Go's field names, nulls for nothing, keys that a plugin does not know."""

from __future__ import annotations

import pytest

from cni_chain import conf, host_local, interface, ips
from cni_traffic import service
from cni_world import CniHost, Json

ROUTED = host_local("10.1.2.0/24", routes=[{"dst": "0.0.0.0/0"}])


def test_keys_match_whatever_their_case(host: CniHost) -> None:
    network = {
        "CNIVersion": "1.0.0",
        "Name": "net",
        "Type": "bridge",
        "Bridge": "br7",
        "ISGATEWAY": True,
        "IPAM": {
            "Type": "host-local",
            "Ranges": [[{"Subnet": "10.1.2.0/24", "RANGESTART": "10.1.2.9"}]],
            "Routes": [{"Dst": "0.0.0.0/0"}],
        },
    }
    result = host.call("bridge", "ADD", network, host.attachment()).result
    assert (ips(result), result["routes"]) == (["10.1.2.9/24"], [{"dst": "0.0.0.0/0"}])
    assert host.addresses("br7") == {"10.1.2.1/24"}


def test_null_is_as_good_as_nothing(host: CniHost) -> None:
    nothing: Json = dict.fromkeys(("mtu", "runtimeConfig", "args", "dns", "capabilities", "prevResult", "vlan", "isGateway"))
    attachment = host.attachment()
    network = conf("bridge", bridge="cni0", ipam={**ROUTED, "dataDir": None, "resolvConf": None}, **nothing)
    assert ips(host.add(network, attachment)) == ["10.1.2.2/24"]
    host.delete(network, attachment)


@pytest.mark.differs("ours", "a key that it does not know is error 2 and named")
def test_keys_that_nobody_knows_are_ignored(host: CniHost) -> None:
    network = conf(
        "bridge", bridge="cni0", ipam={**ROUTED, "colour": "red"}, colour={"deep": ["red"]}, capabilities={"portMappings": True}
    )
    host.add({**network, "runtimeConfig": {"portMappings": [], "io.kubernetes.cri.pod-annotations": {"a": "b"}}}, host.attachment())


def test_the_environment_of_the_runtime_is_ignored(host: CniHost) -> None:
    strange = {
        "TRACEPARENT": "00-1-2-01",
        "CNI_SOMETHING": "else",
        "LANG": "xx_YY",
        "PYTHONPATH": "/nowhere",
        "PYTHONHOME": "/nowhere",
    }
    assert host.call("bridge", "ADD", conf("bridge", ipam=ROUTED), host.attachment(), **strange).stderr == ""


def test_what_kubernetes_puts_into_cni_args_is_accepted(host: CniHost) -> None:
    args = "K8S_POD_INFRA_CONTAINER_ID=c1;K8S_POD_UID=2a-7;IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0"
    attachment = host.attachment(args=args)
    host.add(conf("bridge", ipam=ROUTED), attachment)
    host.delete(conf("bridge", ipam=ROUTED), attachment)


def test_podman_asks_for_an_address_by_args(host: CniHost) -> None:
    args = "IgnoreUnknown=1;K8S_POD_NAMESPACE=web;K8S_POD_NAME=web;IP=10.1.2.77;MAC=02:00:00:00:00:07"
    result = host.add(conf("bridge", ipam=ROUTED), host.attachment(args=args))
    assert (ips(result), interface(result, "eth0")["mac"]) == (["10.1.2.77/24"], "02:00:00:00:00:07")


@pytest.mark.parametrize("dns", [{"Servers": ["192.0.2.53"], "Searches": None, "Options": None}, None])
def test_what_containerd_1_6_sends_is_understood(host: CniHost, dns: Json | None) -> None:
    runtime: Json = {"dns": dns, "portMappings": [{"HostPort": 8081, "ContainerPort": 80, "Protocol": "tcp", "HostIP": ""}]}
    attachment = host.attachment()
    result = host.add(conf("bridge", isDefaultGateway=True, ipam=host_local("10.1.2.0/24"), runtimeConfig=runtime), attachment)
    portmap = conf("portmap", capabilities={"portMappings": True}, runtimeConfig=runtime, prevResult=result)
    assert ips(host.add(portmap, attachment)) == ["10.1.2.2/24"]
    with service(host.of(attachment), 80) as web:
        web.reaches(host, "10.1.2.1", 8081)
    host.delete(portmap, attachment)


@pytest.mark.parametrize("empty", [None, []])
def test_no_port_mappings_may_be_null(host: CniHost, empty: list[Json] | None) -> None:
    attachment = host.attachment()
    result = host.add(conf("bridge", ipam=ROUTED), attachment)
    portmap = conf("portmap", runtimeConfig={"portMappings": empty}, prevResult=result)
    assert host.add(portmap, attachment) == result
    host.delete(portmap, attachment)


def test_bandwidth_of_containerd_1_6_with_gos_field_names(host: CniHost) -> None:
    attachment = host.attachment()
    result = host.add(conf("bridge", ipam=ROUTED), attachment)
    limits = {"IngressRate": 10_000_000, "IngressBurst": 4_294_967_295, "EgressRate": 0, "EgressBurst": 0}
    bandwidth = conf("bandwidth", runtimeConfig={"bandwidth": limits}, prevResult=result)
    host.add(bandwidth, attachment)
    near = result["interfaces"][1]["name"]
    assert [queue["kind"] for queue in host.read(f"tc qdisc show dev {near}")] == ["tbf"]
