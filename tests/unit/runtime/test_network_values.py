"""Networks as values: conflists, options, filters, what a container asks for again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cni.result import decode_result
from runtime.config import EndpointSettings, IpamConfig
from runtime.errors import InvalidParameter
from runtime.networks.attach import capabilities, given, kubernetes_args
from runtime.networks.bridge import check_options, conflist_of
from runtime.networks.cni_networks import read_cni_networks
from runtime.networks.filters import matches
from runtime.networks.network import Network, Pool, as_asked, generated_mac
from runtime.networks.sandbox import Attached, gateway_of

POOLS = (Pool(subnet="10.7.0.0/24", gateway="10.7.0.1"), Pool(subnet="fd00:7::/64", gateway="fd00:7::1"))


def network(**more: Any) -> Network:
    return Network(**{"id": "a" * 64, "name": "mine", "created": "2026-01-01T00:00:00.000000000Z", "pools": POOLS} | more)


def test_a_bridge_network_is_a_chain_of_plugins() -> None:
    chain = conflist_of(network(options={"com.docker.network.driver.mtu": "1400"}))
    assert [plugin.type for plugin in chain.plugins] == ["bridge", "firewall", "portmap"]
    bridge = chain.plugins[0].values
    assert (chain.name, bridge["bridge"], bridge["mtu"], bridge["ipMasq"]) == ("mine.aaaaaaaaaaaa", "br-aaaaaaaaaaaa", 1400, True)
    assert [[each["subnet"] for each in group] for group in bridge["ipam"]["ranges"]] == [["10.7.0.0/24"], ["fd00:7::/64"]]


def test_options_decide_about_masquerading_and_traffic_between_containers() -> None:
    options = {"com.docker.network.bridge.enable_icc": "false", "com.docker.network.bridge.enable_ip_masquerade": "0"}
    bridge, firewall, _ = (plugin.values for plugin in conflist_of(network(options=options)).plugins)
    assert (bridge["ipMasq"], firewall["ingressPolicy"]) == (False, "isolated")
    assert conflist_of(network(internal=True)).plugins[0].values["ipMasq"] is False


@pytest.mark.parametrize(
    ("option", "value"),
    [("bridge.name", "a-name-that-is-too-long"), ("bridge.name", "a/b"), ("bridge.enable_icc", "perhaps"), ("driver.mtu", "much")],
)
def test_an_option_that_makes_no_sense_is_refused(option: str, value: str) -> None:
    with pytest.raises(InvalidParameter):
        check_options(network(options={f"com.docker.network.{option}": value}))


@pytest.mark.parametrize(
    ("filters", "fits"),
    [
        ({"name": ["in"]}, True),
        ({"name": ["other"], "driver": ["bridge"]}, False),
        ({"id": ["aaa"]}, True),
        ({"label": ["a=1", "b"]}, True),
        ({"label": ["a=2"]}, False),
        ({"label!": ["a"]}, False),
        ({"type": ["custom"]}, True),
        ({"type": ["builtin"]}, False),
        ({"dangling": ["true"]}, True),
        ({"dangling": ["false"]}, False),
        ({"until": ["1h30m"]}, True),
        ({"until": ["1000"]}, False),
        ({"scope": ["local"]}, True),
    ],
)
def test_filters_let_through_what_fits_them(filters: dict[str, list[str]], fits: bool) -> None:
    assert matches(network(labels={"a": "1", "b": ""}), filters, lambda _: False) is fits


@pytest.mark.parametrize("filters", [{"colour": ["red"]}, {"type": ["odd"]}, {"dangling": ["maybe"]}, {"until": ["soon"]}])
def test_filters_that_there_are_not_are_refused(filters: dict[str, list[str]]) -> None:
    with pytest.raises(InvalidParameter):
        matches(network(), filters, lambda _: False)


def test_what_was_given_is_not_asked_for_again() -> None:
    asked = EndpointSettings(ipam_config=IpamConfig(ipv4_address="10.7.0.9"), aliases=("web",))
    got = EndpointSettings(
        ipam_config=asked.ipam_config,
        aliases=asked.aliases,
        ip_address="10.7.0.9",
        mac_address=generated_mac("10.7.0.9"),
        endpoint_id="e",
        gateway="10.7.0.1",
        ip_prefix_len=24,
    )
    assert as_asked(got) == asked
    own = EndpointSettings(mac_address="02:42:00:00:00:01", ip_address="10.7.0.9")
    assert as_asked(own).mac_address == "02:42:00:00:00:01"


def attached(name: str, priority: int = 0, gateway: str = "10.0.0.1", **more: Any) -> Attached:
    told: dict[str, Any] = {"driver": "bridge", "ifname": name, "settings": EndpointSettings(gw_priority=priority, gateway=gateway)}
    return Attached(network_id=name, network=name, config="", **told | more)


def test_everything_else_leaves_by_the_highest_priority_then_by_the_alphabet() -> None:
    chosen = gateway_of((attached("b"), attached("a"), attached("0", gateway="")), 4)
    assert chosen is not None
    assert chosen.network == "a"
    assert gateway_of((attached("b", 1), attached("a")), 4) == attached("b", 1)
    assert gateway_of((attached("a"),), 6) is None


RESULT = {
    "cniVersion": "1.0.0",
    "interfaces": [{"name": "br0"}, {"name": "eth0", "mac": "02:00:00:00:00:01", "sandbox": "/run/x"}],
    "ips": [{"address": "10.7.0.9/24", "gateway": "10.7.0.1", "interface": 1}, {"address": "10.9.9.9/32", "interface": 0}],
}


def test_what_plugins_say_is_what_the_container_was_given() -> None:
    told = given(attached("mine", ifname="eth0"), decode_result(RESULT, "1.0.0"))
    assert (told.ip_address, told.ip_prefix_len, told.gateway, told.mac_address) == (
        "10.7.0.9",
        24,
        "10.7.0.1",
        "02:00:00:00:00:01",
    )
    assert given(attached("mine", ifname="eth0", internal=True), decode_result(RESULT, "1.0.0")).gateway == ""


def test_an_administrators_network_leads_elsewhere_when_it_has_a_default_route() -> None:
    foreign = attached("mine", ifname="eth0", driver="cni")
    assert given(foreign, decode_result(RESULT, "1.0.0")).gateway == ""
    routed = RESULT | {"routes": [{"dst": "0.0.0.0/0"}]}
    assert given(foreign, decode_result(routed, "1.0.0")).gateway == "10.7.0.1"


def test_plugins_are_told_what_is_asked_for_and_nothing_else() -> None:
    assert capabilities(EndpointSettings(), {}) == {}
    asked = EndpointSettings(ipam_config=IpamConfig(ipv4_address="10.7.0.9"), mac_address="02:00:00:00:00:01")
    assert capabilities(asked, {}) == {"ips": ["10.7.0.9"], "mac": "02:00:00:00:00:01"}


def test_a_pods_labels_are_its_arguments() -> None:
    assert kubernetes_args({"io.kubernetes.pod.name": "web"}) == {"IgnoreUnknown": "1", "K8S_POD_NAME": "web"}
    assert kubernetes_args({"other": "x"}) == {}


def test_a_directory_of_conflists_is_read_and_flannels_is_pods(tmp_path: Path) -> None:
    for name, kind in (("cbr0", "flannel"), ("lan", "ptp"), ("host", "ptp")):
        text = json.dumps({"cniVersion": "1.0.0", "name": name, "plugins": [{"type": kind, "ipam": {"subnet": "10.9.0.0/24"}}]})
        (tmp_path / f"{name}.conflist").write_text(text)
    (tmp_path / "broken.conflist").write_text("{")
    found = {name: each for name, (each, _) in read_cni_networks(tmp_path).items()}
    assert set(found) == {"cbr0", "lan"}
    assert (found["cbr0"].aliases, found["lan"].aliases) == (("pods",), ())
    assert [pool.subnet for pool in found["lan"].pools] == ["10.9.0.0/24"]
    assert read_cni_networks(tmp_path / "none") == {}
