"""The tuning plugin: sysctls and properties of an interface that another plugin made."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cni_chain import conf, host_local, interface
from cni_errors import Fault, refused
from cni_world import Attachment, CniHost, Json, is_before

MAC = "02:00:00:00:00:09"
STATE = "/run/cni/tuning"


class Tuned:
    """A pod whose eth0 is to be changed."""

    def __init__(self, host: CniHost) -> None:
        self.host = host
        self.attachment: Attachment = host.attachment()
        self.pod = host.of(self.attachment)
        self.result = host.add(conf("bridge", ipam=host_local("10.1.2.0/24")), self.attachment)
        self.before = self.eth0()

    def conf(self, **keys: Any) -> Json:
        return conf("tuning", prevResult=self.result, **keys)

    def add(self, cni_args: str = "", **keys: Any) -> Json:
        return self.host.add(self.conf(**keys), replace(self.attachment, args=cni_args))

    def eth0(self) -> Json:
        link = self.pod.links()["eth0"]
        return {key: link[key] for key in ("address", "mtu", "promiscuity", "allmulti")}


@pytest.fixture
def tuned(host: CniHost) -> Tuned:
    return Tuned(host)


def test_sysctls_are_set_in_the_pod_alone_by_dots_or_slashes_and_with_its_interfaces_name(tuned: Tuned) -> None:
    wanted = {
        "net.ipv4.conf.all.log_martians": "1",
        "net/ipv4/conf/eth0/arp_ignore": "1",
        "net.ipv4.conf.IFNAME.arp_filter": "1",
    }
    assert tuned.add(sysctl=wanted) == tuned.result
    keys = ("net/ipv4/conf/all/log_martians", "net/ipv4/conf/eth0/arp_ignore", "net/ipv4/conf/eth0/arp_filter")
    assert [tuned.pod.sysctl(key) for key in keys] == ["1", "1", "1"]
    assert tuned.host.sysctl(keys[0]) == "0"
    tuned.host.delete(tuned.conf(sysctl=wanted), tuned.attachment)


CHECKED = [
    "net.ipv4.conf.all.log_martians",
    "net/ipv4/conf/eth0/log_martians",
    pytest.param("net.ipv4.conf.IFNAME.log_martians", marks=pytest.mark.differs("reference", "puts no name for IFNAME in CHECK")),
]


@pytest.mark.parametrize("key", CHECKED)
def test_check_finds_a_sysctl(tuned: Tuned, key: str) -> None:
    tuned.add(sysctl={key: "1"})
    tuned.host.check(tuned.conf(sysctl={key: "1"}), tuned.attachment, tuned.result).succeeded()


def test_check_sees_a_sysctl_that_somebody_changed(tuned: Tuned) -> None:
    wanted = {"net.ipv4.conf.all.log_martians": "1"}
    tuned.add(sysctl=wanted)
    tuned.pod.place.call(Path("/proc/sys/net/ipv4/conf/all/log_martians").write_text, "0")
    attempt = tuned.host.check(tuned.conf(sysctl=wanted), tuned.attachment, tuned.result)
    refused(tuned.host, attempt, Fault.OTHER, "log_martians", "1", "0")


@pytest.mark.parametrize(
    "key",
    [
        "kernel.hostname",
        "kernel.panic",
        "net.ipv4.nonesuch",
        "net.ipv4/../../../kernel/panic",
        "/net/ipv4/ip_forward/../../../kernel/panic",
    ],
)
def test_a_sysctl_that_is_not_the_networks_is_refused(tuned: Tuned, key: str) -> None:
    before = tuned.host.sysctl("kernel/panic")
    refused(tuned.host, tuned.host.call("tuning", "ADD", tuned.conf(sysctl={key: "1"}), tuned.attachment), Fault.CONFIGURATION)
    assert tuned.host.sysctl("kernel/panic") == before


def test_a_value_that_the_kernel_refuses_is_an_error(tuned: Tuned) -> None:
    network = tuned.conf(sysctl={"net.ipv4.conf.all.log_martians": "much"})
    refused(tuned.host, tuned.host.call("tuning", "ADD", network, tuned.attachment), Fault.OTHER, "log_martians")


PROPERTIES: dict[str, tuple[Json, Json]] = {
    "mac": ({"mac": MAC}, {"address": MAC}),
    "mtu": ({"mtu": 1300}, {"mtu": 1300}),
    "promisc": ({"promisc": True}, {"promiscuity": 1}),
    "allmulti": ({"allmulti": True}, {"allmulti": 1}),
    "all of them": (
        {"mac": MAC, "mtu": 1300, "promisc": True, "allmulti": True},
        {"address": MAC, "mtu": 1300, "promiscuity": 1, "allmulti": 1},
    ),
}


@pytest.mark.parametrize("what", PROPERTIES)
def test_del_puts_back_what_add_changed(tuned: Tuned, what: str) -> None:
    keys, expected = PROPERTIES[what]
    tuned.add(**keys)
    assert {key: tuned.eth0()[key] for key in expected} == expected
    tuned.host.check(tuned.conf(**keys), tuned.attachment, tuned.result).succeeded()
    tuned.host.delete(tuned.conf(**keys), tuned.attachment)
    assert tuned.eth0() == tuned.before


@pytest.mark.differs("reference", "1.1.1 does not know txQLen")
def test_the_transmit_queues_length_is_set(tuned: Tuned) -> None:
    tuned.add(txQLen=77)
    assert tuned.pod.place.run(["ip", "link", "show", "eth0"]).stdout.partition("qlen ")[2].split()[0] == "77"


def test_a_new_mac_is_in_the_result(tuned: Tuned) -> None:
    result = tuned.add(mac=MAC)
    assert interface(result, "eth0") == {**interface(tuned.result, "eth0"), "mac": MAC}
    assert result["interfaces"][:2] == tuned.result["interfaces"][:2]


FROM = "02:00:00:00:00:0"
MACS: dict[str, tuple[str, Json]] = {
    "CNI_ARGS beat the configuration": (FROM + "2", {}),
    "runtimeConfig beats CNI_ARGS": (FROM + "3", {"runtimeConfig": {"mac": FROM + "3"}}),
    "args beat all": (FROM + "4", {"runtimeConfig": {"mac": FROM + "3"}, "args": {"cni": {"mac": FROM + "4"}}}),
}


@pytest.mark.parametrize("what", MACS)
def test_of_several_macs(tuned: Tuned, what: str) -> None:
    expected, keys = MACS[what]
    tuned.add(cni_args=f"MAC={FROM}2", mac=FROM + "1", **keys)
    assert tuned.eth0()["address"] == expected


def test_args_replace_any_property_of_the_configuration(tuned: Tuned) -> None:
    replaced = {"mtu": 1400, "promisc": True, "allmulti": True, "sysctl": {"net.ipv4.conf.eth0.arp_filter": "1"}}
    tuned.add(mtu=1300, promisc=False, sysctl={"net.ipv4.conf.eth0.arp_filter": "0"}, args={"cni": replaced})
    eth0 = tuned.eth0()
    assert (eth0["mtu"], eth0["promiscuity"], eth0["allmulti"]) == (1400, 1, 1)
    assert tuned.pod.sysctl("net/ipv4/conf/eth0/arp_filter") == "1"


@pytest.mark.differs("reference", "panics")
def test_args_may_have_sysctls_where_the_configuration_has_none(tuned: Tuned) -> None:
    tuned.add(args={"cni": {"sysctl": {"net.ipv4.conf.eth0.arp_filter": "1"}}})
    assert tuned.pod.sysctl("net/ipv4/conf/eth0/arp_filter") == "1"


def test_what_is_no_mac_is_refused(tuned: Tuned) -> None:
    refused(tuned.host, tuned.host.call("tuning", "ADD", tuned.conf(mac="junk"), tuned.attachment), Fault.CONFIGURATION, "junk")


def test_check_sees_a_property_that_somebody_changed(tuned: Tuned) -> None:
    tuned.add(mtu=1300)
    tuned.pod.ip("link set eth0 mtu 1400")
    attempt = tuned.host.check(tuned.conf(mtu=1300), tuned.attachment, tuned.result)
    refused(tuned.host, attempt, Fault.OTHER, "mtu", "1300", "1400")


def test_what_was_before_is_kept_in_a_file_until_del(tuned: Tuned) -> None:
    tuned.add(mtu=1300)
    assert set(tuned.host.files(STATE)) == {f"{tuned.attachment.container_id}_eth0.json"}
    tuned.host.delete(tuned.conf(mtu=1300), tuned.attachment)
    assert tuned.host.files(STATE) == {}


def test_data_dir_moves_the_file(tuned: Tuned) -> None:
    tuned.add(mtu=1300, dataDir="/run/elsewhere")
    assert (len(tuned.host.files("/run/elsewhere")), tuned.host.files(STATE)) == (1, {})


def test_del_without_a_namespace_succeeds_and_forgets(tuned: Tuned) -> None:
    tuned.add(mtu=1300)
    for netns in ("/run/netns/none", ""):
        tuned.host.delete(tuned.conf(mtu=1300), tuned.attachment, CNI_NETNS=netns)


def test_every_version_with_chains_is_served(tuned: Tuned, version: str) -> None:
    if is_before(version, "0.3.0"):
        pytest.skip(f"{version} has no chains")
    previous = {**tuned.result, "cniVersion": version}
    if is_before(version, "1.0.0"):
        previous["ips"] = [{**ip, "version": "4"} for ip in previous["ips"]]
    result = tuned.host.add(conf("tuning", version, mtu=1300, prevResult=previous), tuned.attachment)
    assert (result, tuned.eth0()["mtu"]) == (previous, 1300)


def test_without_a_result_it_is_refused(host: CniHost) -> None:
    refused(host, host.call("tuning", "ADD", conf("tuning", mtu=1300), host.attachment()), Fault.CONFIGURATION, "prevResult")
