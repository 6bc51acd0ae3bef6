"""`tartan cleanup` removes what flanneld or Go flannel made on a host, asks before, and touches nothing else."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from flanneld_world import NETWORK, PREFIX, World, flanneld_world, run, show, traces, vxlan_lease, write_file
from lab.pods import LabHost

PROGRAM = (sys.executable, "-P", "-m", "tartan", "cleanup")
ENV = "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.1.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n"

GO_FLANNEL = """
ip link add flannel.1 type vxlan id 1 dstport 8472 local 10.0.0.11 dev eth0 nolearning
ip link set flannel.1 up
ip addr add 10.244.1.0/32 dev flannel.1
ip route add 10.244.2.0/24 via 10.244.2.0 dev flannel.1 onlink
ip neigh add 10.244.2.0 lladdr 0e:00:00:00:00:02 dev flannel.1 nud permanent
bridge fdb add 0e:00:00:00:00:02 dev flannel.1 dst 10.0.0.12
ip tuntap add flannel0 mode tun
ip route add 10.244.3.0/24 via 10.0.0.13
ip route add 10.244.4.0/24 via 10.0.0.14 proto 84
ip route add blackhole 10.244.1.0/24 metric 99 proto 85
nft add table ip flannel-ipv4
nft add chain ip flannel-ipv4 postrtg { type nat hook postrouting priority srcnat ; }
nft add rule ip flannel-ipv4 postrtg ip saddr 10.244.0.0/16 masquerade
nft add table ip6 flannel-ipv6
nft add table ip flannel-ipv4-0a1b2c
"""
IPTABLES = """
{0} -t nat -N FLANNEL-POSTRTG
{0} -t nat -A FLANNEL-POSTRTG -m comment --comment flanneld\tmasq -j MASQUERADE
{0} -t nat -A POSTROUTING -m comment --comment flanneld\tmasq -j FLANNEL-POSTRTG
{0} -N FLANNEL-FWD-0a1b2c
{0} -A FORWARD -m comment --comment flanneld\tforward -j FLANNEL-FWD-0a1b2c
{0} -A FORWARD -m comment --comment flanneld\tforward -j ACCEPT
"""
STRANGERS = """
ip link add flannel.7 type bridge
ip link add mine.1 type vxlan id 77 dstport 4789 local 10.0.0.11 dev eth0
ip link add cni0 type bridge
ip route add 10.99.0.0/24 via 10.0.0.1
ip route add 10.244.0.0/17 via 10.0.0.1
ip route add 10.244.5.0/24 dev eth0
ip route add 10.244.6.0/24 via 10.0.0.16 proto static
nft add table ip flannel-ipv4x
nft add table inet flannel-ipv4
iptables -N FLANNEL-MINE
iptables -A FORWARD -s 10.244.0.0/16 -j ACCEPT
iptables-legacy -A FORWARD -s 10.244.0.0/16 -j ACCEPT
"""


@pytest.fixture
def world() -> Iterator[World]:
    with flanneld_world() as up:
        yield up


def make(host: LabHost, commands: str) -> None:
    """What an earlier flannel, or an administrator, would have typed; a tab stands for a blank inside a word."""
    for line in commands.strip().splitlines():
        host.run([word.replace("\t", " ") for word in line.split(" ")])


def seen(host: LabHost) -> list[str]:
    """All of the host's network, but for iptables' own tables, which stay once somebody has looked at them."""
    commands = ("ip -o -d link", "ip route show table all", "ip neigh", "bridge fdb", "nft list tables")
    lines = "".join(run(host, command) for command in commands).splitlines()
    for program in ("iptables-nft", "ip6tables-nft", "iptables-legacy", "ip6tables-legacy"):
        rules = run(host, f"{program}-save").splitlines()
        lines += [f"{program} {line}" for line in rules if line.startswith("-A") or line.endswith(" - [0:0]")]
    return sorted(line for line in lines if line.split()[-1] not in ("nat", "filter"))


def clean(host: LabHost, *flags: str, answer: str = "", code: int = 0) -> str:
    ended: subprocess.CompletedProcess[str] = host.run([*PROGRAM, *flags], check=False, stdin=answer)
    assert ended.returncode == code, ended.stdout + ended.stderr
    return ended.stdout + ended.stderr


def test_what_go_flannel_made_goes_and_what_others_made_stays(world: World) -> None:
    host = world.lab.host("h1")
    make(host, STRANGERS)
    before = seen(host)
    make(host, GO_FLANNEL)
    for program in ("iptables-nft", "iptables-legacy", "ip6tables-nft"):
        make(host, IPTABLES.format(program))
    write_file(host, Path("/run/flannel/subnet.env"), ENV)
    write_file(host, Path("/run/flannel/wgkey"), "secret")
    said = clean(host, "--yes")
    assert seen(host) == before, said
    assert not host.call(Path("/run/flannel").exists)
    assert "by a neighbour of this host, as Go flannel's host-gw routes do" in said
    assert clean(host, "--yes") == "nothing to remove\n"


def test_what_our_flanneld_left_goes(world: World) -> None:
    host = world.lab.host("h1")
    before = traces(host)
    world.etcd.put(f"{PREFIX}/subnets/10.244.9.0-24", vxlan_lease("10.0.0.99", "0e:00:00:00:00:02"))
    world.start("h1", "--ip-blackhole-route").ready().end(signal.SIGKILL)
    world.configure({**NETWORK, "EnableNFTables": False}, prefix="/another")
    flags = ("--etcd-prefix=/another", "--subnet-file=/run/another/subnet.env", "--cni-socket=")
    world.configure({"Network": "10.32.0.0/16", "EnableNFTables": False, "Backend": {"Type": "vxlan", "VNI": 7}}, prefix="/another")
    world.start("h1", *flags, "--healthz-port=0").ready().end()
    assert {"link flannel.1", "link flannel.7", "subnet.env"} <= traces(host)
    clean(host, "--yes", "--subnet-file=/run/another/subnet.env")
    assert traces(host) <= before
    assert host.call(lambda: list(Path("/run/another").iterdir())) == []


def test_it_asks_and_a_no_changes_nothing(world: World) -> None:
    host = world.lab.host("h1")
    assert clean(host) == "nothing to remove\n"
    make(host, "nft add table ip flannel-ipv4")
    assert "nftables table ip flannel-ipv4\nRemove it? [y/N]" in clean(host, answer="n\n", code=1)
    assert "nftables table ip flannel-ipv4" in clean(host, "--dry-run")
    clean(host, code=1)
    assert "flannel-ipv4" in run(host, "nft list tables")
    clean(host, answer="y\n")
    assert "flannel-ipv4" not in run(host, "nft list tables")


def test_it_refuses_while_a_flanneld_runs(world: World) -> None:
    flanneld = world.start("h1").ready()
    said = clean(flanneld.host, "--yes", code=1)
    assert f"a flanneld runs on this host (process {flanneld.process.pid})" in said
    assert "link flannel.1" in traces(flanneld.host)
    assert "device flannel.1 (vxlan)" in clean(flanneld.host, "--dry-run")
    flanneld.process.send_signal(signal.SIGSTOP)
    clean(flanneld.host, "--yes", "--force")
    assert "link flannel.1" not in traces(flanneld.host)


def test_what_pods_have_stays_unless_it_is_asked_for(world: World) -> None:
    host = world.start("h1").ready().host
    host.pod("p1")
    (flanneld,) = world.daemons
    flanneld.end()
    clean(host, "--yes")
    assert "cni0" in run(host, "ip link")
    said = clean(host, "--yes", "--pods")
    assert "removed attachments of pods (1)" in said
    assert {link["ifname"] for link in show(host, "ip link")} == {"lo", "eth0"}
    assert "tartan-cni" not in run(host, "nft list tables")
    assert host.call(lambda: {path.name for path in Path("/var/lib/cni").iterdir()}) <= {"networks", "results"}
    assert clean(host, "--yes", "--pods") == "nothing to remove\n"


def test_routes_that_an_administrator_made_for_alloc_stay(world: World) -> None:
    world.configure({**NETWORK, "Backend": {"Type": "alloc"}})
    host = world.start("h1").ready().host
    world.daemons[0].end()
    run(host, "ip route add 10.244.250.0/24 via 10.0.0.12")
    clean(host, "--yes")
    assert "10.244.250.0/24" in run(host, "ip route")


def test_a_file_that_is_none_of_flannels_stays(world: World) -> None:
    host = world.lab.host("h1")
    for name in ("subnet.env", "subnet.env.memory", "other"):
        write_file(host, Path("/run/elsewhere", name), ENV)
    write_file(host, Path("/run/elsewhere/subnet.env.state/bgp/asked.json"), "{}")
    clean(host, "--yes", "--subnet-file=/run/elsewhere/subnet.env")
    assert host.call(lambda: [path.name for path in Path("/run/elsewhere").iterdir()]) == ["other"]
