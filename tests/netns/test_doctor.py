"""`tartan doctor` says what is wrong: one thing is broken at a time, and it is that thing which is told."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from etcd_server import etcd_server, make_certificates
from flanneld.flags import Options
from flanneld_world import (
    NETWORK,
    PREFIX,
    World,
    eventually,
    flanneld_world,
    hostgw_lease,
    own_subnet,
    run,
    show,
    subnet_env,
    vxlan_lease,
    write_file,
)
from lab.pods import SUBNET_FILE, LabHost
from tartan.checks.store import ask_members

PROGRAM = (sys.executable, "-P", "-m", "tartan", "doctor")
FLAGS = ("--ip-masq", "--iface=eth0")


@dataclass(frozen=True)
class Said:
    """What doctor found, and its exit code."""

    code: int
    findings: list[dict[str, str]]

    def of(self, *levels: str) -> list[str]:
        return [f"{found['subject']}: {found['what']}" for found in self.findings if found["level"] in levels]

    @property
    def wrong(self) -> list[str]:
        return self.of("error", "warning", "unknown")


def doctor(host: LabHost, *flags: str) -> Said:
    ended = host.run([*PROGRAM, "-o", "json", *flags], check=False)
    assert ended.returncode in (0, 1, 2), ended.stderr
    assert not ended.stderr
    return Said(ended.returncode, [json.loads(line) for line in ended.stdout.splitlines()])


@pytest.fixture(scope="module")
def two() -> Iterator[World]:
    """Two hosts with a pod each; all is well."""
    with flanneld_world(2) as world:
        for flanneld in [world.start(name) for name in ("h1", "h2")]:
            flanneld.ready()
        for name in ("h1", "h2"):
            world.lab.host(name).pod("p1")
        eventually(lambda: doctor(world.lab.host("h1")).code == 0, "a whole world")
        yield world


@pytest.fixture(scope="module")
def unattended(two: World) -> World:
    """The same with h1's flanneld dead, so that nobody repairs what tests break, and put right themselves."""
    two.daemons[0].end(signal.SIGKILL)
    return two


@pytest.fixture
def world() -> Iterator[World]:
    with flanneld_world() as up:
        yield up


def test_a_whole_host_is_well_and_its_flanneld_says_the_flags(two: World) -> None:
    said = doctor(two.lab.host("h1"))
    assert (said.code, said.wrong) == (0, [])
    assert "etcd: 1 of 1 members answer: http://10.0.0.1:2379" in said.of("ok")
    assert {found["subject"] for found in said.findings} >= {
        "flanneld", "health", "cni", "etcd", "network config", "leases", "lease", "uplink", "device", "published", "peers",
        "host", "rules", "mtu", "reach",
    }  # fmt: skip


def test_people_get_a_table_and_what_to_do_about_what_is_wrong(two: World) -> None:
    host = two.lab.host("h1")
    assert host.run(PROGRAM).stdout.endswith("nothing is wrong\n")
    run(host, "sysctl -w net.ipv4.ip_forward=0")
    ended = host.run([*PROGRAM, "-iface=eth0"], check=False)
    run(host, "sysctl -w net.ipv4.ip_forward=1")
    assert ended.returncode == 1
    assert "WRONG: host: net.ipv4.ip_forward is 0: no packet of a pod is forwarded" in ended.stdout
    assert "    shown by: sysctl net.ipv4.ip_forward\n    what to do: sysctl -w net.ipv4.ip_forward=1" in ended.stdout


PEER_ROUTE = "{subnet}/24 via {subnet} dev flannel.1 onlink proto 84"
FDB = "{mac} dev flannel.1 dst 10.0.0.12"
BREAKS = {
    "route missing": (f"ip route del {PEER_ROUTE}", f"ip route add {PEER_ROUTE}", "no route to {subnet}/24; its lease says"),
    "route changed": (
        "ip route replace {subnet}/24 via 10.0.0.1 proto 84",
        f"ip route replace {PEER_ROUTE}",
        "route to {subnet}/24 leads to via 10.0.0.1 dev eth0; its lease says it should lead to via {subnet} dev flannel.1",
    ),
    "route stale": (
        "ip route add 10.244.222.0/24 via 10.0.0.99 proto 84",
        "ip route del 10.244.222.0/24",
        "stale route to 10.244.222.0/24, which leads to via 10.0.0.99 dev eth0",
    ),
    "neighbour missing": (
        "ip neigh del {subnet} dev flannel.1",
        "ip neigh replace {subnet} lladdr {mac} dev flannel.1 nud permanent",
        "no neighbour entry for {subnet} on flannel.1; its lease says it should lead to {mac}",
    ),
    "fdb missing": (f"bridge fdb del {FDB}", f"bridge fdb add {FDB}", "no FDB entry for {mac} on flannel.1; its lease says it"),
    "fdb changed": (
        "bridge fdb replace {mac} dev flannel.1 dst 10.0.0.77",
        f"bridge fdb replace {FDB}",
        "FDB entry for {mac} on flannel.1 leads to 10.0.0.77; its lease says it should lead to 10.0.0.12",
    ),
    "device mtu": (
        "ip link set flannel.1 mtu 1400",
        "ip link set flannel.1 mtu 1450",
        "flannel.1 is not as it should be: MTU 1400 -> 1450",
    ),
    "forwarding": ("sysctl -w net.ipv4.ip_forward=0", "sysctl -w net.ipv4.ip_forward=1", "no packet of a pod is forwarded"),
    "rules": (
        "nft add rule ip flannel-ipv4 forward drop",
        "nft flush chain ip flannel-ipv4 forward",
        "flanneld would do this: nftables table ip flannel-ipv4: replace",
    ),
    "foreign policy": (
        "iptables -P FORWARD DROP",
        "iptables -P FORWARD ACCEPT",
        "the policy of FORWARD is DROP, and no rule of it",
    ),
    "foreign chain": (
        "nft add table inet fw ; add chain inet fw f { type filter hook forward priority 0 ; policy drop ; }",
        "nft delete table inet fw",
        "chain f of table inet fw drops what none of its own rules accepts",
    ),
    "pod mtu": ("ip link set {port} mtu 1500", "ip link set {port} mtu 1450", "1 of 1 pods send packets of more than 1450 bytes"),
    "port filtered": (
        "nft add table ip b ; add chain ip b o { type filter hook output priority 0; }; add rule ip b o udp dport 8472 drop",
        "nft delete table ip b",
        "answers at 10.0.0.12, but not at {subnet} through the overlay",
    ),
}


@pytest.mark.parametrize("name", BREAKS)
def test_what_is_broken_in_the_kernel_is_told(unattended: World, name: str) -> None:
    host = unattended.lab.host("h1")
    (port,) = (link["ifname"] for link in show(host, "ip link show master cni0"))
    (fdb,) = show(host, "bridge fdb show dev flannel.1")
    words = {"subnet": own_subnet(unattended.lab.host("h2")), "mac": fdb["mac"], "port": port}
    damage, repair, told = BREAKS[name]
    rules = run(host, "nft -s list table ip flannel-ipv4")
    run_words(host, damage, words)
    try:
        said = doctor(host, *FLAGS, f"--etcd-endpoints={unattended.lab.etcd_url}")
    finally:
        run_words(host, repair, words)
        if name == "rules":
            host.run(["nft", "-f", "-"], stdin=f"delete table ip flannel-ipv4\n{rules}")
    expected = told.format(**words)
    assert any(expected in line for line in said.wrong), said.wrong
    assert said.of("error")[0].startswith("flanneld: does not run")
    unasked = ("flanneld:", "reach:", "peers:" if "fdb" in name else "flanneld:")
    assert [line for line in said.wrong if expected not in line and not line.startswith(unasked)] == []


def run_words(host: LabHost, line: str, words: dict[str, str]) -> None:
    """Braces of nft's are left alone."""
    for key, value in words.items():
        line = line.replace(f"{{{key}}}", value)
    program, *arguments = line.split()
    host.run([program, " ".join(arguments)] if program == "nft" else [program, *arguments])


def test_a_device_that_is_gone_is_told_once(world: World) -> None:
    host = world.start("h1").ready().host
    for number in range(20, 40):
        world.etcd.put(f"{PREFIX}/subnets/10.244.{number}.0-24", vxlan_lease(f"10.0.0.{number}", f"0e:00:00:00:00:{number}"))
    world.daemons[0].end()
    run(host, "ip link del flannel.1")
    said = doctor(host, f"--etcd-endpoints={world.lab.etcd_url}", "--ip-masq")
    assert "device: flannel.1 does not exist" in said.wrong
    assert [line for line in said.wrong if line.startswith("peers:")] == ["peers: 60 entries have no device to be on"]


def test_what_is_wrong_with_leases_is_told(world: World) -> None:
    flanneld = world.start("h1").ready()
    flanneld.process.send_signal(signal.SIGSTOP)
    mine = own_subnet(flanneld.host)
    world.etcd.put(f"{PREFIX}/subnets/10.244.20.0-24", vxlan_lease("10.0.0.20", "0e:00:00:00:00:20"))
    world.etcd.put(f"{PREFIX}/subnets/10.244.20.0-23", hostgw_lease("10.0.0.21"))
    world.etcd.put(f"{PREFIX}/subnets/10.244.30.0-24", "garbage")
    world.etcd.put(f"{PREFIX}/subnets/10.99.0.0-24", hostgw_lease("10.0.0.22"))
    world.etcd.put(f"{PREFIX}/subnets/{mine}-24", hostgw_lease("10.0.0.99"))
    wrong = doctor(flanneld.host, "--healthz-port=0").wrong
    assert "leases: 10.244.20.0/24 of 10.0.0.20 overlaps 10.244.20.0/23 of 10.0.0.21" in wrong or (
        "leases: 10.244.20.0/23 of 10.0.0.21 overlaps 10.244.20.0/24 of 10.0.0.20" in wrong
    )
    assert any(line.startswith("leases: cannot be read: lease '10.244.30.0-24'") for line in wrong)
    assert f"lease: {mine}/24, which pods here use, is leased by 10.0.0.99: two hosts have one subnet" in wrong
    assert any("10.0.0.21" in line and "speaks host-gw, this host vxlan" in line for line in wrong)
    world.etcd.delete(f"{PREFIX}/subnets/{mine}-24")
    assert f"lease: no lease carries our public IP 10.0.0.11, and pods here use {mine}/24" in doctor(flanneld.host).wrong


def test_a_lease_that_is_not_renewed_is_told(world: World) -> None:
    flanneld = world.start("h1").ready()
    flanneld.process.send_signal(signal.SIGSTOP)
    ((key, held),) = world.etcd.keys().items()
    world.etcd.put(f"{PREFIX}/subnets/{key}", held.value, world.etcd.grant(1200))
    assert any("and is not renewed" in line for line in doctor(flanneld.host, "--healthz-port=0").wrong)
    world.etcd.put(f"{PREFIX}/subnets/{key}", held.value)
    assert "lease: is a reservation: it never expires" in doctor(flanneld.host, "--healthz-port=0").of("ok")


def test_a_mac_that_is_not_the_published_one_is_told(world: World) -> None:
    flanneld = world.start("h1").ready()
    flanneld.end()
    ((key, held),) = world.etcd.keys().items()
    run(flanneld.host, "ip link set flannel.1 address 0e:00:00:00:00:99")
    wrong = doctor(flanneld.host, f"--etcd-endpoints={world.lab.etcd_url}", "--ip-masq").wrong
    (told,) = (line for line in wrong if line.startswith("published:"))
    assert '"VtepMAC":"0e:00:00:00:00:99"' in told
    assert held.lease
    assert key == own_subnet(flanneld.host) + "-24"


def test_what_is_wrong_with_subnet_env_is_told(world: World) -> None:
    flanneld = world.start("h1").ready()
    flanneld.end()
    text, flags = subnet_env(flanneld.host), (f"--etcd-endpoints={world.lab.etcd_url}", "--ip-masq")
    write_file(flanneld.host, SUBNET_FILE, text.replace("1450", "1500"))
    expected = "mtu: subnet.env says 1500 bytes, the way to other hosts carries 1450: larger packets are lost"
    assert expected in doctor(flanneld.host, *flags).wrong
    write_file(flanneld.host, SUBNET_FILE, text.replace(own_subnet(flanneld.host)[:-1], "10.244.254."))
    assert any("subnet.env says 10.244.254.0/24, our lease is" in line for line in doctor(flanneld.host, *flags).wrong)
    flanneld.host.call(SUBNET_FILE.unlink)
    assert f"lease: {SUBNET_FILE} is not there: no pod can start" in doctor(flanneld.host, *flags).wrong


def test_a_network_config_that_is_wrong_is_told(world: World) -> None:
    host = world.lab.host("h1")
    flags = (f"--etcd-endpoints={world.lab.etcd_url}", "--etcd-prefix=/other")
    assert "network config: there is none under the key /other/config" in doctor(host, *flags).wrong
    world.configure('{"Network": "10.244.0.0/33"}', "/other")
    assert any("network config: Network: please define a correct Network" in line for line in doctor(host, *flags).wrong)
    world.configure({**NETWORK, "Subnetlength": 24, "Backend": {"Type": "vxlan", "VNY": 3}}, "/other")
    told = doctor(host, *flags).of("warning")
    assert "network config: Subnetlength: unknown key, ignored" in told
    assert "network config: Backend.vny: unknown key for backend type vxlan, ignored" in told


def test_etcd_that_does_not_answer_is_told_and_the_host_is_looked_at_all_the_same(world: World) -> None:
    host = world.start("h1").ready().host
    run(host, "nft delete table ip flannel-ipv4")
    run(host, "sysctl -w net.ipv4.ip_forward=0")
    said = doctor(host, "--etcd-endpoints=http://10.0.0.1:1")
    assert said.code == 1
    assert "etcd: no member answers: etcd at http://10.0.0.1:1: connection refused" in said.wrong
    assert any("no packet of a pod is forwarded" in line for line in said.wrong)
    said = doctor(host, f"--etcd-endpoints=http://10.0.0.1:1,{world.lab.etcd_url}")
    assert "etcd: a member does not answer: etcd at http://10.0.0.1:1: connection refused" in said.of("warning")


def test_a_member_with_another_certificate_is_told(tmp_path: Path) -> None:
    made = make_certificates(tmp_path)
    with etcd_server(tmp_path, certificates=made, client_certificates=True) as server:
        plain = replace(Options(), etcd_endpoints=(server.endpoint,))
        certified = replace(plain, etcd_certfile=str(made.client), etcd_keyfile=str(made.client_key))
        for told, options in {
            "": replace(certified, etcd_cafile=str(made.ca)),
            "certificate verify failed": replace(certified, etcd_cafile=str(made.stranger)),
            "asks for a client certificate": replace(plain, etcd_cafile=str(made.ca)),
            "etcd CA file": replace(plain, etcd_cafile="/nowhere"),
            "expected https": replace(plain, etcd_endpoints=(server.endpoint.replace("https", "http"),)),
        }.items():
            (why,) = asyncio.run(ask_members(options)).values()
            assert told in why if told else not why, why


def test_who_may_not_look_is_told_so(world: World) -> None:
    host = world.start("h1").ready().host
    nobody = ["setpriv", "--reuid=65534", "--clear-groups", "--bounding-set=-all"]
    flags = ("-o", "json", f"--etcd-endpoints={world.lab.etcd_url}", "--iface=eth0", "--healthz-port=8471")
    ended = host.run([*nobody, *PROGRAM, *flags], check=False)
    said = Said(ended.returncode, [json.loads(line) for line in ended.stdout.splitlines()])
    assert said.code == 2, [*said.wrong, ended.stderr]
    assert any(line.startswith("rights: cannot be looked at: user id 65534") for line in said.wrong)


@pytest.mark.parametrize("backend", ["host-gw", "udp", "alloc"])
def test_every_backend_can_be_well(backend: str) -> None:
    with flanneld_world(2, {**NETWORK, "Backend": {"Type": backend}}) as world:
        for flanneld in [world.start(name) for name in ("h1", "h2")]:
            flanneld.ready()
        host = world.lab.host("h1")
        said = doctor(host)
        assert (said.code, said.wrong) == (0, [])
        subnet = own_subnet(world.lab.host("h2"))
        world.daemons[0].process.send_signal(signal.SIGSTOP)
        if backend == "host-gw":
            run(host, f"ip route del {subnet}/24")
            assert any(f"no route to {subnet}/24" in line for line in doctor(host, "--healthz-port=0").wrong)
        if backend == "udp":
            run(host, "ip route del 10.244.0.0/16")
            assert any("no route to 10.244.0.0/16" in line for line in doctor(host, "--healthz-port=0").wrong)


def test_iptables_and_dual_stack_can_be_well() -> None:
    network = {**NETWORK, "EnableNFTables": False, "EnableIPv6": True, "IPv6Network": "fd44::/48"}
    with flanneld_world(2, network, ipv6=True) as world:
        for flanneld in [world.start(name) for name in ("h1", "h2")]:
            flanneld.ready()
        host = world.lab.host("h1")
        assert (doctor(host).code, doctor(host).wrong) == (0, [])
        world.daemons[0].process.send_signal(signal.SIGSTOP)
        for damage in ("iptables -F FLANNEL-FWD", "iptables -I FORWARD -j DROP", "nft add table ip flannel-ipv4"):
            run(host, damage)
        run(host, "nft add chain ip flannel-ipv4 forward")
        wrong = doctor(host, "--healthz-port=0").wrong
        assert any("flanneld would do this: iptables: -A FLANNEL-FWD" in line for line in wrong)
        assert "rules: iptables-nft drops packets before our rules: -A FORWARD -j DROP" in wrong
        assert any("left from another kind of firewall: nftables table ip flannel-ipv4" in line for line in wrong)


def test_a_host_is_well_while_another_has_not_changed_over_yet() -> None:
    with flanneld_world(2) as world:
        one, other = [flanneld.ready() for flanneld in [world.start(name) for name in ("h1", "h2")]]
        other.process.send_signal(signal.SIGSTOP)
        world.configure({**NETWORK, "Backend": {"Type": "host-gw"}})
        eventually(lambda: any("host-gw" in key.value for key in world.etcd.keys().values()), "the change")
        eventually(lambda: doctor(one.host).code == 0, f"no complaint: {doctor(one.host).wrong}")
        other.process.send_signal(signal.SIGCONT)
        eventually(lambda: all("host-gw" in key.value for key in world.etcd.keys().values()), "the other's change")
        eventually(lambda: doctor(one.host).code == 0, f"no complaint: {doctor(one.host).wrong}")


def test_a_daemon_that_is_not_ready_says_why_itself(world: World) -> None:
    world.etcd.delete(f"{PREFIX}/config")
    flanneld = world.start("h1")
    flanneld.await_said("waiting for network config")
    said = doctor(flanneld.host)
    assert any(line.startswith("health: flanneld is not ready: network config: not yet") for line in said.wrong)
    assert Path("/run/flannel/cni.sock").name in str(said.of("ok"))
