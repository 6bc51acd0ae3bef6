"""bgp.admission: what is never taken from a peer, and what a path counts for us."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgp import admission
from bgp.admission import Reason, Refusal
from bgp.path import GRACEFUL_SHUTDOWN, Asn, AsPath, Attributes, Path
from bgp.policy import Changes, Rule
from bgp.session import Session
from bgp_announcements import LINK, OUR_SUBNET, POLICY, POOL, SERVICES, US, peer, said, session, told
from flanneld.lease import IPAddress, IPNetwork, Pool, overlap

IPV6_POOL = Pool(ip_network("fd00:244::/48"), 64, ip_network("fd00:244:0:1::/64"), ip_network("fd00:244:0:ffff::/64"))
MOVED, ELSEWHERE, BEHIND_A_ROUTER = ip_network("10.244.1.7/32"), ip_network("10.244.9.0/24"), ip_address("172.16.0.7")
FULL = replace(
    POLICY,
    pools=(POOL, IPV6_POOL),
    known_hosts=frozenset((peer(2), peer(3), BEHIND_A_ROUTER)),
    owner_approved=frozenset((MOVED, ip_network("10.244.1.8/31"))),
    origin_of={peer(2): (ip_network("10.244.2.0/24"), ip_network("fd00:244:0:2::/64"))},
    elsewhere=frozenset((ELSEWHERE,)),
    cluster_id=IPv4Address("10.0.0.250"),
)
HOST, ROUTER, OUTSIDE = session(2), session(3), session(4, 65101)
"""A host that speaks for itself, a reflector, and a neighbour of another AS."""

SESSIONS = {by.peer: by for by in (HOST, ROUTER, OUTSIDE)}
REFLECTED = said(originator="10.0.0.4", clusters=("10.0.0.3",))
OURS_REFLECTED = said(originator="10.0.0.1", clusters=("10.0.0.3",))
LOOPED = said(clusters=("10.0.0.249", "10.0.0.250"))
SETS = (frozenset({Asn(64512), Asn(7)}),)

LEAKS: list[tuple[Path, Reason, str]] = [
    (told(3, "0.0.0.0/0"), Reason.DEFAULT_ROUTE, "prefix 0.0.0.0/0 is the default route"),
    (told(3, "::/0"), Reason.DEFAULT_ROUTE, "prefix ::/0 is the default route"),
    (told(3, "224.0.0.0/4"), Reason.MARTIAN, "prefix 224.0.0.0/4 overlaps 224.0.0.0/4"),
    (told(3, "128.0.0.0/1"), Reason.MARTIAN, "prefix 128.0.0.0/1 overlaps 169.254.0.0/16"),
    (told(3, "127.1.0.0/24"), Reason.MARTIAN, "prefix 127.1.0.0/24 overlaps 127.0.0.0/8"),
    (told(3, "fe80::/64"), Reason.MARTIAN, "prefix fe80::/64 overlaps fe80::/10"),
    (told(3, "10.9.0.0/16"), Reason.NO_POOL, "prefix 10.9.0.0/16 is in no pool"),
    (told(3, "10.64.0.0/10"), Reason.NO_POOL, "prefix 10.64.0.0/10 is in no pool"),
    (told(3, "10.244.4.0/22"), Reason.LENGTH, "10.244.4.0/22 of the pool 10.244.0.0/16: expected /24 or /32, got /22"),
    (told(3, "10.244.4.0/25"), Reason.LENGTH, "expected /24 or /32, got /25"),
    (told(3, "fd00:244:0:4::/80"), Reason.LENGTH, "expected /64 or /128, got /80"),
    (told(3, "10.244.1.0/24"), Reason.OWN_SUBNET, "prefix 10.244.1.0/24 overlaps our own subnet 10.244.1.0/24"),
    (told(3, "10.244.0.0/23"), Reason.OWN_SUBNET, "prefix 10.244.0.0/23 overlaps our own subnet"),
    (told(3, "10.0.0.0/8"), Reason.OWN_SUBNET, "prefix 10.0.0.0/8 overlaps our own subnet"),
    (told(3, "10.244.1.6/32"), Reason.OWN_SUBNET, "prefix 10.244.1.6/32 overlaps our own subnet"),
    (told(3, "10.244.1.8/31"), Reason.OWN_SUBNET, "prefix 10.244.1.8/31 overlaps our own subnet"),
    (told(3, "10.244.9.0/24"), Reason.ELSEWHERE, "prefix 10.244.9.0/24 is leased by a host that is not reached by BGP"),
    (told(2, "10.244.3.0/24"), Reason.NOT_ITS_LEASE, "lease of 10.0.0.2, expected 10.244.2.0/24 or fd00:244:0:2::/64"),
    (told(2, "10.96.0.1/32"), Reason.NOT_ITS_LEASE, "prefix 10.96.0.1/32 is not of the lease of 10.0.0.2"),
    (told(4, "10.244.4.0/24", ases=(65101, 64512)), Reason.AS_LOOP, "AS path 65101 64512 has our AS 64512"),
    (told(4, "10.244.4.0/24", ases=(65101,), sets=SETS), Reason.AS_LOOP, "AS path 65101 {7,64512} has our AS 64512"),
    (told(3, "10.244.4.0/24", ases=(64512,)), Reason.AS_LOOP, "AS path 64512 has our AS 64512"),
    (told(4, "10.244.4.0/24", ases=(65102, 65101)), Reason.FIRST_AS, "65102 65101 does not begin with the peer's AS 65101"),
    (told(4, "10.244.4.0/24"), Reason.FIRST_AS, "AS path of no AS does not begin with the peer's AS 65101"),
    (told(3, "10.244.1.0/24", attributes=OURS_REFLECTED), Reason.ORIGINATOR, "originator 10.0.0.1 is ourselves"),
    (told(3, "10.244.4.0/24", attributes=LOOPED), Reason.CLUSTER, "cluster list has our cluster 10.0.0.250"),
    (told(3, "10.244.4.0/24", via="10.0.0.1"), Reason.NEXT_HOP_OWN, "next hop 10.0.0.1 is this host"),
    (told(3, "10.244.4.0/24", via="127.0.0.1"), Reason.NEXT_HOP_MARTIAN, "next hop 127.0.0.1 is in 127.0.0.0/8"),
    (told(3, "fd00:244:0:4::/64", via="fe80::2"), Reason.NEXT_HOP_MARTIAN, "next hop fe80::2 is in fe80::/10"),
    (told(3, "10.244.4.0/24", via="192.0.2.1"), Reason.NEXT_HOP_OFF_LINK, "192.0.2.1 is neither on a link of ours nor a known"),
]


@pytest.mark.parametrize(("path", "reason", "words"), LEAKS, ids=[f"{path.prefix}-{reason.value}" for path, reason, _ in LEAKS])
def test_a_leak_is_refused_with_the_value_and_what_was_expected(path: Path, reason: Reason, words: str) -> None:
    refusal = FULL.refuse(path, SESSIONS[path.peer])
    assert refusal is not None
    assert refusal.reason == reason
    assert words in str(refusal)
    assert FULL.admit(path, SESSIONS[path.peer]) == refusal


GOOD: dict[str, Path] = {
    "a host's subnet": told(2, "10.244.2.0/24"),
    "its IPv6 subnet over IPv4 (RFC 8950)": told(2, "fd00:244:0:2::/64"),
    "a pod that came to it": told(2, "10.244.3.7/32"),
    "an IPv6 pod that came to it": told(2, "fd00:244:0:3::7/128"),
    "a pod that left us with our consent": told(2, str(MOVED)),
    "another host's subnet, reflected": told(3, "10.244.3.0/24", via="10.0.0.4", attributes=REFLECTED),
    "behind a router, at a known host": told(3, "10.244.7.0/24", via=str(BEHIND_A_ROUTER)),
    "from another AS": told(4, "10.244.4.0/24", ases=(65101, 65001)),
    "a Service": told(4, "10.96.0.1/32", ases=(65101,)),
    "all Services": told(4, str(SERVICES), ases=(65101,)),
}


@pytest.mark.parametrize("path", GOOD.values(), ids=GOOD)
def test_a_good_path_is_taken_as_it_is(path: Path) -> None:
    assert FULL.admit(path, SESSIONS[path.peer]) is path


def test_host_routes_may_be_forbidden() -> None:
    refusal = replace(FULL, host_routes=False).refuse(told(2, "10.244.3.7/32"), HOST)
    assert str(refusal) == "prefix 10.244.3.7/32 of the pool 10.244.0.0/16: expected /24, got /32"


@pytest.mark.parametrize("address", [US, BEHIND_A_ROUTER])
def test_a_hosts_own_address_is_no_service(address: IPAddress) -> None:
    policy = replace(FULL, services=(ip_network("10.0.0.0/24"), ip_network("172.16.0.0/16")))
    refusal = policy.refuse(told(3, f"{address}/32"), ROUTER)
    assert refusal is not None
    assert refusal.reason == Reason.HOST_ADDRESS


def test_a_host_without_a_lease_may_announce_nothing() -> None:
    refusal = replace(FULL, origin_of={peer(2): ()}).refuse(told(2, "10.244.2.0/24"), HOST)
    assert str(refusal) == "prefix 10.244.2.0/24 is not of the lease of 10.0.0.2, expected none"


def test_what_only_our_own_as_may_say_is_left_out_of_what_another_says() -> None:
    leaky = said(200, 5, originator="10.9.9.9", clusters=("10.9.9.9",))
    admitted = FULL.admit(told(4, "10.244.4.0/24", ases=(65101,), attributes=leaky), OUTSIDE)
    assert admitted == told(4, "10.244.4.0/24", ases=(65101,), attributes=said(med=5))


def test_a_rule_refuses_what_the_policy_would_take() -> None:
    refusal = FULL.admit(told(2, "10.244.2.0/24"), HOST, (Rule(accept=False),))
    assert refusal == Refusal(Reason.RULE, "prefix 10.244.2.0/24: rule [0] refuses it: everything")


def test_a_rule_cannot_let_through_what_the_policy_refuses() -> None:
    assert isinstance(FULL.admit(told(3, "0.0.0.0/0"), ROUTER, (Rule(),)), Refusal)


def test_a_rule_lengthens_the_path_by_the_peers_number() -> None:
    admitted = FULL.admit(told(4, "10.244.4.0/24", ases=(65101,)), OUTSIDE, (Rule(changes=Changes(prepend=2)),))
    assert isinstance(admitted, Path)
    assert admitted.attributes.as_path.sequence == (65101, 65101, 65101)


@pytest.mark.parametrize("rules", [(), (Rule(changes=Changes(local_pref=200)),)])
def test_who_shuts_down_is_the_last_resort_whatever_the_rules_say(rules: tuple[Rule, ...]) -> None:
    leaving = told(2, "10.244.2.0/24", attributes=said(100, communities=(GRACEFUL_SHUTDOWN,)))
    admitted = FULL.admit(leaving, HOST, rules)
    assert isinstance(admitted, Path)
    assert admitted.attributes.local_pref == 0


REOPENED: list[tuple[Reason, dict[str, object], bool]] = [
    (Reason.NO_POOL, {"services": ()}, True),
    (Reason.NO_POOL, {"elsewhere": frozenset()}, False),
    (Reason.NOT_ITS_LEASE, {"origin_of": {}}, True),
    (Reason.NOT_ITS_LEASE, {"known_hosts": frozenset()}, False),
    (Reason.OWN_SUBNET, {"owner_approved": frozenset()}, True),
    (Reason.LENGTH, {"host_routes": False}, True),
    (Reason.NEXT_HOP_OFF_LINK, {}, True),
    (Reason.DEFAULT_ROUTE, {"pools": (), "services": ()}, False),
    (Reason.LIMIT, {"pools": ()}, False),
]


@pytest.mark.parametrize(("reason", "change", "opens"), REOPENED)
def test_what_was_refused_is_asked_for_again_only_if_it_may_pass(reason: Reason, change: dict[str, object], opens: bool) -> None:
    assert replace(FULL, **change).opens(FULL, frozenset((reason,))) == opens  # type: ignore[arg-type]  # the table's own words
    assert not replace(FULL, **change).opens(FULL, frozenset())  # type: ignore[arg-type]


def near(prefix: str) -> st.SearchStrategy[IPNetwork]:
    """Networks of any length around this one's first addresses."""
    base = ip_network(prefix)
    offsets = st.integers(0, 2**12).map(lambda n: base.network_address + n)
    return st.builds(lambda a, n: ip_network((a, n), strict=False), offsets, st.integers(0, base.max_prefixlen))


NEAR = ("10.244.0.0/16", "10.96.0.0/12", "10.0.0.0/24", "127.0.0.0/8", "239.255.240.0/20", "fd00:244::/48")
MARTIANS = [ip_network(text) for texts in admission.MARTIANS.values() for text in texts]
prefixes = st.one_of(*map(near, NEAR))
hops = st.sampled_from([US, BEHIND_A_ROUTER, ip_address("127.0.0.1")]) | st.sampled_from([*LINK]) | st.ip_addresses()
as_paths = st.lists(st.sampled_from([64512, 65101, 65102]).map(Asn), max_size=3).map(lambda ases: AsPath(tuple(ases)))


@given(st.sampled_from([HOST, ROUTER, OUTSIDE]), prefixes, hops, as_paths)
def test_what_is_taken_is_of_the_pod_network_and_nobody_elses(
    by: Session, prefix: IPNetwork, next_hop: IPAddress, as_path: AsPath
) -> None:
    path = FULL.admit(Path(prefix, next_hop, by.peer, Attributes(as_path=as_path)), by)
    if isinstance(path, Refusal):
        return
    pods = [pool.network for pool in FULL.pools]
    assert overlap((prefix,), [*pods, SERVICES])
    assert prefix.prefixlen in ((24, 32, 64, 128) if overlap((prefix,), pods) else range(12, 33))
    assert not overlap((prefix,), MARTIANS)
    assert prefix == MOVED or not overlap((prefix,), (OUR_SUBNET,))
    assert prefix != ELSEWHERE
    assert next_hop != US
    assert next_hop in LINK or next_hop == BEHIND_A_ROUTER
    assert 64512 not in as_path
