"""A first start: what flanneld writes into etcd, the kernel and subnet.env, what it takes over, and when it is ready."""

from __future__ import annotations

import json
import socket
import stat
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from flanneld_world import (
    NETWORK,
    PREFIX,
    World,
    eventually,
    flanneld_world,
    hostgw_lease,
    own_subnet,
    peer_entries,
    readyz,
    run,
    show,
    subnet_env,
    vxlan_entries,
    vxlan_lease,
    write_file,
)
from lab.daemon import PROGRAM
from lab.pods import SUBNET_FILE

STRANGER = "10.0.1.99"
"""On no segment of the lab."""


@pytest.fixture
def world() -> Iterator[World]:
    with flanneld_world(hosts=2) as up:
        yield up


def configured(backend: str) -> dict[str, object]:
    return {**NETWORK, "Backend": {"Type": backend}}


def previous(subnet: str) -> str:
    """A subnet.env that an earlier run left."""
    return f"FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET={subnet}\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n"


@pytest.mark.parametrize(("backend", "mtu"), [("vxlan", 1450), ("host-gw", 1500), ("udp", 1472), ("alloc", 1500)])
def test_subnet_env_key_and_value_are_flannels_byte_for_byte(world: World, backend: str, mtu: int) -> None:
    world.configure(configured(backend))
    world.start("h1").ready()
    host = world.lab.host("h1")
    subnet = own_subnet(host)
    assert subnet_env(host) == (
        f"FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET={subnet[:-1]}1/24\nFLANNEL_MTU={mtu}\nFLANNEL_IPMASQ=true\n"
    )
    mac = show(host, "ip link show flannel.1")[0]["address"] if backend == "vxlan" else ""
    value = {
        "vxlan": f',"BackendType":"vxlan","BackendData":{{"VNI":1,"VtepMAC":"{mac}"}}',
        "host-gw": ',"BackendType":"host-gw"',
    }.get(backend, "")
    ((name, key),) = world.etcd.keys().items()
    assert name == f"{subnet}-24"
    assert key.value == f'{{"PublicIP":"10.0.0.11","PublicIPv6":null{value}}}'
    assert 86300 < world.etcd.ttl_s(key.lease) <= 86400


def test_the_file_is_everybodys_to_read_and_its_directory_too(world: World) -> None:
    world.start("h1").ready()
    modes = world.lab.host("h1").call(lambda: [stat.S_IMODE(path.stat().st_mode) for path in (SUBNET_FILE, SUBNET_FILE.parent)])
    assert modes == [0o644, 0o755]


def test_both_families_are_one_lease() -> None:
    dual = {**NETWORK, "EnableIPv6": True, "IPv6Network": "fd00:244::/48"}
    with flanneld_world(network=dual, ipv6=True) as world:
        world.start("h1").ready()
        host = world.lab.host("h1")
        macs = [show(host, f"ip link show {name}.1")[0]["address"] for name in ("flannel", "flannel-v6")]
        ((name, key),) = world.etcd.keys().items()
        v6 = next(line for line in subnet_env(host).splitlines() if "IPV6_SUBNET" in line).partition("=")[2]
        assert name == f"{own_subnet(host)}-24&{v6.replace('::1/', '::-')}"
        assert key.value == (
            '{"PublicIP":"10.0.0.11","PublicIPv6":"fd00:10::11","BackendType":"vxlan",'
            f'"BackendData":{{"VNI":1,"VtepMAC":"{macs[0]}"}},"BackendV6Data":{{"VNI":1,"VtepMAC":"{macs[1]}"}}}}'
        )
        assert subnet_env(host).splitlines()[2:] == [
            "FLANNEL_IPV6_NETWORK=fd00:244::/48", f"FLANNEL_IPV6_SUBNET={v6}", "FLANNEL_MTU=1430", "FLANNEL_IPMASQ=true",
        ]  # fmt: skip


def test_the_lease_of_our_public_ip_is_taken_up_again(world: World) -> None:
    world.etcd.put(f"{PREFIX}/subnets/10.244.9.0-24", vxlan_lease("10.0.0.11", "0e:00:00:00:00:01"))
    world.start("h1").ready()
    assert own_subnet(world.lab.host("h1")) == "10.244.9.0"
    assert list(world.etcd.keys()) == ["10.244.9.0-24"]


def test_a_lease_that_was_about_to_end_has_a_whole_day_again(world: World) -> None:
    short = world.etcd.grant(60)
    world.etcd.put(f"{PREFIX}/subnets/10.244.9.0-24", vxlan_lease("10.0.0.11", "0e:00:00:00:00:01"), short)
    world.start("h1").ready()
    assert world.etcd.ttl_s(world.etcd.keys()["10.244.9.0-24"].lease) > 86300


def test_a_reservation_stays_one_and_gets_our_attributes(world: World) -> None:
    world.etcd.put(f"{PREFIX}/subnets/10.244.9.0-24", '{"PublicIP":"10.0.0.11"}')
    world.start("h1").ready()
    mac = show(world.lab.host("h1"), "ip link show flannel.1")[0]["address"]
    key = world.etcd.keys()["10.244.9.0-24"]
    assert (key.lease, key.value) == (0, vxlan_lease("10.0.0.11", mac))


def test_the_subnet_of_an_earlier_run_is_preferred(world: World) -> None:
    write_file(world.lab.host("h1"), SUBNET_FILE, previous("10.244.77.1/24"))
    world.start("h1").ready()
    assert own_subnet(world.lab.host("h1")) == "10.244.77.0"


@pytest.mark.parametrize("subnet", ["10.244.77.1/24", "10.99.1.1/24", "10.244.77.1/25"], ids=["taken", "of another network", "odd"])
def test_an_earlier_subnet_that_cannot_be_had_is_let_go(world: World, subnet: str) -> None:
    world.etcd.put(f"{PREFIX}/subnets/10.244.77.0-24", vxlan_lease("10.0.0.99", "0e:00:00:00:00:63"))
    write_file(world.lab.host("h1"), SUBNET_FILE, previous(subnet))
    world.start("h1").ready()
    assert own_subnet(world.lab.host("h1")) != "10.244.77.0"
    assert own_subnet(world.lab.host("h1")).startswith("10.244.")


def test_the_vxlan_device_is_flannels(world: World) -> None:
    world.start("h1").ready()
    host = world.lab.host("h1")
    (link,) = show(host, "ip addr show flannel.1")
    assert (link["mtu"], link["operstate"], link["flags"]) == (1450, "UNKNOWN", ["BROADCAST", "MULTICAST", "UP", "LOWER_UP"])
    assert [(a["local"], a["prefixlen"], a["scope"]) for a in link["addr_info"] if a["family"] == "inet"] == [
        (own_subnet(host), 32, "global")
    ]
    data = link["linkinfo"]["info_data"]
    assert link["linkinfo"]["info_kind"] == "vxlan"
    wanted = {"id": 1, "port": 8472, "local": "10.0.0.11", "link": "eth0", "learning": False, "udp_csum": True}
    assert {key: data.get(key) for key in wanted} == wanted
    assert "group" not in data
    assert not data.get("gbp")
    assert int(link["address"][:2], 16) & 3 == 2, "expected a locally administered unicast address"


def test_a_vxlan_peer_is_a_neighbour_an_fdb_entry_and_an_onlink_route(world: World) -> None:
    """anchors/flannel.md 3.2."""
    world.etcd.put(f"{PREFIX}/subnets/10.244.9.0-24", vxlan_lease("10.0.0.12", "0e:00:00:00:00:02"))
    world.start("h1").ready()
    host = world.lab.host("h1")
    assert vxlan_entries(host) == peer_entries("10.244.9.0", "10.0.0.12", "0e:00:00:00:00:02")
    (fdb,) = show(host, "bridge fdb show dev flannel.1")
    assert fdb["flags"] == ["self"]
    (route,) = show(host, "ip route show 10.244.9.0/24")
    assert (route["protocol"], route["scope"], route.get("metric")) == ("84", "global", None)


def test_a_host_gw_peer_is_a_route(world: World) -> None:
    world.configure(configured("host-gw"))
    world.etcd.put(f"{PREFIX}/subnets/10.244.9.0-24", hostgw_lease("10.0.0.12"))
    world.start("h1").ready()
    assert run(world.lab.host("h1"), "ip route show proto 84").strip() == "10.244.9.0/24 via 10.0.0.12 dev eth0"


def test_udp_makes_a_tun_that_takes_the_pod_network(world: World) -> None:
    """anchors/flannel.md 3.4."""
    world.configure(configured("udp"))
    world.start("h1").ready()
    host = world.lab.host("h1")
    (link,) = show(host, "ip -4 addr show flannel0")
    assert (link["mtu"], link["addr_info"][0]["local"], link["addr_info"][0]["prefixlen"]) == (1472, own_subnet(host), 32)
    assert run(host, "ip route show 10.244.0.0/16").split()[:3] == ["10.244.0.0/16", "dev", "flannel0"]


def test_alloc_touches_no_interface_and_no_route(world: World) -> None:
    world.configure(configured("alloc"))
    world.etcd.put(f"{PREFIX}/subnets/10.244.9.0-24", '{"PublicIP":"10.0.0.12","PublicIPv6":null}')
    before = [run(world.lab.host("h1"), line) for line in ("ip link", "ip route show table all")]
    world.start("h1").ready()
    assert before == [run(world.lab.host("h1"), line) for line in ("ip link", "ip route show table all")]


def test_a_hundred_peers_are_programmed_before_it_is_ready(world: World) -> None:
    peers = {f"10.244.{n}.0": (f"10.0.0.{n}", f"0e:00:00:00:00:{n:02x}") for n in range(100, 200)}
    world.etcd.put_all({f"{PREFIX}/subnets/{subnet}-24": vxlan_lease(*peer) for subnet, peer in peers.items()})
    began = time.monotonic()
    flanneld = world.start("h1")
    host = world.lab.host("h1")
    eventually(lambda: subnet_env(host), "subnet.env")
    wrote_s = time.monotonic() - began
    flanneld.ready()
    ready_s = time.monotonic() - began
    assert vxlan_entries(host) == set().union(*(peer_entries(subnet, *peer) for subnet, peer in peers.items()))
    assert not [line for line in flanneld.lines() if line["level"] != "info"]
    print(f"100 leases: subnet.env after {wrote_s:.2f} s, ready after {ready_s:.2f} s, RSS {flanneld.rss_mib():.0f} MiB")
    assert ready_s < 5


def test_it_is_alive_at_once_and_ready_when_the_peers_are_programmed(world: World) -> None:
    world.configure(configured("host-gw"))
    world.etcd.put(f"{PREFIX}/subnets/10.244.9.0-24", hostgw_lease(STRANGER))
    flanneld = world.start("h1")
    host = world.lab.host("h1")
    eventually(lambda: readyz(host, path="/healthz") == (200, "flanneld is running"), "/healthz")
    flanneld.await_said("peer refused")
    status, text = readyz(host)
    assert status == 503
    assert f"peers: peer 10.244.9.0/24 at {STRANGER} is not on the segment of eth0" in text
    assert subnet_env(host)
    world.etcd.delete(f"{PREFIX}/subnets/10.244.9.0-24")
    eventually(lambda: readyz(host) == (200, "flanneld is ready"), "/readyz")


def test_before_the_lease_readyz_says_what_is_missing(world: World) -> None:
    world.etcd.delete(f"{PREFIX}/config")
    flanneld = world.start("h1")
    flanneld.await_said("waiting for network config")
    status, text = readyz(world.lab.host("h1"))
    assert (status, text.splitlines()[1]) == (503, "network config: not yet")


def test_the_service_manager_hears_ready_once_peers_are_programmed_and_stopping_at_the_end(world: World, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.setblocking(False)
        world.configure(configured("host-gw"))
        world.etcd.put(f"{PREFIX}/subnets/10.244.9.0-24", hostgw_lease(STRANGER))
        flanneld = world.start("h1", environ={"NOTIFY_SOCKET": str(tmp_path / "notify")})
        flanneld.await_said("peer refused")
        with pytest.raises(BlockingIOError):
            manager.recv(100)
        manager.settimeout(10)
        world.etcd.delete(f"{PREFIX}/subnets/10.244.9.0-24")
        assert manager.recv(100) == b"READY=1"
        assert flanneld.end() == 0
        assert manager.recv(100) == b"STOPPING=1"


def test_variables_are_flags_and_flags_go_before_variables(world: World) -> None:
    world.configure(NETWORK, "/other")
    variables = {"ETCD_PREFIX": "/other", "SUBNET_FILE": "/run/from/a/variable", "IFACE": "eth0", "PUBLIC_IP": "10.0.0.99"}
    environ = {f"FLANNELD_{name}": value for name, value in variables.items()}
    world.start("h1", "-public-ip", "10.0.0.77", environ=environ).ready()
    (key,) = world.etcd.keys("/other/subnets/").values()
    assert json.loads(key.value)["PublicIP"] == "10.0.0.77"
    assert world.lab.host("h1").call(Path("/run/from/a/variable").exists)


@pytest.mark.parametrize(
    ("argv", "code", "says"),
    [
        (["-version"], 0, "tartan 0."),
        (["--version=true"], 0, "tartan 0."),
        (["-h"], 0, "Usage: flanneld"),
        (["--no-such-flag"], 2, "flag provided but not defined: -no-such-flag"),
        (["extra"], 2, "unexpected argument 'extra'"),
        (["-healthz-port", "70000"], 2, "healthz-port"),
        (["--ip-masq=perhaps"], 2, "expected true or false"),
        (["--subnet-lease-renew-margin=1440"], 2, "1 to 1439"),
        (["--etcd-endpoints=ftp://10.0.0.1"], 2, "expected http://host:port or https://host:port, got 'ftp://10.0.0.1'"),
        (["-iface"], 2, "flag needs an argument: -iface"),
    ],
)
def test_the_command_line_is_checked_before_anything_is_touched(argv: list[str], code: int, says: str) -> None:
    done = subprocess.run([*PROGRAM, *argv], capture_output=True, text=True, check=False, env={"PATH": ""})
    assert (done.returncode, done.stdout) == (code, "")
    assert says in done.stderr
    assert "Traceback" not in done.stderr
