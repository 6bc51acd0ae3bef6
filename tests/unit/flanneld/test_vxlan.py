from __future__ import annotations

import errno
from contextlib import suppress
from dataclasses import replace
from ipaddress import ip_address, ip_interface, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flanneld.backend import BackendError, Refusal
from flanneld.backends.vtep import Vni, checksum_trap, parse_vtep, plan, vtep_mac
from flanneld.backends.vxlan import VxlanBackend
from flanneld.config import ConfigError
from flanneld.kernel import FdbEntry, KernelError, Link, Neighbour, Route, VxlanLink
from flanneld.lease import FAMILIES, Family, Lease
from memory_kernel import MemoryKernel
from peers_of import apply, lease, network, uplink
from peers_of import vtep_mac as mac_of

DEVICES: dict[Family, int] = {4: 10, 6: 11}
VNI = Vni(1)


def planned(peer: Lease, *, direct: bool = False) -> tuple[object, ...] | Refusal:
    return plan(peer, VNI, DEVICES, 2, lambda _: direct)


def test_a_peer_is_neighbour_fdb_and_onlink_route_per_family() -> None:
    gateway = ip_network("10.244.7.0/24").network_address
    gateway6 = ip_network("fd00:244:0:7::/64").network_address
    assert planned(lease(7, families=FAMILIES)) == (
        Neighbour(10, gateway, mac_of(7)),
        FdbEntry(10, mac_of(7), ip_address("10.0.0.7")),
        Route(ip_network("10.244.7.0/24"), 10, gateway, onlink=True),
        Neighbour(11, gateway6, mac_of(7)),
        FdbEntry(11, mac_of(7), ip_address("fd00:10::7")),
        Route(ip_network("fd00:244:0:7::/64"), 11, gateway6, onlink=True),
    )


def test_a_peer_on_our_segment_is_a_plain_route_with_direct_routing() -> None:
    assert planned(lease(7), direct=True) == (Route(ip_network("10.244.7.0/24"), 2, ip_address("10.0.0.7")),)


@pytest.mark.parametrize("data", ["", "null", "[]", "{}", '{"VtepMAC": 5}', '{"VtepMAC": "0e:00"}', "not json", "[" * 9999])
def test_a_peer_with_garbage_for_backend_data_is_refused(data: str) -> None:
    peer = lease(7)
    refusal = planned(replace(peer, attrs=replace(peer.attrs, backend_data=((4, data),))))
    assert isinstance(refusal, Refusal)
    assert refusal.foreign, "one host's bad lease must not keep all others unready"


@pytest.mark.parametrize("mac", ["00:00:00:00:00:00", "ff:ff:ff:ff:ff:ff", "01:00:5e:00:00:01"])
def test_a_mac_that_is_no_single_hosts_is_refused(mac: str) -> None:
    with pytest.raises(ValueError, match=f"published VtepMAC '{mac}', expected one host's"):
        parse_vtep(f'{{"VNI":1,"VtepMAC":"{mac}"}}')


def test_a_peer_on_another_vni_is_not_ours() -> None:
    peer = lease(7)
    data = '{"VNI":2,"VtepMAC":"0e:00:00:00:00:07"}'
    refusal = planned(replace(peer, attrs=replace(peer.attrs, backend_data=((4, data),))))
    assert isinstance(refusal, Refusal)
    assert refusal.foreign
    assert "VNI 2" in refusal.why


def test_an_old_flannel_that_publishes_no_vni_is_a_peer() -> None:
    assert parse_vtep('{"VtepMAC":"0E:00:00:00:00:07"}').mac == "0e:00:00:00:00:07"


@given(st.text())
def test_any_backend_data_parses_or_raises_value_error(text: str) -> None:
    with suppress(ValueError):
        parse_vtep(text)


@given(st.ip_addresses(), st.integers(1, (1 << 24) - 1))
def test_our_mac_is_stable_unicast_and_locally_administered(address: object, vni: int) -> None:
    mac = vtep_mac(address, Vni(vni))  # type: ignore[arg-type]  # hypothesis gives either kind of address
    assert mac == vtep_mac(address, Vni(vni))  # type: ignore[arg-type]
    assert int(mac[:2], 16) & 3 == 2


@pytest.mark.parametrize(
    ("key", "value"),
    [("VNI", 0), ("VNI", 1 << 24), ("VNI", "1"), ("Port", 65536), ("MTU", -1), ("Learning", "yes"), ("DirectRouting", 1)],
)
def test_a_wrong_setting_names_its_key_and_value(key: str, value: object) -> None:
    with pytest.raises(ConfigError, match=rf"^Backend\.{key}: .*{value}"):
        VxlanBackend.parse({key.lower(): value})


async def test_the_device_is_flannels_and_is_addressed_once_the_subnet_is_known() -> None:
    kernel = MemoryKernel()
    async with VxlanBackend.parse({}).attach(uplink(), network(), kernel) as attached:
        mac = vtep_mac(ip_address("10.0.0.1"), VNI)
        assert kernel.vxlan["flannel.1"] == VxlanLink("flannel.1", 1, ip_address("10.0.0.1"), 2, 8472, 1450, mac)
        assert attached.attrs.data(4) == f'{{"VNI":1,"VtepMAC":"{mac}"}}'
        await attached.adopt(lease(1))
    assert kernel.vxlan["flannel.1"].addresses == (ip_interface("10.244.1.0/32"),)
    assert "flannel.1" in kernel.links, "the data plane outlives the daemon"


async def test_a_device_that_was_there_keeps_its_mac() -> None:
    kernel = MemoryKernel()
    kernel.vxlan["flannel.1"] = VxlanLink("flannel.1", 1, ip_address("10.0.0.1"), 2, 8472, 1450, "ee:ee:ee:ee:ee:ee")
    kernel.links["flannel.1"] = Link(9, "flannel.1", 1450, "ee:ee:ee:ee:ee:ee", kind="vxlan")
    async with VxlanBackend.parse({}).attach(uplink(), network(), kernel) as attached:
        assert "ee:ee:ee:ee:ee:ee" in attached.attrs.data(4)


async def test_hosts_with_one_address_behind_different_nats_have_macs_of_their_own() -> None:
    published = []
    for public in ("192.0.2.1", "192.0.2.2"):
        behind_nat = replace(uplink(), public_ips=(ip_address(public),))
        async with VxlanBackend.parse({}).attach(behind_nat, network(), MemoryKernel()) as attached:
            published.append(parse_vtep(attached.attrs.data(4)).mac)
    assert published[0] != published[1], "a third host could program only one of them"


@pytest.mark.parametrize(("families", "longest"), [((4,), 9_999_999), (FAMILIES, 9999)])
async def test_a_vni_too_long_for_a_device_name_is_named(families: tuple[Family, ...], longest: int) -> None:
    async with VxlanBackend.parse({"vni": longest}).attach(uplink(families), network(families=families), MemoryKernel()):
        pass
    with pytest.raises(ConfigError, match=rf"^Backend\.VNI: expected .* up to 15 characters, got flannel.*\.{longest + 1}$"):
        async with VxlanBackend.parse({"vni": longest + 1}).attach(uplink(families), network(families=families), MemoryKernel()):
            pass


async def test_a_device_without_a_lease_is_taken_back() -> None:
    kernel = MemoryKernel()
    async with VxlanBackend.parse({}).attach(uplink(FAMILIES), network(families=FAMILIES), kernel):
        assert set(kernel.links) == {"flannel.1", "flannel-v6.1"}
    assert kernel.links == {}


@pytest.mark.parametrize(("setting", "jumbo"), [(0, 9000), (8000, 8000)])
async def test_the_pod_mtu_leaves_room_for_the_largest_overhead(setting: int, jumbo: int) -> None:
    backend = VxlanBackend.parse({"mtu": setting})
    async with backend.attach(uplink(FAMILIES, mtu=9000), network(families=FAMILIES), MemoryKernel()) as attached:
        assert attached.mtu == jumbo - 70


async def test_an_mtu_that_the_uplink_cannot_carry_is_capped_and_told(caplog: pytest.LogCaptureFixture) -> None:
    async with VxlanBackend.parse({"mtu": 9000}).attach(uplink(), network(), MemoryKernel()) as attached:
        assert attached.mtu == 1450
    assert "MTU of the network config is larger than the uplink's" in caplog.messages


@pytest.mark.parametrize(("families", "least"), [((4,), 68 + 50), (FAMILIES, 1280 + 70)])
async def test_an_underlay_too_small_for_the_pods_family_says_how_much_it_takes(families: tuple[Family, ...], least: int) -> None:
    async with VxlanBackend.parse({}).attach(uplink(families, mtu=least), network(families=families), MemoryKernel()):
        pass
    with pytest.raises(BackendError, match=f"an underlay MTU of {least - 1} is too small .* expected {least} or more"):
        async with VxlanBackend.parse({}).attach(uplink(families, mtu=least - 1), network(families=families), MemoryKernel()):
            pass


async def test_a_lost_device_comes_back_with_its_mac_and_all_entries() -> None:
    kernel = MemoryKernel()
    async with VxlanBackend.parse({}).attach(uplink(), network(), kernel) as attached:
        await attached.adopt(lease(1))
        await apply(attached, kernel, [lease(7)])
        before = kernel.links["flannel.1"]
        kernel.remove_link("flannel.1")
        await apply(attached, kernel, [lease(7)])
    after = kernel.links["flannel.1"]
    assert after.index != before.index
    assert after.mac == before.mac
    assert len(kernel.present) == 3
    assert {entry.device for entry in kernel.present} == {after.index}


async def test_two_peers_with_one_mac_at_two_addresses_are_told_apart_and_the_first_stays() -> None:
    kernel = MemoryKernel()
    clone = replace(lease(8), attrs=replace(lease(8).attrs, backend_data=lease(7).attrs.backend_data))
    async with VxlanBackend.parse({}).attach(uplink(), network(), kernel) as attached:
        for _ in range(2):
            (refused,) = await apply(attached, kernel, [lease(7), clone, lease(9)])
            assert refused.lease == clone
            assert f"fdb entry {mac_of(7)} to 10.0.0.8" in refused.why
            assert f"where peer 10.244.7.0/24 needs fdb entry {mac_of(7)} to 10.0.0.7" in refused.why
        assert len(kernel.calls) == 1, "the second time there was nothing to do"
        assert len(kernel.present) == 6


async def test_a_kernel_without_vxlan_is_named() -> None:
    kernel = MemoryKernel()
    kernel.refusals[VxlanLink] = errno.EOPNOTSUPP
    with pytest.raises(KernelError, match=r"flannel\.1"):
        async with VxlanBackend.parse({}).attach(uplink(), network(), kernel):
            pass


@pytest.mark.parametrize(
    ("driver", "port", "broken"), [("vmxnet3", 8472, True), ("vmxnet3", 4789, False), ("virtio_net", 8472, False)]
)
def test_a_checksum_trap_is_known_by_driver_and_port(driver: str, port: int, broken: bool) -> None:
    assert bool(checksum_trap(driver, port)) is broken


@pytest.mark.parametrize(
    ("written", "meant"), [({}, None), ({"txchecksumoffload": "auto"}, None), ({"txchecksumoffload": False}, False)]
)
def test_checksum_offload_is_a_switch_or_auto(written: dict[str, object], meant: bool | None) -> None:
    assert VxlanBackend.parse(written).tx_checksum is meant
    with pytest.raises(ConfigError, match=r'TxChecksumOffload: expected true, false or "auto"'):
        VxlanBackend.parse({"txchecksumoffload": "off"})
