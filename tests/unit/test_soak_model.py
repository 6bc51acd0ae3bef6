"""The soak's model says what an administrator with flannel's manual would, and sees what differs from it."""

from __future__ import annotations

import pytest

from soak_model import (
    FOREIGN,
    Config,
    Lease,
    Standing,
    differing,
    expected_subnet_env,
    iptables_words,
    nft_words,
    read_lease,
    wanted,
    wrong_leases,
)

MAC, OTHER_MAC = "0e:00:00:00:00:01", "0e:00:00:00:00:02"
STANDING = Standing("10.0.0.11", "eth0", 1500, "10.244.1.0")
OWN = Lease("10.244.1.0", "10.0.0.11", "vxlan", {"VNI": 1, "VtepMAC": MAC}, expires=True)
PEER = Lease("10.244.2.0", "10.0.0.12", "vxlan", {"VNI": 1, "VtepMAC": OTHER_MAC}, expires=True)


def config(kind: str, **backend: object) -> Config:
    return {"Network": "10.244.0.0/16", "EnableNFTables": True, "Backend": {"Type": kind, **backend}}


def test_a_vxlan_peer_needs_a_route_a_neighbour_and_an_fdb_entry() -> None:
    facts = wanted(STANDING, config("vxlan"), [OWN, PEER])
    assert facts["routes"] == {"10.244.2.0/24 via 10.244.2.0 dev flannel.1 proto 84 onlink"}
    assert facts["neighbours"] == {f"flannel.1 10.244.2.0 {OTHER_MAC}"}
    assert facts["fdb"] == {f"flannel.1 {OTHER_MAC} 10.0.0.12"}


def test_a_peer_that_is_routed_to_directly_needs_a_route_alone() -> None:
    for served in (config("vxlan", DirectRouting=True), config("host-gw")):
        peer = Lease("10.244.2.0", "10.0.0.12", served["Backend"]["Type"], {}, expires=True)
        facts = wanted(STANDING, served, [OWN, peer])
        assert facts["routes"] == {"10.244.2.0/24 via 10.0.0.12 dev eth0 proto 84"}
        assert not facts["neighbours"] | facts["fdb"]


def test_all_udp_peers_are_behind_one_route() -> None:
    peers = [Lease(f"10.244.{n}.0", f"10.0.0.1{n}", "", {}, expires=True) for n in (2, 3)]
    assert wanted(STANDING, config("udp"), [OWN, *peers])["routes"] == {"10.244.0.0/16 dev flannel0 proto 84"}


def test_the_vxlan_device_has_what_config_uplink_and_lease_say() -> None:
    facts = wanted(STANDING, config("vxlan", VNI=7, Port=4789, MTU=1400), [OWN])
    assert facts["devices"] == {
        "flannel.7 up",
        "flannel.7 mtu 1350",
        "flannel.7 address 10.244.1.0/32",
        f"flannel.7 MAC {MAC}",
        "flannel.7 VNI 7 port 4789 learning False",
        "flannel.7 from 10.0.0.11 on eth0",
    }


@pytest.mark.parametrize(("kind", "mtu"), [("vxlan", 1450), ("host-gw", 1500), ("udp", 1472)])
def test_pods_have_the_uplinks_mtu_without_what_the_backend_adds(kind: str, mtu: int) -> None:
    assert f"FLANNEL_MTU={mtu}\n" in expected_subnet_env(STANDING, config(kind))


def test_a_config_with_a_larger_mtu_than_the_uplinks_is_capped() -> None:
    assert "FLANNEL_MTU=1450\n" in expected_subnet_env(STANDING, config("vxlan", MTU=9000))


def test_both_firewalls_have_the_same_rules_in_the_same_order() -> None:
    nft, iptables = nft_words("10.244.0.0/16", "10.244.1.0/24"), iptables_words("10.244.0.0/16", "10.244.1.0/24")
    appended = [line for line in iptables if line.startswith("-A FLANNEL-POSTRTG")]
    assert ["masquerade" in line for line in nft[:6]] == ["MASQUERADE" in line for line in appended]
    assert [line.count("!") for line in nft[:6]] == [line.count("!") for line in appended]


def test_what_is_missing_and_what_is_too_much_is_told_apart() -> None:
    expected = wanted(STANDING, config("host-gw"), [OWN])
    seen = {**expected, "routes": frozenset({"stale"}), "others' things": FOREIGN - {"device other99"}}
    assert differing(expected, expected) == []
    assert differing(seen, expected) == ["routes: 'stale' too much", "others' things: 'device other99' missing"]


def test_leases_of_nobody_of_the_wrong_host_and_without_end_are_told() -> None:
    reserved = Lease("10.244.1.0", "10.0.0.11", "vxlan", {}, expires=False)
    owners = {"10.244.1.0": "10.0.0.11", "10.244.2.0": "10.0.0.13", "10.244.4.0": "10.0.0.14"}
    assert wrong_leases([reserved, PEER, Lease("10.244.9.0", "10.0.0.99", "", {}, expires=True)], owners, [], []) == [
        "nobody has 10.244.4.0, 10.0.0.14 should",
        "the lease of 10.244.1.0 never expires",
        "10.0.0.12 has 10.244.2.0, expected 10.0.0.13",
        "10.0.0.99 has 10.244.9.0, expected nobody",
    ]
    assert wrong_leases([OWN], {OWN.subnet: OWN.ip}, [], []) == []


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"PublicIP":"nowhere"}'])
def test_garbage_is_no_lease(text: str) -> None:
    assert read_lease("10.244.3.0-24", text, expires=True) is None
