"""What every plugin has to do: environment, streams, exit codes, versions and errors (CNI spec 1.1.0 §2, §5)."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from cni_chain import conf, host_local, static
from cni_errors import Fault, refused
from cni_world import Attachment, CniHost, Json, is_before

BRIDGE = conf("bridge", bridge="cni0", isGateway=True, ipam=host_local("10.1.2.0/24"))
POD = Attachment("c-1", "/run/netns/pod")
PLUGINS = ("bandwidth", "bridge", "firewall", "host-local", "loopback", "macvlan", "portmap", "ptp", "static", "tuning")


@pytest.fixture(autouse=True)
def pod(host: CniHost) -> None:
    host.sandbox("pod")


def test_without_a_command_it_says_on_stderr_what_it_is(host: CniHost) -> None:
    outcome = host.call("bridge", "ADD", BRIDGE, POD, CNI_COMMAND=None)
    assert (outcome.exit_code, outcome.stdout) == (0, "")
    assert "CNI bridge plugin" in outcome.stderr
    assert "0.4.0, 1.0.0" in outcome.stderr


def test_an_unknown_command_is_refused(host: CniHost) -> None:
    refused(host, host.call("bridge", "FETCH", BRIDGE, POD), Fault.ENVIRONMENT, "CNI_COMMAND", "FETCH")


@pytest.mark.parametrize("command", ["ADD", "CHECK", "DEL"])
def test_all_missing_variables_are_named_and_del_needs_no_namespace(host: CniHost, command: str) -> None:
    missing = "CNI_CONTAINERID,CNI_IFNAME" if command == "DEL" else "CNI_CONTAINERID,CNI_NETNS,CNI_IFNAME"
    refused(host, host.call("bridge", command, BRIDGE), Fault.ENVIRONMENT, f"[{missing}] missing")


@pytest.mark.parametrize("variable", ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"])
@pytest.mark.parametrize("value", ["", None])
def test_a_variable_that_is_empty_is_missing(host: CniHost, variable: str, value: str | None) -> None:
    outcome = host.call("bridge", "ADD", BRIDGE, POD, **{variable: value})
    refused(host, outcome, Fault.ENVIRONMENT, f"[{variable}] missing")


@pytest.mark.parametrize("container_id", ["a b", "_x", ".x", "-x", "a/b", "ä"])
def test_a_container_id_with_other_characters_is_refused(host: CniHost, container_id: str) -> None:
    outcome = host.call("bridge", "ADD", BRIDGE, replace(POD, container_id=container_id))
    refused(host, outcome, Fault.ENVIRONMENT, "containerID", container_id)


@pytest.mark.parametrize("ifname", ["a" * 16, ".", "..", "a/b", "a:b", "a b", "a\tb"])
def test_an_interface_name_that_linux_does_not_allow_is_refused(host: CniHost, ifname: str) -> None:
    outcome = host.call("bridge", "ADD", BRIDGE, replace(POD, ifname=ifname))
    refused(host, outcome, Fault.ENVIRONMENT, "name")


@pytest.mark.parametrize("stdin", ["", "{junk", "[]", '"text"', "1"])
def test_what_is_no_json_object_cannot_be_decoded(host: CniHost, stdin: str) -> None:
    refused(host, host.call("bridge", "ADD", stdin, POD), Fault.NOT_JSON)


@pytest.mark.parametrize("name", [None, "", "a b", "-net", "a/b"])
def test_a_network_without_a_proper_name_is_refused(host: CniHost, name: str | None) -> None:
    network = {key: value for key, value in {**BRIDGE, "name": name}.items() if value is not None}
    refused(host, host.call("bridge", "ADD", network, POD), Fault.CONFIGURATION, "name", name or "")


@pytest.mark.parametrize("plugin", PLUGINS)
def test_every_plugin_looks_at_environment_and_configuration_before_all_else(host: CniHost, plugin: str) -> None:
    network = conf(plugin)
    refused(host, host.call(plugin, "ADD", network), Fault.ENVIRONMENT, "[CNI_CONTAINERID,CNI_NETNS,CNI_IFNAME] missing")
    refused(host, host.call(plugin, "FETCH", network, POD), Fault.ENVIRONMENT, "FETCH")
    refused(host, host.call(plugin, "ADD", "{junk", POD), Fault.NOT_JSON)
    refused(host, host.call(plugin, "ADD", {**network, "name": "a b"}, POD), Fault.CONFIGURATION, "name", "a b")
    refused(host, host.call(plugin, "ADD", {**network, "cniVersion": "9.9.9"}, POD), Fault.VERSION, "9.9.9")


def test_a_key_of_the_wrong_type_is_refused_by_name(host: CniHost) -> None:
    refused(host, host.call("bridge", "ADD", {**BRIDGE, "mtu": "big"}, POD), Fault.CONFIGURATION, "mtu")
    assert set(host.links()) == {"lo"}


@pytest.mark.parametrize("command", ["ADD", "DEL"])
@pytest.mark.parametrize("wanted", ["9.9.9", "junk"])
def test_a_version_that_it_does_not_speak_is_refused(host: CniHost, command: str, wanted: str) -> None:
    outcome = host.call("bridge", command, {**BRIDGE, "cniVersion": wanted}, POD)
    refused(host, outcome, Fault.VERSION, "incompatible CNI versions", wanted, "1.0.0")


@pytest.mark.parametrize("plugin", PLUGINS)
@pytest.mark.parametrize("stdin", ['{"cniVersion": "0.4.0"}', "{}", ""])
def test_version_says_which_it_speaks_and_needs_no_more_than_the_command(host: CniHost, plugin: str, stdin: str) -> None:
    said = host.call(plugin, "VERSION", stdin, CNI_PATH=None).result
    assert {"0.4.0", "1.0.0", host.plugins.versions[-1]} <= set(said["supportedVersions"])
    assert said["cniVersion"] in said["supportedVersions"]


def test_the_result_has_the_form_of_the_version_of_the_configuration(host: CniHost, version: str) -> None:
    result = host.add({**BRIDGE, "cniVersion": version, "ipam": host_local("10.1.2.0/24", "2001:db8:1::/64")}, POD)
    assert result["cniVersion"] == version
    if is_before(version, "0.3.0"):
        assert set(result) <= {"cniVersion", "ip4", "ip6", "dns"}
        assert result["ip4"] == {"ip": "10.1.2.2/24", "gateway": "10.1.2.1"}
        assert result["ip6"] == {"ip": "2001:db8:1::2/64", "gateway": "2001:db8:1::1"}
    else:
        families = ["4", "6"] if is_before(version, "1.0.0") else [None, None]
        assert [ip.get("version") for ip in result["ips"]] == families
        assert [one["name"] for one in result["interfaces"]][::2] == ["cni0", "eth0"]


def test_no_version_is_the_first_one(host: CniHost) -> None:
    network = {key: value for key, value in BRIDGE.items() if key != "cniVersion"}
    result = host.add(network, POD)
    assert (result["cniVersion"], result["ip4"]["ip"]) == ("0.1.0", "10.1.2.2/24")


def test_results_are_json_on_stdout_and_stderr_stays_empty(host: CniHost) -> None:
    outcome = host.call("bridge", "ADD", BRIDGE, POD)
    assert (outcome.exit_code, outcome.stderr) == (0, "")
    assert json.loads(outcome.stdout)["dns"] == {}


@pytest.mark.differs("reference", "1.1.1 leaves cniVersion out of errors")
def test_an_error_has_the_version_of_the_configuration(host: CniHost, version: str) -> None:
    outcome = host.call("bridge", "ADD", {**BRIDGE, "cniVersion": version, "mtu": "big"}, POD)
    assert outcome.error["cniVersion"] == version


@pytest.mark.parametrize("path", ["/run/netns/none", "/etc/passwd"])
def test_what_is_no_namespace_is_refused_and_leaves_nothing(host: CniHost, path: str) -> None:
    refused(host, host.call("bridge", "ADD", BRIDGE, replace(POD, netns=path)), Fault.NAMESPACE, path)
    assert "10.1.2.2" not in host.files("/var/lib/cni/networks/net")


def test_an_interface_that_is_there_is_refused_and_stays(host: CniHost) -> None:
    host.add(BRIDGE, POD)
    refused(host, host.call("bridge", "ADD", BRIDGE, replace(POD, container_id="c-2")), Fault.OTHER, "eth0", "already exists")
    assert host.of(POD).addresses("eth0") == {"10.1.2.2/24"}
    assert set(host.files("/var/lib/cni/networks/net")) & {"10.1.2.2", "10.1.2.3"} == {"10.1.2.2"}


@pytest.mark.parametrize("command", ["ADD", "DEL"])
def test_an_ipam_plugin_that_is_not_there_is_named(host: CniHost, command: str) -> None:
    outcome = host.call("bridge", command, {**BRIDGE, "ipam": {"type": "nonesuch"}}, POD)
    refused(host, outcome, Fault.OTHER, "nonesuch", str(host.plugins.directory))


def test_an_ipam_plugin_that_gives_no_address_is_refused(host: CniHost) -> None:
    outcome = host.call("bridge", "ADD", {**BRIDGE, "ipam": static()}, POD)
    refused(host, outcome, Fault.OTHER, "IPAM plugin returned missing IP config")


def test_check_is_refused_before_version_0_4(host: CniHost) -> None:
    outcome = host.call("bridge", "CHECK", {**BRIDGE, "cniVersion": "0.3.1"}, POD)
    refused(host, outcome, Fault.VERSION, "version does not allow CHECK")


def test_check_without_a_result_is_refused(host: CniHost) -> None:
    host.add(BRIDGE, POD)
    refused(host, host.call("bridge", "CHECK", BRIDGE, POD), Fault.CONFIGURATION, "prevResult")


NEW: Json = {**BRIDGE, "cniVersion": "1.1.0"}
IPAM: Json = {"ipam": BRIDGE["ipam"]}
SECTIONS: dict[str, Json] = {
    "bridge": NEW,
    "host-local": IPAM,
    "macvlan": IPAM | {"master": "lo"},
    "ptp": IPAM,
    "static": {"ipam": static("10.0.0.1/24")},
}


@pytest.mark.differs("reference", "of spec 1.0.0, without STATUS and GC")
@pytest.mark.parametrize("command", ["STATUS", "GC"])
@pytest.mark.parametrize("plugin", PLUGINS)
def test_status_and_gc_need_no_container(host: CniHost, plugin: str, command: str) -> None:
    network = {**SECTIONS.get(plugin, {}), **conf(plugin, "1.1.0"), "cni.dev/valid-attachments": []}
    host.call(plugin, command, network).succeeded()


@pytest.mark.differs("reference", "of spec 1.0.0")
def test_a_result_of_version_1_1_has_mtus(host: CniHost) -> None:
    assert [one["mtu"] for one in host.add({**NEW, "mtu": 1400}, POD)["interfaces"]] == [1400, 1400, 1400]


@pytest.mark.differs("reference", "of spec 1.0.0: asks for the missing container id first, by code 3")
@pytest.mark.parametrize("command", ["STATUS", "GC"])
def test_status_and_gc_are_refused_before_version_1_1(host: CniHost, command: str) -> None:
    refused(host, host.call("bridge", command, BRIDGE), Fault.VERSION, command)


@pytest.mark.differs("reference", "of spec 1.0.0, without GC")
def test_gc_frees_what_no_valid_attachment_holds(host: CniHost) -> None:
    kept, lost = POD, host.attachment()
    for attachment in (kept, lost):
        host.add(NEW, attachment)
    valid = [{"containerID": kept.container_id, "ifname": kept.ifname}]
    host.call("bridge", "GC", {**NEW, "cni.dev/valid-attachments": valid}).succeeded()
    assert set(host.files("/var/lib/cni/networks/net")) & {"10.1.2.2", "10.1.2.3"} == {"10.1.2.2"}
