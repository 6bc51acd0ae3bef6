"""What users get wrong: each ends in one clear line and a non-zero exit, or waits for its cure, and leaves nothing behind."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping, Sequence
from ipaddress import ip_network
from pathlib import Path

import pytest

from etcd_server import make_certificates
from flanneld_world import (
    NETWORK,
    PREFIX,
    Flanneld,
    World,
    eventually,
    flanneld_world,
    own_subnet,
    peer_entries,
    readyz,
    run,
    subnet_env,
    traces,
    vxlan_entries,
    vxlan_lease,
)
from lab.daemon import HEALTH_PORT

NET = "10.244.0.0/16"
SMALL = {**NETWORK, "Network": "10.244.0.0/28", "SubnetLen": 30}
"""Three subnets."""
ALL_OF_SMALL = {f"10.244.0.{n}-30": vxlan_lease(f"10.0.0.{n}", f"0e:00:00:00:00:{n:02}") for n in (4, 8, 12)}


@pytest.fixture(scope="module")
def lab() -> Iterator[World]:
    with flanneld_world() as world:
        yield world


@pytest.fixture
def world(lab: World) -> Iterator[World]:
    """A host on which, by all that can be seen, nothing has ever run."""
    lab.etcd.delete(f"{PREFIX}/")
    lab.configure(NETWORK)
    yield lab
    lab.stop()
    for line in ("ip link del flannel.1", "nft flush ruleset", "rm -rf /run/flannel"):
        lab.lab.host("h1").run(line.split(), check=False)


def refused(world: World, *flags: str) -> str:
    """The last words of a flanneld that gives up and leaves nothing."""
    why = world.start("h1", *flags).fails()
    assert nothing_is_left(world)
    return why


def nothing_is_left(world: World) -> bool:
    left = traces(world.lab.host("h1")) | set(world.etcd.keys())
    assert not left
    return True


def test_no_etcd_is_given_up_after_ten_seconds(world: World) -> None:
    flanneld = world.start("h1", "--etcd-endpoints=http://10.0.0.1:2999")
    assert flanneld.await_said("waiting for network config")["why"].endswith("etcd at http://10.0.0.1:2999: connection refused")
    assert flanneld.fails() == "no answer in 10 s: etcd at http://10.0.0.1:2999: connection refused"
    assert sorted(line["event"] for line in flanneld.lines()) == ["CNI is served", "failed", "waiting for network config"]
    assert nothing_is_left(world)


def test_https_on_a_plain_etcd(world: World) -> None:
    why = refused(world, "--etcd-endpoints=https://10.0.0.1:2379")
    assert why == "etcd at https://10.0.0.1:2379: answers without TLS: expected http://"


def test_a_ca_file_that_is_not_there(world: World) -> None:
    why = refused(world, "--etcd-endpoints=https://10.0.0.1:2379", "--etcd-cafile=/no/such.pem")
    assert why == "etcd CA file '/no/such.pem': no such file or directory"


TWO = {"Network": NET, "EnableIPv6": True}
BAD_CONFIGS: Sequence[tuple[Mapping[str, object] | str, str]] = [
    ("{", "network config: not JSON"),
    ("[]", "network config: expected an object, got []"),
    ({"Backend": {"Type": "vxlan"}}, "Network: please define a correct Network parameter"),
    ({"Network": "10.244.0.0"}, 'got "10.244.0.0"'),
    ({"Network": "fd00::/48"}, 'got "fd00::/48"'),
    ({"Network": 10}, "Network: expected a string, got 10"),
    ({"Network": NET, "SubnetLen": 31}, "SubnetLen: SubnetLen must be less than /31, got 31"),
    ({"Network": NET, "SubnetLen": 17}, "at least four subnets: 10.244.0.0/16 takes 18 or more, got 17"),
    ({"Network": "10.244.0.0/29"}, "Network: network is too small. Minimum useful network prefix is /28, got 10.244.0.0/29"),
    ({"Network": NET, "SubnetMin": "10.9.0.0"}, "SubnetMin is not in the range of the Network 10.244.0.0/16, got 10.9.0.0"),
    ({"Network": NET, "SubnetMin": "10.244.1.1"}, "SubnetMin is not on a SubnetLen boundary: 10.244.1.1"),
    ({"Network": NET, "SubnetMax": "10.9.0.0"}, "SubnetMax is not in the range"),
    ({"Network": NET, "SubnetMax": "10.244.9.9"}, "SubnetMax is not on a SubnetLen boundary: 10.244.9.9"),
    ({"Network": NET, "SubnetMin": "10.244.9.0", "SubnetMax": "10.244.8.0"}, "SubnetMin: 10.244.9.0 is above SubnetMax 10.244.8.0"),
    ({"Network": NET, "EnableIPv4": False}, "EnableIPv4: false, and EnableIPv6 is not true"),
    (TWO, "IPv6Network: please define a correct IPv6Network parameter"),
    ({**TWO, "IPv6Network": "fd00::/125"}, "IPv6Network: network is too small"),
    ({**TWO, "IPv6Network": "fd00::/48", "IPv6SubnetLen": 127}, "IPv6SubnetLen: SubnetLen must be less"),
    ({**TWO, "IPv6Network": "fd00::/48", "IPv6SubnetMin": "fe00::"}, "IPv6SubnetMin: IPv6SubnetMin is not"),
    ({"Network": NET, "Backend": "vxlan"}, 'Backend: expected an object, got "vxlan"'),
    ({"Network": NET, "Backend": {"Type": 4}}, "Backend.Type: expected a string, got 4"),
    (
        {"Network": NET, "Backend": {"Type": "gre"}},
        "Backend.Type: unknown backend type 'gre', expected one of alloc, bgp, host-gw, udp, vxlan",
    ),
    ({"Network": NET, "Backend": {"Type": "vxlan", "VNI": "1"}}, 'Backend.VNI: expected a whole number, got "1"'),
    ({"Network": NET, "Backend": {"Type": "vxlan", "VNI": 16777216}}, "Backend.VNI: expected 1 to 16777215, got 16777216"),
    ({"Network": NET, "Backend": {"Type": "vxlan", "Port": 65536}}, "Backend.Port: expected 0 to 65535, got 65536"),
    (
        {"Network": NET, "Backend": {"Type": "vxlan", "MTU": 10}},
        "vxlan: an underlay MTU of 10 is too small for IPv4 pods, expected 118 or more",
    ),
    ({"Network": NET, "Backend": {"Type": "udp", "Port": 0}}, "Backend.Port: expected 1 to 65535, got 0"),
    ({"Network": "10.0.0.0/8"}, "Network: 10.0.0.0/8 overlaps the network of the uplink eth0 (10.0.0.11/24)"),
]


@pytest.mark.parametrize(("given", "says"), BAD_CONFIGS, ids=[says for _, says in BAD_CONFIGS])
def test_a_bad_network_config_names_key_and_value(world: World, given: Mapping[str, object] | str, says: str) -> None:
    world.configure(given)
    assert says in refused(world)


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--iface=eth9"], "iface eth9: no such interface; this host has lo (no address), eth0 (10.0.0.11/24"),
        (["--iface=10.9.9.9"], "no interface has the address 10.9.9.9"),
        (["--subnet-file=/proc/net/subnet.env"], "subnet-file: cannot write /proc/net/subnet.env: /proc/net: "),
        (["--subnet-file=/etc/hosts/a/subnet.env"], "cannot write /etc/hosts/a/subnet.env: /etc/hosts: not a directory"),
        (["--subnet-file=/run"], "subnet-file: expected a file to write, got the directory /run"),
        (["--subnet-file="], "subnet-file: expected a file to write, got the directory ."),
        (["--healthz-ip=10.9.9.9"], "cannot serve healthz-ip 10.9.9.9, healthz-port 8471: cannot assign requested address"),
    ],
)
def test_a_flag_that_does_not_fit_this_host_is_named(world: World, flags: list[str], says: str) -> None:
    assert says in refused(world, *flags)


def test_a_health_port_in_use(world: World) -> None:
    with world.lab.host("h1").call(socket.create_server, ("127.0.0.1", HEALTH_PORT)):
        assert refused(world) == f"cannot serve healthz-ip 0.0.0.0, healthz-port {HEALTH_PORT}: address already in use"


def test_an_etcd_that_somebody_else_certifies(world: World, tmp_path: Path) -> None:
    tls, host, url = make_certificates(tmp_path), world.lab.host("h1"), "https://127.0.0.1:2379"
    argv = ["etcd", f"--data-dir={tmp_path / 'etcd'}", f"--cert-file={tls.server}", f"--key-file={tls.server_key}"]
    argv += [f"--listen-client-urls={url}", f"--advertise-client-urls={url}", f"--trusted-ca-file={tls.ca}", "--client-cert-auth"]
    etcd = host.start(argv, tmp_path / "log")
    try:
        why = refused(world, f"--etcd-endpoints={url}", f"--etcd-cafile={tls.stranger}")
        assert why.startswith(f"etcd at {url}: certificate verify failed: ")
        why = refused(world, f"--etcd-endpoints={url}", f"--etcd-cafile={tls.ca}")
        assert why.startswith(f"etcd at {url}: asks for a client certificate, or does not accept ours: ")
    finally:
        etcd.kill()
        etcd.wait()


# It may read a checkout that is root's own, as the tests' may be.
NOBODY = "setpriv --reuid nobody --regid nogroup --clear-groups --inh-caps +dac_override --ambient-caps +dac_override"


@pytest.mark.parametrize("before", [NOBODY, "setpriv --bounding-set=-net_admin"], ids=["nobody", "root without the capability"])
def test_who_may_not_configure_the_network_is_told_so(world: World, before: str) -> None:
    why = world.start("h1", before=before.split()).fails()
    assert why.startswith("user id ")
    assert why.endswith("may not configure the network, expected root or CAP_NET_ADMIN")
    assert nothing_is_left(world)


def test_a_vni_that_another_device_has(world: World) -> None:
    host = world.lab.host("h1")
    run(host, "ip link add other type vxlan id 1 dstport 8472 local 10.0.0.11 dev eth0")
    try:
        assert "other has VNI 1 on port 8472 already" in refused(world)
    finally:
        run(host, "ip link del other")


def test_udp_with_ipv6() -> None:
    dual = {**NETWORK, "EnableIPv6": True, "IPv6Network": "fd00:244::/48", "Backend": {"Type": "udp"}}
    with flanneld_world(network=dual, ipv6=True) as world:
        assert refused(world) == "Backend.Type: udp carries IPv4 only, expected EnableIPv4 true and EnableIPv6 false"


def test_a_family_that_the_uplink_does_not_have(world: World) -> None:
    world.configure({**NETWORK, "EnableIPv6": True, "IPv6Network": "fd00:244::/48"})
    assert "IPv6" in refused(world)


def test_host_gw_behind_a_nat(world: World) -> None:
    world.configure({**NETWORK, "Backend": {"Type": "host-gw"}})
    why = refused(world, "--iface=eth0", "--public-ip=192.0.2.1")
    assert why == "host-gw: public IP 192.0.2.1 is not an address of eth0 (10.0.0.11/24); behind a NAT, use vxlan or udp"


def test_an_unknown_key_is_a_warning(world: World) -> None:
    world.configure({**NETWORK, "Netwrok": 1, "Backend": {"Type": "vxlan", "Colour": "red"}})
    flanneld = world.start("h1").ready()
    warnings = [line["warning"] for line in flanneld.said("network config")]
    assert warnings == ["Netwrok: unknown key, ignored", "Backend.colour: unknown key for backend type vxlan, ignored"]


def test_a_missing_network_config_is_waited_for_and_said_once(world: World) -> None:
    world.etcd.delete(f"{PREFIX}/config")
    flanneld = world.start("h1")
    why = flanneld.await_said("waiting for network config")["why"]
    assert why == "etcd has no network config: expected JSON under the key /coreos.com/network/config"
    read = world.etcd.reads()
    eventually(lambda: world.etcd.reads() > read + 2, "two more questions")
    assert sorted(line["event"] for line in flanneld.lines()) == ["CNI is served", "waiting for network config"]
    world.configure(NETWORK)
    flanneld.ready()
    assert len(flanneld.said("waiting for network config")) == 1


def test_an_exhausted_pool_is_waited_for_and_said_once(world: World) -> None:
    world.configure(SMALL)
    world.etcd.put_all({f"{PREFIX}/subnets/{key}": value for key, value in ALL_OF_SMALL.items()})
    flanneld = world.start("h1")
    why = flanneld.await_said("waiting for a subnet")["why"]
    assert why == "no free /30 left from 10.244.0.4/30 to 10.244.0.12/30: all 3 subnets are leased"
    read = world.etcd.reads()
    eventually(lambda: world.etcd.reads() > read + 1, "another try")
    world.etcd.delete(f"{PREFIX}/subnets/10.244.0.8-30")
    flanneld.ready()
    assert "FLANNEL_SUBNET=10.244.0.9/30" in subnet_env(world.lab.host("h1"))
    assert len(flanneld.said("waiting for a subnet")) == 1


def test_who_stops_waiting_for_a_subnet_leaves_nothing(world: World) -> None:
    world.configure(SMALL)
    world.etcd.put_all({f"{PREFIX}/subnets/{key}": value for key, value in ALL_OF_SMALL.items()})
    flanneld = world.start("h1")
    flanneld.await_said("waiting for a subnet")
    assert flanneld.end() == 0
    assert not traces(world.lab.host("h1"))
    assert {key: found.value for key, found in world.etcd.keys().items()} == ALL_OF_SMALL


GARBAGE = {
    "rubbish": "{}",
    "10.244.300.0-24": vxlan_lease("10.0.0.31", "0e:00:00:00:00:31"),
    "10.244.32.1-24": vxlan_lease("10.0.0.32", "0e:00:00:00:00:32"),
    "0.0.0.0-0": vxlan_lease("10.0.0.33", "0e:00:00:00:00:33"),
    "10.244.34.0-24": "{",
    "10.244.35.0-24": "",
    "10.244.36.0-24": '{"PublicIP":"10.0.0.300"}',
    "10.244.37.0-24": "[" * 100_000,
    "10.244.38.0-24/more": vxlan_lease("10.0.0.38", "0e:00:00:00:00:38"),
}


def test_a_key_with_garbage_in_it_is_named_once_and_keeps_nobody_from_being_ready(world: World) -> None:
    world.etcd.put_all({f"{PREFIX}/subnets/{key}": value for key, value in GARBAGE.items()})
    world.etcd.put(f"{PREFIX}/subnets/10.244.9.0-24", vxlan_lease("10.0.0.12", "0e:00:00:00:00:02"))
    flanneld = world.start("h1").ready()
    host = world.lab.host("h1")
    assert vxlan_entries(host) == peer_entries("10.244.9.0", "10.0.0.12", "0e:00:00:00:00:02")
    world.etcd.put(f"{PREFIX}/subnets/10.244.8.0-24", vxlan_lease("10.0.0.13", "0e:00:00:00:00:03"))
    eventually(lambda: len(vxlan_entries(host)) == 6, "the second peer")
    assert sorted(line["key"] for line in flanneld.said("lease ignored")) == sorted(f"{PREFIX}/subnets/{key}" for key in GARBAGE)


NO_MAC = "expected six octets as aa:bb:cc:dd:ee:ff"
UNUSABLE = {
    "10.244.41.0-24": ('{"PublicIP":"10.0.0.41","BackendType":"vxlan"}', f"published VtepMAC None, {NO_MAC}"),
    "10.244.42.0-24": (vxlan_lease("10.0.0.42", "not a MAC"), f"published VtepMAC 'not a MAC', {NO_MAC}"),
    "10.244.43.0-24": (vxlan_lease("10.0.0.43", "0e:00:00:00:00:43", vni=7), "is on VNI 7, ours is 1"),
    "10.244.44.0-24": ('{"PublicIP":"10.0.0.44","BackendType":"host-gw"}', "speaks host-gw, not vxlan"),
    "10.244.45.0-24": ('{"PublicIP":"10.0.0.45"}', "speaks udp or alloc, not vxlan"),
    "10.99.46.0-24": (vxlan_lease("10.0.0.46", "0e:00:00:00:00:46"), "lies outside the pod network"),
    "10.244.48.0-24": (vxlan_lease("224.0.0.48", "0e:00:00:00:00:48"), "has the public IP 224.0.0.48, expected one host's address"),
}  # fmt: skip


def test_a_peer_that_cannot_be_used_is_named_once_and_the_others_are_programmed(world: World) -> None:
    world.etcd.put_all({f"{PREFIX}/subnets/{key}": value for key, (value, _) in UNUSABLE.items()})
    world.etcd.put(f"{PREFIX}/subnets/10.244.9.0-24", vxlan_lease("10.0.0.12", "0e:00:00:00:00:02"))
    flanneld = world.start("h1")
    host = world.lab.host("h1")
    eventually(lambda: vxlan_entries(host) == peer_entries("10.244.9.0", "10.0.0.12", "0e:00:00:00:00:02"), "the good peer")
    eventually(lambda: len(flanneld.said("peer refused")) == len(UNUSABLE), "a line for each")
    named = {line["peer"]: line["why"] for line in flanneld.said("peer refused")}
    assert named == {f"{key.replace('-', '/')}": why for key, (_, why) in UNUSABLE.items()}
    flanneld_at_rest(world, flanneld)


def flanneld_at_rest(world: World, flanneld: Flanneld) -> None:
    """It does not turn round and round over what it cannot mend."""
    lines = len(flanneld.lines())
    world.etcd.put(f"{PREFIX}/subnets/10.244.8.0-24", vxlan_lease("10.0.0.13", "0e:00:00:00:00:03"))
    eventually(lambda: len(vxlan_entries(world.lab.host("h1"))) == 6, "one more good peer")
    assert len(flanneld.lines()) <= lines + 1


def test_a_lease_over_ours_is_named_and_changes_nothing_here(world: World) -> None:
    flanneld = world.start("h1").ready()
    own = ip_network(f"{own_subnet(flanneld.host)}/24")
    around = own.supernet()
    world.etcd.put(f"{PREFIX}/subnets/{around.network_address}-23", vxlan_lease("10.0.0.12", "0e:00:00:00:00:02"))
    refusal = flanneld.await_said("peer refused")
    assert (refusal["peer"], refusal["why"]) == (str(around), f"overlaps our own subnet {own}")
    assert not vxlan_entries(flanneld.host)
    assert readyz(flanneld.host) == (200, "flanneld is ready")


def test_tartan_leases_names_garbage_and_shows_the_rest_as_it_is(world: World) -> None:
    strange = '{"PublicIP":"10.0.0.9","BackendType":"[red]","BackendData":{"VtepMAC":"[bold]"}}'
    world.etcd.put_all({f"{PREFIX}/subnets/rubbish": "{}", f"{PREFIX}/subnets/10.244.9.0-24": strange})
    shown = world.lab.host("h1").run(["tartan", "leases"])
    assert f"key={PREFIX}/subnets/rubbish" in shown.stderr
    assert len(shown.stderr.splitlines()) == 1
    for word in ("10.244.9.0/24", "[red]", '{"VtepMAC":"[bold]"}', "reserved", "1 leases"):
        assert word in shown.stdout
    unreachable = world.lab.host("h1").run(["tartan", "leases", "--etcd-endpoints=http://10.0.0.1:9"], check=False)
    assert (unreachable.returncode, unreachable.stderr) == (1, "tartan: etcd at http://10.0.0.1:9: connection refused\n")
