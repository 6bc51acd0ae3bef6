"""The vxlan backend's settings on its device, as iproute2 reads them, and what another setting, or a stranger, does to it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import pytest

from flanneld.backend import Network, load_backend
from flanneld.kernel import KernelError
from flanneld.lease import FAMILIES, Family
from flanneld.linux import netns
from flanneld.linux.kernel import LinuxKernel
from flanneld.linux.netlink import Netlink
from flanneld.linux.offloads import Offload, offload, socket_beside
from peers_of import apply, lease, network, uplink
from scratch_netns import ScratchNetns, scratch_netns

UPLINK = 2
IPV4: tuple[Family, ...] = (4,)
Settings: TypeAlias = Mapping[str, object]
NOTHING: Settings = {}


@dataclass(frozen=True)
class Host:
    """An uplink of 1500 bytes with both families, in a namespace of its own."""

    scratch: ScratchNetns
    netlink: Netlink
    kernel: LinuxKernel

    def device(self, name: str = "flannel.1") -> dict[str, Any]:
        """What `ip -d link` says, its vxlan options among the rest."""
        (found,) = (link for link in self.scratch.read("ip link show type vxlan") if link.get("ifname") == name)
        return {**found, **found["linkinfo"]["info_data"]}

    def devices(self) -> set[str]:
        return {link["ifname"] for link in self.scratch.read("ip link show type vxlan") if link}

    @asynccontextmanager
    async def attached(self, settings: Settings = NOTHING, families: tuple[Family, ...] = IPV4) -> AsyncIterator[Network]:
        """The backend with these settings, its lease got."""
        config = network(json.dumps({"Type": "vxlan", **settings}), families)
        async with load_backend(config).attach(uplink(families, index=UPLINK), config, self.kernel) as attached:
            await attached.adopt(lease(1, families=families))
            yield attached

    async def run(self, settings: Settings = NOTHING, families: tuple[Family, ...] = IPV4) -> dict[str, Any]:
        """One run of flanneld with one peer; returns what became of the device."""
        vni, peer = settings.get("VNI", 1), lease(7, families=families)
        data = tuple((family, text.replace('"VNI":1', f'"VNI":{vni}')) for family, text in peer.attrs.backend_data)
        async with self.attached(settings, families) as attached:
            assert await apply(attached, self.kernel, [replace(peer, attrs=replace(peer.attrs, backend_data=data))]) == ()
        return self.device(f"flannel.{vni}")


@pytest.fixture
def host() -> Iterator[Host]:
    with scratch_netns() as scratch, netns.netlink_in(scratch.path) as netlink:
        scratch.ip(f"link add eth0 index {UPLINK} type bridge")
        scratch.ip("addr add 10.0.0.1/24 dev eth0")
        scratch.ip("addr add fd00:10::1/64 dev eth0 nodad")
        scratch.ip("link set eth0 up")
        yield Host(scratch, netlink, LinuxKernel(netlink))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, {"id": 1, "port": 8472, "mtu": 1450, "learning": False, "local": "10.0.0.1", "link": "eth0", "udp_csum": True}),
        ({"VNI": 4095}, {"id": 4095, "ifname": "flannel.4095"}),
        ({"Port": 4789}, {"port": 4789}),
        ({"MTU": 1400}, {"mtu": 1350}),
        ({"Learning": True}, {"learning": True}),
        ({"GBP": True}, {"gbp": True}),
    ],
    ids=str,
)
async def test_every_setting_reaches_the_device(host: Host, settings: Settings, expected: dict[str, object]) -> None:
    device = await host.run(settings)
    assert {key: device.get(key) for key in expected} == expected


@pytest.mark.parametrize("settings", [{"Port": 4789}, {"GBP": True}], ids=str)
async def test_what_the_kernel_cannot_change_is_made_anew_with_the_mac_that_peers_know(host: Host, settings: Settings) -> None:
    before, after, back = await host.run(), await host.run(settings), await host.run()
    assert len({device["ifindex"] for device in (before, after, back)}) == 3
    assert {device["address"] for device in (before, after, back)} == {before["address"]}
    assert (back["port"], back.get("gbp")) == (8472, None)


@pytest.mark.parametrize(
    ("settings", "mtu", "learning"), [({"MTU": 1400}, 1350, False), ({"Learning": True}, 1450, True)], ids=["mtu", "learning"]
)
async def test_what_the_kernel_can_change_is_changed(host: Host, settings: Settings, mtu: int, learning: bool) -> None:
    before, after, back = await host.run(), await host.run(settings), await host.run()
    assert {device["ifindex"] for device in (before, after, back)} == {before["ifindex"]}
    assert [(device["mtu"], device["learning"]) for device in (after, back)] == [(mtu, learning), (1450, False)]


async def test_another_vni_is_another_device_and_takes_the_routes(host: Host) -> None:
    await host.run()
    await host.run({"VNI": 7})
    assert [route["dev"] for route in host.scratch.read("ip route show proto 84")] == ["flannel.7"]


async def test_a_mac_that_a_stranger_changed_is_put_back_with_all_that_it_took_along(host: Host) -> None:
    async with host.attached() as attached:
        await apply(attached, host.kernel, [lease(7)])
        before, entries = host.device(), host.kernel.entries(attached.owner)
        host.scratch.ip("link set flannel.1 address 02:00:00:00:00:99")
        await apply(attached, host.kernel, [lease(7)])
        assert host.device()["address"] == before["address"]
        assert before["address"] in attached.attrs.data(4)
        assert host.kernel.entries(attached.owner) == entries


async def test_a_device_that_went_down_comes_back_with_all_that_it_took_along(host: Host) -> None:
    async with host.attached() as attached:
        await apply(attached, host.kernel, [lease(7)])
        entries = host.kernel.entries(attached.owner)
        host.scratch.ip("link set flannel.1 down")
        assert host.kernel.entries(attached.owner) != entries
        await apply(attached, host.kernel, [lease(7)])
        assert host.kernel.entries(attached.owner) == entries
        assert "UP" in host.device()["flags"]


async def test_a_device_that_go_flannel_made_keeps_the_mac_that_peers_know(host: Host) -> None:
    made = "link add flannel.1 address 0e:00:00:00:00:01 type vxlan id 1 local 10.0.0.1 dev eth0 dstport 8472 nolearning"
    host.scratch.ip(made)
    before = host.device()
    async with host.attached() as attached:
        assert attached.attrs.data(4) == '{"VNI":1,"VtepMAC":"0e:00:00:00:00:01"}'
    assert host.device()["ifindex"] == before["ifindex"]


async def test_no_device_stays_when_another_familys_cannot_be_made(host: Host) -> None:
    host.scratch.ip("link add vx9 type vxlan id 1 local fd00:10::1 dev eth0 dstport 8472")
    with pytest.raises(KernelError, match="vx9 has VNI 1 on port 8472 already"):
        await host.run(families=FAMILIES)
    assert host.devices() == {"vx9"}


async def test_checksum_offload_is_as_the_config_has_it_and_else_left_alone(host: Host) -> None:
    def tx_checksums() -> bool:
        with socket_beside(host.netlink.fileno()) as any_socket:
            return offload(any_socket, "flannel.1", Offload.TX_CHECKSUM)

    await host.run()
    assert tx_checksums()
    for wanted in (False, True, False):
        index = (await host.run({"TxChecksumOffload": wanted}))["ifindex"]
        assert tx_checksums() is wanted
    assert (await host.run({"TxChecksumOffload": "auto"}))["ifindex"] == index
    assert not tx_checksums(), "somebody may have had a reason"
