"""Each check of `tartan doctor` by itself: values in, findings out."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_interface, ip_network

import pytest

from flanneld.backend import Refusal, Uplink
from flanneld.config import parse_network
from flanneld.etcd import KeyValue
from flanneld.flags import Options
from flanneld.kernel import FdbEntry, Hop, Link, Neighbour, Route
from flanneld.lease import Lease, LeaseAttrs
from flanneld.subnet_env import SubnetEnv
from tartan.checks.device import check_checksums, check_devices, check_published, check_uplink
from tartan.checks.finding import Finding, Level, error, exit_code, ok, unknown, warning
from tartan.checks.host import check_bridged, check_forwarding, check_rp_filter
from tartan.checks.lease import Host, check_others, check_own, check_time_left
from tartan.checks.mtu import check_mtu
from tartan.checks.peers import MOST, Words, check_peers
from tartan.checks.reach import Answers, Target, check_reach, targets
from tartan.checks.rules import check_forward
from tartan.checks.store import check_config, check_members, stored
from tartan.doctor import options_of
from tartan.running import Running

NETWORK = parse_network('{"Network": "10.244.0.0/16", "Backend": {"Type": "vxlan"}}')
DEVICE, UPLINK_INDEX = 7, 2
WORDS = Words({DEVICE: "flannel.1", UPLINK_INDEX: "eth0"}, flanneld_runs=False)
MAC = "0e:00:00:00:00:02"
UPLINK = Uplink("eth0", UPLINK_INDEX, 1500, (ip_interface("10.0.0.1/24"),), (ip_address("10.0.0.1"),))


def lease(subnet: str, ip: str, created: int = 0) -> Lease:
    return Lease((ip_network(subnet),), LeaseAttrs((ip_address(ip),), "vxlan"), created=created)


H2 = lease("10.244.2.0/24", "10.0.0.2")
ROUTE = Route(ip_network("10.244.2.0/24"), DEVICE, ip_address("10.244.2.0"), onlink=True)
NEIGHBOUR = Neighbour(DEVICE, ip_address("10.244.2.0"), MAC)
FDB = FdbEntry(DEVICE, MAC, ip_address("10.0.0.2"))
PLAN = (NEIGHBOUR, FDB, ROUTE)


def told(found: list[Finding]) -> list[str]:
    return [finding.what for finding in found if finding.level is not Level.OK]


def test_the_exit_code_tells_wrong_from_not_looked_at() -> None:
    well, hurts = ok("a", "b"), warning("a", "b", "c", "d")
    assert exit_code([well, hurts]) == 0
    assert exit_code([well, unknown("a", "b")]) == 2
    assert exit_code([unknown("a", "b"), error("a", "b", "c", "d")]) == 1


def test_a_peer_whose_entries_are_there_is_well() -> None:
    assert told(check_peers({H2: PLAN}, (), PLAN, WORDS)) == []


@pytest.mark.parametrize("missing", PLAN)
def test_what_is_missing_is_told_with_its_peer(missing: Route | Neighbour | FdbEntry) -> None:
    (why,) = told(check_peers({H2: PLAN}, (), [entry for entry in PLAN if entry != missing], WORDS))
    assert why.startswith("peer 10.0.0.2 (10.244.2.0/24): no ")
    assert "its lease says it should lead to" in why


def test_what_leads_elsewhere_is_told_once() -> None:
    elsewhere = replace(FDB, destination=ip_address("10.0.0.77"))
    (why,) = told(check_peers({H2: PLAN}, (), [NEIGHBOUR, elsewhere, ROUTE], WORDS))
    assert why.endswith(f"FDB entry for {MAC} on flannel.1 leads to 10.0.0.77; its lease says it should lead to 10.0.0.2")


def test_a_route_is_told_with_all_that_it_leads_to() -> None:
    ways = (Hop(DEVICE, ip_address("10.244.2.0")), Hop(UPLINK_INDEX, ip_address("10.0.0.2"), weight=2))
    several = Route.by(ROUTE.destination, ways)
    (why,) = told(check_peers({H2: PLAN}, (), [NEIGHBOUR, FDB, several], WORDS))
    assert "leads to via 10.0.0.2 dev eth0 weight 2 and via 10.244.2.0 dev flannel.1; its lease says" in why


def test_a_route_one_of_whose_devices_is_gone_is_told_as_such() -> None:
    several = Route.by(ROUTE.destination, [Hop(DEVICE, ip_address("10.244.2.0")), Hop(99, ip_address("10.0.0.2"))])
    assert told(check_peers({H2: (several,)}, (), [], WORDS)) == ["1 entries have no device to be on"]


def test_what_nobody_needs_is_stale_be_it_beside_what_is_needed() -> None:
    beside = replace(FDB, destination=ip_address("10.0.0.77"))
    (why,) = told(check_peers({H2: PLAN}, (), [*PLAN, beside], WORDS))
    assert why == f"stale FDB entry for {MAC} on flannel.1, which leads to 10.0.0.77: no lease asks for it"


def test_two_peers_that_need_one_slot_are_told() -> None:
    clone = lease("10.244.3.0/24", "10.0.0.3")
    (why,) = told(check_peers({H2: PLAN, clone: (replace(FDB, destination=ip_address("10.0.0.3")),)}, (), PLAN, WORDS))
    assert "one machine may be a clone of the other" in why


def test_a_refused_peer_is_an_error_unless_it_is_no_peer_for_us() -> None:
    levels = [check_peers({H2: Refusal(H2, "is far", foreign=foreign)}, (), (), WORDS)[0].level for foreign in (False, True)]
    assert levels == [Level.ERROR, Level.WARNING]


def test_a_thousand_peers_without_entries_are_told_in_a_page() -> None:
    peers = {lease(f"10.{200 + n // 200}.{n % 200}.0/24", "10.0.0.2"): n for n in range(1000)}
    plans = {peer: (Route(peer.subnets[0], DEVICE, ip_address("10.0.0.2")),) for peer in peers}
    found = check_peers(plans, (), (), WORDS)
    assert len(found) == MOST + 1
    assert found[-1].what == "and 970 more, of 1000 peers"


def test_leases_that_overlap_are_told_in_a_crowd_too() -> None:
    crowd = [lease(f"10.244.{n}.0/24", f"10.0.1.{n}") for n in range(200)]
    assert told(check_others(crowd)) == []
    (why,) = told(check_others([*crowd, lease("10.244.7.128/25", "10.0.2.1")]))
    assert why == "10.244.7.0/24 of 10.0.1.7 overlaps 10.244.7.128/25 of 10.0.2.1"
    (why,) = told(check_others([*crowd, lease("10.245.7.0/24", "10.0.1.7")]))
    assert why == "10.0.1.7 holds 10.244.7.0/24 and 10.245.7.0/24"


def host(subnet: str | None = "10.244.1.0/24", former: Lease | None = None) -> Host:
    env = None if subnet is None else SubnetEnv((NETWORK.pools[0].network,), (ip_network(subnet),), 1450, ip_masq=True)
    return Host((ip_address("10.0.0.1"),), former, env, "/run/flannel/subnet.env")


@pytest.mark.parametrize(
    ("leases", "here", "why"),
    [
        ([lease("10.244.1.0/24", "10.0.0.1")], host(), None),
        ([lease("10.244.1.0/24", "10.0.0.1")], host(None), "/run/flannel/subnet.env is not there"),
        ([lease("10.244.3.0/24", "10.0.0.1")], host(), "subnet.env says 10.244.1.0/24, our lease is 10.244.3.0/24"),
        ([lease("10.244.1.0/24", "10.0.0.9")], host(), "10.244.1.0/24, which pods here use, is leased by 10.0.0.9"),
        ([], host(), "no lease carries our public IP 10.0.0.1, and pods here use 10.244.1.0/24"),
        ([], host(None), "no lease carries our public IP 10.0.0.1"),
        ([lease("10.1.1.0/24", "10.0.0.1")], host(), "10.1.1.0/24 is not a subnet that the network config hands out"),
        ([lease("10.244.1.0/24", "10.0.0.1"), lease("10.244.5.0/24", "10.0.0.1")], host(), "we hold 10.244.5.0/24 besides"),
        ([lease("10.244.1.0/24", "10.0.0.8", 5)], host(former=lease("10.244.1.0/24", "10.0.0.8", 5)), None),
    ],
)
def test_our_own_lease_is_the_one_that_pods_use(leases: list[Lease], here: Host, why: str | None) -> None:
    found = told(check_own(leases, here, NETWORK))
    assert found == [] if why is None else len(found) == 1 and found[0].startswith(why), found


def test_a_lease_near_its_end_is_told() -> None:
    assert [check_time_left(seconds, 60).level for seconds in (None, 86000, 3500, 3000)] == ["ok", "ok", "ok", "error"]


def test_what_forwards_nothing_or_drops_the_way_back_is_told() -> None:
    values = {"net.ipv4.ip_forward": "0", "net.ipv4.conf.all.rp_filter": "0", "net.ipv4.conf.flannel/1.rp_filter": "1"}
    assert told(check_forwarding([4, 6], values.get)) == ["net.ipv4.ip_forward is 0: no packet of a pod is forwarded"]
    assert told(check_rp_filter({"flannel.1"}, values.get)) == []
    (why,) = told(check_rp_filter({"flannel.1", "eth0"}, values.get))
    assert why.startswith("rp_filter is strict on flannel.1,")
    assert told(check_rp_filter({"flannel.1", "eth0"}, {**values, "net.ipv4.conf.all.rp_filter": "2"}.get)) == []
    assert told(check_bridged([4], services=False, read=values.get)) == []
    assert len(told(check_bridged([4], services=True, read=values.get))) == 1


@pytest.mark.parametrize(
    ("saved", "count"),
    [
        ([], 0),
        ([":FORWARD ACCEPT [0:0]"], 0),
        ([":FORWARD DROP [0:0]"], 1),
        ([":FORWARD DROP [0:0]", "-A FORWARD -j FLANNEL-FWD"], 0),
        ([":FORWARD DROP [0:0]", "-A FORWARD -j FLANNEL-FWD-0a1b2c"], 0),
        ([":FORWARD DROP [0:0]", "-A FORWARD -s 10.244.0.0/16 -j ACCEPT"], 0),
        ([":FORWARD DROP [0:0]", "-A FORWARD -j TARTAN-CNI"], 0),
        ([":FORWARD ACCEPT [0:0]", "-A FORWARD -j REJECT --reject-with icmp-host-prohibited", "-A FORWARD -j FLANNEL-FWD"], 1),
        ([":FORWARD ACCEPT [0:0]", "-A FORWARD -j FLANNEL-FWD", "-A FORWARD -j DROP"], 0),
    ],
)
def test_who_drops_what_pods_forward_is_told(saved: list[str], count: int) -> None:
    assert len(told(check_forward("iptables", saved, [ip_network("10.244.0.0/16")]))) == count
    assert told(check_forward("ip6tables", [":FORWARD DROP [0:0]"], [ip_network("10.244.0.0/16")])) == []


def test_sizes_agree_or_are_told() -> None:
    env = SubnetEnv((), (), 1450, ip_masq=True)
    bridge, port = Link(3, "cni0", 1450, MAC), Link(4, "veth1", 1450, MAC)
    assert told(check_mtu(env, 1450, bridge, [port], "")) == []
    assert told(check_mtu(replace(env, mtu=1500), 1450, None, [], ""))[0].endswith("larger packets are lost")
    assert told(check_mtu(env, 1450, bridge, [replace(port, mtu=1500)], ""))[0].startswith("1 of 1 pods send packets of more")
    assert told(check_mtu(env, 1450, replace(bridge, mtu=1400), [port], "")) == [
        "cni0 carries 1400 bytes, less than its pods may send"
    ]


def test_the_uplink_and_the_devices_on_it() -> None:
    up = Link(UPLINK_INDEX, "eth0", 1500, MAC, up=True)
    assert told(check_uplink(UPLINK, up, running=True, wanted_mtu=0)) == []
    assert told(check_uplink(UPLINK, replace(up, up=False), running=False, wanted_mtu=0)) == ["eth0 (10.0.0.1/24) is down"]
    assert told(check_uplink(UPLINK, up, running=False, wanted_mtu=0)) == ["eth0 (10.0.0.1/24) has no carrier"]
    assert told(check_uplink(UPLINK, up, running=True, wanted_mtu=9000))[0].startswith("the network config says MTU 9000")
    assert told(check_devices(["device flannel.1: make", "device flannel.2: bring up"], [], "")) == [
        "flannel.1 does not exist",
        "flannel.2 is down",
    ]
    assert told(check_published(H2, replace(H2.attrs, backend_type="host-gw"), ""))[0].startswith("our lease tells other hosts")


def test_who_does_not_answer_and_where() -> None:
    (one,) = targets({H2: "vxlan"})
    assert one == Target(H2, ip_address("10.0.0.2"), ip_address("10.244.2.0"))
    both, neither = Answers({one.underlay: 0.001, ip_address("10.244.2.0"): 0.002}), Answers()
    assert told(check_reach([one], both, "UDP port 8472")) == []
    (found,) = check_reach([one], Answers({one.underlay: 0.001}), "UDP port 8472")
    assert "not at 10.244.2.0 through the overlay" in found.what
    assert "let UDP port 8472 pass" in found.remedy
    assert told(check_reach([one], neither, ""))[0] == "peer 10.0.0.2 (10.244.2.0/24) does not answer at all"
    (filtered,) = check_reach([one], Answers({ip_address("10.244.2.0"): 0.002}), "")
    assert filtered.level is Level.WARNING
    assert targets({H2: "host-gw"})[0].overlay is None


def test_what_etcd_says_and_holds() -> None:
    silent = {"http://a:1": "etcd at http://a:1: connection refused", "http://b:2": ""}
    assert told(check_members(replace(Options(), etcd_endpoints=tuple(silent)), silent)) == [
        "a member does not answer: etcd at http://a:1: connection refused"
    ]
    default = dict(zip(Options().etcd_endpoints, ("connection refused", ""), strict=True))
    assert told(check_members(Options(), default)) == []
    assert told(check_config("/k/config", None)[1]) == ["there is none under the key /k/config"]
    assert check_config("/k", '{"Network": "10.244.0.0/16", "Backend": {"Type": "magic"}}')[0] is None
    key = KeyValue("/p/10.244.2.0-24", b'{"PublicIP":"10.0.0.2","PublicIPv6":null}', 9, 1, 1)
    held = stored(None, "/p/", [key, replace(key, key="/p/x")])
    assert ([str(one) for one in held.leases], held.etcd_lease(held.leases[0]), len(held.garbage)) == (["10.244.2.0/24"], 9, 1)


def test_flags_of_the_flanneld_that_runs_come_before_ours() -> None:
    one = Running(1, ("--etcd-prefix=/a", "--ip-masq"), {"FLANNELD_SUBNET_FILE": "/a/subnet.env"})
    options = options_of([one], ["--etcd-prefix=/b"], {})
    assert (options.etcd_prefix, options.ip_masq, options.subnet_file) == ("/b", True, "/a/subnet.env")
    assert options_of([one, one], [], {}).etcd_prefix == Options().etcd_prefix
    assert options_of([replace(one, arguments=("--no-such-flag",))], [], {}) == Options()


def test_a_checksum_trap_is_named_with_the_setting_that_cures_it() -> None:
    assert told(check_checksums(UPLINK, "", left_to_hardware=True)) == []
    assert told(check_checksums(UPLINK, "it breaks them", left_to_hardware=None)) == []
    (found,) = check_checksums(UPLINK, "it breaks them", left_to_hardware=True)
    assert "arrive damaged" in found.what
    assert "TxChecksumOffload" in found.remedy
