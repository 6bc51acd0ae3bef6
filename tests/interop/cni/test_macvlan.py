"""The macvlan plugin: an interface of its own on the host's wire."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from cni_chain import conf, gateways, host_local, interface, ips
from cni_errors import Fault, refused
from cni_traffic import service
from cni_world import CniHost, Json, Sandbox, is_before, kernel_has

pytestmark = pytest.mark.skipif(not kernel_has("macvlan"), reason="this kernel has no macvlan devices")
MAC = "02:00:00:00:00:4"


@dataclass(frozen=True)
class Wire:
    """A host with an uplink, and what is at its other end."""

    host: CniHost
    beyond: Sandbox

    def add(self, **keys: Any) -> tuple[Json, Sandbox]:
        attachment = self.host.attachment()
        return self.host.add(macvlan(**keys), attachment), self.host.of(attachment)

    def refused(self, *gists: str, **keys: Any) -> None:
        attachment = self.host.attachment()
        refused(self.host, self.host.call("macvlan", "ADD", macvlan(**keys), attachment), Fault.CONFIGURATION, *gists)
        assert self.host.of(attachment).is_left_with("lo")


def macvlan(version: str = "1.0.0", **keys: Any) -> Json:
    return conf("macvlan", version, **{"master": "uplink", "ipam": host_local("10.1.2.0/24")} | keys)


@pytest.fixture
def wire(host: CniHost) -> Wire:
    beyond = host.sandbox("beyond")
    host.ip("link add uplink type veth peer name eth0 netns beyond\naddress add 10.1.2.201/24 dev uplink\nlink set uplink up")
    beyond.ip("address add 10.1.2.200/24 dev eth0\nlink set eth0 up")
    return Wire(host, beyond)


def test_add_makes_an_interface_on_the_wire_and_del_takes_it(wire: Wire, version: str) -> None:
    attachment = wire.host.attachment()
    pod = wire.host.of(attachment)
    result = wire.host.add(macvlan(version), attachment)
    assert (ips(result), gateways(result)) == (["10.1.2.2/24"], ["10.1.2.1"])
    assert pod.links()["eth0"]["linkinfo"]["info_data"]["mode"] == "bridge"
    with service(wire.beyond, 80) as web:
        assert web.reaches(pod, "10.1.2.200", 80) == "10.1.2.2"
    wire.host.delete({**macvlan(version), **({} if is_before(version, "0.4.0") else {"prevResult": result})}, attachment)
    assert pod.is_left_with("lo")


def test_the_result_has_the_containers_interface_alone(wire: Wire) -> None:
    result, pod = wire.add()
    expected = {"name": "eth0", "mac": pod.links()["eth0"]["address"], "sandbox": str(pod.path)}
    assert ([{key: one[key] for key in expected} for one in result["interfaces"]], result["ips"][0]["interface"]) == ([expected], 0)


def test_check_finds_what_add_made_and_sees_another_mode(wire: Wire, version: str) -> None:
    if is_before(version, "0.4.0"):
        pytest.skip(f"{version} has no CHECK")
    attachment = wire.host.attachment()
    result = wire.host.add(macvlan(version), attachment)
    wire.host.check(macvlan(version), attachment, result).succeeded()
    attempt = wire.host.check(macvlan(version, mode="vepa"), attachment, result)
    refused(wire.host, attempt, Fault.OTHER, "mode")


def test_without_a_master_it_is_the_one_of_the_default_route(wire: Wire) -> None:
    wire.host.ip("route add default via 10.1.2.200")
    _, pod = wire.add(master="")
    assert pod.links()["eth0"]["link_index"] == wire.host.links()["uplink"]["ifindex"]


def test_pods_on_one_master_reach_each_other(wire: Wire) -> None:
    pods = [wire.add()[1] for _ in range(2)]
    with service(pods[1], 80) as web:
        assert web.reaches(pods[0], "10.1.2.3", 80) == "10.1.2.2"


@pytest.mark.parametrize("mode", ["bridge", "private", "vepa", "passthru"])
def test_the_mode_is_the_one_asked_for(wire: Wire, mode: str) -> None:
    _, pod = wire.add(mode=mode)
    assert pod.links()["eth0"]["linkinfo"]["info_data"]["mode"] == mode


def test_a_mode_that_does_not_exist_is_refused(wire: Wire) -> None:
    wire.refused("unknown macvlan mode", "sideways", mode="sideways")


def test_a_master_that_does_not_exist_is_refused(wire: Wire) -> None:
    wire.refused(master="nonesuch")


@pytest.mark.parametrize(("wanted", "got"), [(1400, 1400), (0, 1500)])
def test_the_mtu_is_the_one_asked_for_or_the_masters(wire: Wire, wanted: int, got: int) -> None:
    _, pod = wire.add(mtu=wanted)
    assert pod.links()["eth0"]["mtu"] == got


@pytest.mark.parametrize("mtu", [-1, 1501])
def test_an_mtu_that_the_master_does_not_have_is_refused(wire: Wire, mtu: int) -> None:
    wire.refused("invalid MTU", str(mtu), "1500", mtu=mtu)


MACS: dict[str, tuple[str, Json, str]] = {
    "configuration": (MAC + "1", {"mac": MAC + "1"}, ""),
    "CNI_ARGS": (MAC + "2", {"mac": MAC + "1"}, f"IgnoreUnknown=1;MAC={MAC}2"),
    "runtimeConfig": (MAC + "4", {"mac": MAC + "1", "runtimeConfig": {"mac": MAC + "4"}}, f"IgnoreUnknown=1;MAC={MAC}2"),
}


@pytest.mark.parametrize("source", MACS)
def test_the_mac_is_that_of_the_last_of_configuration_cni_args_and_runtime(wire: Wire, source: str) -> None:
    expected, keys, args = MACS[source]
    attachment = wire.host.attachment(args=args)
    result = wire.host.add(macvlan(**keys), attachment)
    assert interface(result, "eth0")["mac"] == wire.host.of(attachment).links()["eth0"]["address"] == expected


def test_without_ipam_there_is_a_link_and_no_address(wire: Wire) -> None:
    result, pod = wire.add(ipam={})
    assert (result.get("ips", []), pod.addresses("eth0")) == ([], set())
    assert "UP" in pod.links()["eth0"]["flags"]


@pytest.mark.differs("reference", "leaves the link when IPAM fails")
def test_what_fails_leaves_no_link(wire: Wire) -> None:
    wire.refused("nonesuch", ipam={"type": "nonesuch"})


def test_what_fails_gives_the_address_back(wire: Wire) -> None:
    first = wire.host.attachment()
    wire.host.add(macvlan(), first)
    again = wire.host.call("macvlan", "ADD", macvlan(), wire.host.attachment(wire.host.of(first)))
    assert "eth0" in again.text
    assert "10.1.2.3" not in wire.host.files("/var/lib/cni/networks/net")


def test_del_of_what_was_never_added_succeeds(wire: Wire, version: str) -> None:
    wire.host.delete(macvlan(version), wire.host.attachment())


@pytest.mark.differs("reference", "1.1.1 looks for the master on the host only")
def test_the_master_may_be_in_the_container(wire: Wire) -> None:
    attachment = wire.host.attachment()
    wire.host.ip(
        f"link add inner type veth peer name outer\nlink set inner netns {wire.host.of(attachment).path.name}\nlink set outer up"
    )
    wire.host.of(attachment).ip("link set inner up")
    wire.host.add(macvlan(master="inner", linkInContainer=True), attachment)
    assert "eth0" in wire.host.of(attachment).links()
