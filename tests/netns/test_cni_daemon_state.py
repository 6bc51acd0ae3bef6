"""What flanneld's CNI half keeps right by itself (packet table, garbage, reboot, another lease), and what pods get of the lease."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping
from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path

import pytest

from cni import cache
from cni.chain import Chain
from cni.conflist import Conflist, parse_conflist
from cni.invoke import Executables
from cni.ledger import Key
from cni_chain import host_end, interface, ips
from cni_daemon_world import CniLab, cni_lab, conflist_text
from cni_world import Json, Sandbox
from flanneld_world import NETWORK, PREFIX, REPAIR_S, eventually, own_subnet, run, vxlan_lease
from lab.pods import CNI_BIN

DUAL = {**NETWORK, "EnableIPv6": True, "IPv6Network": "fd00:244::/48"}
IPV6 = {**DUAL, "EnableIPv4": False}
CACHE = Path("/var/lib/cni")


@pytest.fixture
def lab() -> Iterator[CniLab]:
    with cni_lab() as up:
        yield up


def subnet(lab: CniLab) -> str:
    """Of the present lease, without its last byte."""
    return own_subnet(lab.host).removesuffix("0")


def pings(pod: Sandbox, address: str) -> bool:
    return pod.place.run(["ping", "-c1", "-W5", address], check=False).returncode == 0


@pytest.mark.parametrize(
    "line",
    [
        "nft flush ruleset",
        "nft delete table inet tartan-cni",
        "nft flush set inet tartan-cni hairpin4",
        "nft flush map inet tartan-cni ports4",
        "nft flush chain inet tartan-cni prerouting",
    ],
)
def test_what_somebody_takes_from_the_packet_table_is_back_at_once(lab: CniLab, line: str) -> None:
    lab.world.start("h1").ready()
    for port in (8081, 8082):
        lab.pod({port: 80})
    before, listing = lab.held(), "nft --stateless list table inet tartan-cni"
    rules = run(lab.host, listing)
    assert "tcp . 8081" in rules
    run(lab.host, line)
    eventually(lambda: sorted(run(lab.host, listing, check=False)) == sorted(rules), "the table as it was", REPAIR_S)
    assert lab.held() == before


def chain_of(lab: CniLab, text: str) -> Chain:
    network: Conflist = parse_conflist(text.encode())
    environment = {"PATH": lab.host.environment["PATH"]}
    return Chain(network, Executables((str(CNI_BIN),), environment=environment), cache.ResultCache(CACHE))


def test_a_network_of_spec_1_1_0_has_its_garbage_collected_and_says_how_it_is(lab: CniLab) -> None:
    lab.world.start("h1").ready()
    before = lab.held()
    chain = chain_of(lab, conflist_text())
    lab.host.call(chain.status)
    attachments = [cache.Attachment(f"c{n}", str(lab.cni.sandbox().path), capabilities=ports(8080 + n)) for n in range(3)]
    for attachment in attachments:
        lab.host.call(chain.add, attachment)
    kept = lab.held()
    lab.host.call((CACHE / "results" / "cbr0-c2-eth0").unlink)  # the runtime has forgotten it, the plugins have not
    valid = {Key("cbr0", "c0", "eth0")}
    assert lab.host.call(chain.gc, valid) == [Key("cbr0", "c1", "eth0")]
    eventually(lambda: lab.records() == {record for record in lab.records() if record[1] == "c0"}, "the others gone")
    assert {record[:3] for record in lab.records()} == {("cbr0", "c0", "eth0")} < {record[:3] for record in kept["records"]}  # type: ignore[attr-defined]
    lab.host.call(chain.check, attachments[0])
    lab.host.call(chain.gc, set[Key]())
    assert lab.is_left_with(before)


def ports(host: int) -> Mapping[str, object]:
    return {"portMappings": [{"hostPort": host, "containerPort": 80, "protocol": "tcp"}]}


def test_a_reboot_frees_everything(lab: CniLab) -> None:
    flanneld = lab.world.start("h1").ready()
    before = lab.held()
    for port in (8081, 8082):
        lab.pod({port: 80})
    flanneld.end()
    lab.reboot_journal()
    lab.world.start("h1").ready()
    assert lab.is_left_with(before)
    _, result = lab.pod({8081: 80})
    assert ips(result) == [f"{subnet(lab)}4/24"]


def test_another_lease_is_the_bridges_and_new_pods(lab: CniLab) -> None:
    flanneld = lab.world.start("h1").ready()
    former = subnet(lab)
    lab.pod()
    flanneld.end()
    lab.world.etcd.delete(f"{PREFIX}/subnets/")
    lab.world.etcd.put(f"{PREFIX}/subnets/{former}0-24", vxlan_lease("10.0.0.99", "0e:00:00:00:00:09"))
    lab.world.start("h1").ready()
    assert subnet(lab) != former
    attachment, result = lab.pod()
    assert ips(result) == [f"{subnet(lab)}2/24"]
    assert lab.cni.addresses("cni0") == {f"{subnet(lab)}1/24"}
    assert pings(lab.of(attachment), f"{subnet(lab)}1")


@pytest.mark.parametrize(("backend", "mtu"), [("vxlan", 1450), ("host-gw", 1500)])
def test_the_backends_mtu_is_on_everything_that_a_packet_passes(backend: str, mtu: int) -> None:
    with cni_lab({**NETWORK, "Backend": {"Type": backend}}) as lab:
        lab.world.start("h1").ready()
        attachment, result = lab.pod()
        pod, host = lab.of(attachment), lab.cni.links()
        veth = host_end(result, "cni0")["name"]
        assert {host["cni0"]["mtu"], host[veth]["mtu"], pod.links()["eth0"]["mtu"]} == {mtu}
        assert {interface(result, name)["mtu"] for name in ("cni0", veth, "eth0")} == {mtu}
        assert pod.routes()["10.244.0.0/16"]["metrics"] == [{"mtu": mtu}]
        assert [route["mtu"] for route in result["routes"] if route["dst"] == "10.244.0.0/16"] == [mtu]


def both_ways(lab: CniLab, families: set[int]) -> Json:
    """Two pods that reach each other and the gateway in these families, and have no address of another."""
    (one, _), (other, result) = lab.pod({8081: 80}), lab.pod()
    addresses = {ip_interface(ip) for ip in ips(result)}
    assert {ip.version for ip in addresses} == families
    for ip in addresses:
        assert pings(lab.of(one), str(ip.ip))
        assert pings(lab.of(other), str(ip.network[1]))
    assert {ip_address(key) for name, key, _ in lab.held()["elements"] if name.startswith("hairpin")} == {  # type: ignore[attr-defined]
        ip_interface(ip).ip for ip in lab.of(one).addresses("eth0")
    }
    lab.chain.check(other, result)
    return result


def test_dual_stack_pods_have_both_and_a_port_leads_to_both() -> None:
    with cni_lab(DUAL, ipv6=True) as lab:
        lab.world.start("h1").ready()
        before = lab.held()
        result = both_ways(lab, {4, 6})
        assert {route["dst"] for route in result["routes"]} >= {"10.244.0.0/16", "fd00:244::/48", "0.0.0.0/0", "::/0"}
        assert all(
            ip_interface(ip) in ip_network(net) for ip, net in zip(ips(result), ("10.244.0.0/16", "fd00:244::/48"), strict=True)
        )
        assert lab.held() != before


def test_ipv6_only_pods_have_nothing_else() -> None:
    with cni_lab(IPV6, ipv6=True) as lab:
        lab.world.start("h1").ready()
        result = both_ways(lab, {6})
        assert interface(result, "eth0")["mtu"] == 1430


def test_a_full_pool_is_an_error_that_says_so_and_takes_nothing(lab: CniLab) -> None:
    lab.lease_of_last_time("FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.7.1/30\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n")
    lab.world.start("h1", "--etcd-endpoints=http://10.0.0.250:2379").await_said("CNI is served")
    first, result = lab.pod()
    before = lab.held()
    with pytest.raises(AssertionError, match="no IP addresses available in range set"):
        lab.pod()
    assert lab.is_left_with(before)
    lab.chain.delete(first, result)
    lab.pod()


def test_a_pod_reaches_the_network_while_flanneld_is_killed_and_comes_back(lab: CniLab) -> None:
    flanneld = lab.world.start("h1").ready()
    (one, _), (_, result) = lab.pod(), lab.pod()
    target = ips(result)[0].partition("/")[0]
    assert pings(lab.of(one), target)
    ping = lab.of(one).place.popen(["ping", "-i0.02", "-c40", "-W1", target], stdout=subprocess.PIPE)
    flanneld.end(9)
    lab.world.start("h1").ready()
    said, _ = ping.communicate(timeout=20)
    assert " 0% packet loss" in said
