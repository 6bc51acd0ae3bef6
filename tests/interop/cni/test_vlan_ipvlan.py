"""The vlan and ipvlan plugins; what needs their devices is skipped, with the reason, on a kernel without them."""

from __future__ import annotations

from typing import Any

import pytest

from cni_chain import conf, host_local, ips
from cni_errors import Fault, refused
from cni_world import CniHost, Json, is_before, kernel_has

KEYS: dict[str, Json] = {"vlan": {"vlanId": 5}, "ipvlan": {"mode": "l2"}}
PLUGINS = [
    pytest.param(kind, marks=pytest.mark.skipif(not kernel_has(kind), reason=f"this kernel has no {kind} devices")) for kind in KEYS
]


@pytest.fixture(autouse=True)
def uplink(host: CniHost) -> None:
    host.ip("link add uplink type veth peer name downlink\nlink set uplink up\nlink set downlink up")


def network(plugin: str, version: str = "1.0.0", **keys: Any) -> Json:
    return conf(plugin, version, **{"master": "uplink", "ipam": host_local("10.1.2.0/24"), **KEYS[plugin], **keys})


@pytest.mark.parametrize("plugin", PLUGINS)
def test_add_makes_an_interface_of_the_kind_and_del_takes_it(host: CniHost, version: str, plugin: str) -> None:
    attachment = host.attachment()
    result = host.add(network(plugin, version), attachment)
    link = host.of(attachment).links()["eth0"]
    assert (ips(result), link["linkinfo"]["info_kind"], link["link_index"]) == (
        ["10.1.2.2/24"],
        plugin,
        host.links()["uplink"]["ifindex"],
    )
    host.delete({**network(plugin, version), **({} if is_before(version, "0.4.0") else {"prevResult": result})}, attachment)
    assert host.of(attachment).is_left_with("lo")


@pytest.mark.parametrize("plugin", PLUGINS)
def test_check_finds_what_add_made(host: CniHost, plugin: str) -> None:
    attachment = host.attachment()
    result = host.add(network(plugin), attachment)
    host.check(network(plugin), attachment, result).succeeded()


@pytest.mark.parametrize("plugin", PLUGINS)
def test_the_mtu_is_the_one_asked_for(host: CniHost, plugin: str) -> None:
    attachment = host.attachment()
    host.add(network(plugin, mtu=1400), attachment)
    assert host.of(attachment).links()["eth0"]["mtu"] == 1400


@pytest.mark.parametrize("plugin", PLUGINS)
def test_without_ipam_there_is_a_link_and_no_address(host: CniHost, plugin: str) -> None:
    attachment = host.attachment()
    result = host.add(network(plugin, ipam={}), attachment)
    assert (result.get("ips", []), host.of(attachment).addresses("eth0")) == ([], set())


@pytest.mark.skipif(not kernel_has("ipvlan"), reason="this kernel has no ipvlan devices")
def test_ipvlan_takes_addresses_from_the_result_before(host: CniHost) -> None:
    previous = {"cniVersion": "1.0.0", "interfaces": [{"name": "uplink"}], "ips": [{"address": "10.9.9.9/24", "interface": 0}]}
    attachment = host.attachment()
    result = host.add(network("ipvlan", master="", ipam={}, prevResult=previous), attachment)
    assert (ips(result), host.of(attachment).addresses("eth0")) == (["10.9.9.9/24"], {"10.9.9.9/24"})


@pytest.mark.parametrize(
    ("plugin", "keys", "gists"),
    [
        ("vlan", {"vlanId": 5000}, ("vlan id", "5000")),
        ("vlan", {"vlanId": -1}, ("vlan id", "-1")),
        ("vlan", {"master": ""}, ('"master" field is required',)),
        pytest.param(
            "vlan", {"master": "nonesuch"}, ("nonesuch",), marks=pytest.mark.differs("reference", "does not name the master")
        ),
        ("ipvlan", {"mode": "sideways"}, ("unknown ipvlan mode", "sideways")),
        ("ipvlan", {"master": "nonesuch"}, ("nonesuch",)),
    ],
)
def test_a_configuration_that_makes_no_sense_is_refused_by_name(
    host: CniHost, plugin: str, keys: Json, gists: tuple[str, ...]
) -> None:
    refused(host, host.call(plugin, "ADD", network(plugin, **keys), host.attachment()), Fault.CONFIGURATION, *gists)


@pytest.mark.parametrize("plugin", KEYS)
@pytest.mark.parametrize("netns", ["", "/run/netns/none", "there"])
def test_del_of_what_was_never_added_succeeds(host: CniHost, version: str, plugin: str, netns: str) -> None:
    attachment = host.attachment()
    host.delete(network(plugin, version), attachment, CNI_NETNS=attachment.netns if netns == "there" else netns)


@pytest.mark.parametrize("plugin", [kind for kind in KEYS if not kernel_has(kind)])
def test_a_kernel_without_such_devices_is_an_error_that_gives_the_address_back(host: CniHost, plugin: str) -> None:
    attachment = host.attachment()
    refused(host, host.call(plugin, "ADD", network(plugin), attachment), Fault.OTHER, plugin, "not supported")
    assert host.of(attachment).is_left_with("lo")
    assert "10.1.2.2" not in host.files("/var/lib/cni/networks/net")
