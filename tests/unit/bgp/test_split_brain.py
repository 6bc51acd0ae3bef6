"""bgp.rib: who has a pod's prefix that several hosts say is theirs."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_network

from bgp.policy import Changes, Rule
from bgp.rib import Rib
from bgp_announcements import OUR_SUBNET, POLICY, SUBNET, chosen, info, peer, rib_of, said, told


def test_of_two_hosts_that_claim_a_subnet_the_one_that_has_it_keeps_it() -> None:
    rib = rib_of(told(3, SUBNET))
    assert chosen(rib, SUBNET) == [3]
    rib.announced(peer(2), [told(2, SUBNET)])
    assert chosen(rib, SUBNET) == [3]
    words = "10.244.9.0/24 is announced by 10.0.0.3 and 10.0.0.2, expected one host; traffic goes to 10.0.0.3"
    assert [str(conflict) for conflict in rib.conflicts()] == [words]
    rib.withdrawn(peer(3), [(ip_network(SUBNET), 0)])
    assert chosen(rib, SUBNET) == [2]
    assert rib.conflicts() == ()


def test_of_two_hosts_that_claim_a_subnet_at_once_the_lowest_router_id_has_it() -> None:
    rib = rib_of(told(3, SUBNET), told(2, SUBNET))
    assert chosen(rib, SUBNET) == [2]


def test_a_subnet_that_was_gone_is_nobodys() -> None:
    rib = rib_of(told(3, SUBNET))
    assert chosen(rib, SUBNET) == [3]
    rib.withdrawn(peer(3), [(ip_network(SUBNET), 0)])
    assert chosen(rib, SUBNET) == []
    rib.announced(peer(3), [told(3, SUBNET)])
    rib.announced(peer(2), [told(2, SUBNET)])
    assert chosen(rib, SUBNET) == [2]


def test_the_better_claim_has_the_subnet_whoever_had_it() -> None:
    rib = rib_of(told(2, SUBNET))
    assert chosen(rib, SUBNET) == [2]
    rib.announced(peer(3), [told(3, SUBNET, attributes=said(200))])
    assert chosen(rib, SUBNET) == [3]
    # as a pod moves: the lower preference is no claim
    assert rib.conflicts() == ()


def test_reflectors_that_tell_of_one_host_are_no_conflict() -> None:
    of_host = said(originator="10.0.0.9", clusters=("10.0.0.2",))
    rib = rib_of(told(2, SUBNET, via="10.0.0.9", attributes=of_host), told(3, SUBNET, via="10.0.0.9", attributes=of_host))
    assert chosen(rib, SUBNET) == [9]
    assert rib.conflicts() == ()


def test_reflectors_that_tell_of_two_hosts_are_a_conflict() -> None:
    paths = [told(2, SUBNET, via=f"10.0.0.{n}", attributes=said(originator=f"10.0.0.{n}"), path_id=n) for n in (8, 9)]
    rib = rib_of(*paths)
    assert chosen(rib, SUBNET) == [8]
    assert [conflict.losers for conflict in rib.conflicts()] == [("10.0.0.9",)]


def test_a_subnet_behind_two_routers_of_another_as_is_shared() -> None:
    rib = Rib(POLICY)
    for number, router in ((2, 65101), (3, 65102)):
        rib.add_peer(info(number, router))
        rib.announced(peer(number), [told(number, SUBNET, ases=(router, 65001))])
    assert chosen(rib, SUBNET) == [2, 3]
    assert rib.conflicts() == ()


def test_a_subnet_of_two_ases_is_a_conflict() -> None:
    rib = Rib(POLICY)
    for number, host in ((2, 65001), (3, 65002)):
        rib.add_peer(info(number, 65101))
        rib.announced(peer(number), [told(number, SUBNET, ases=(65101, host))])
    assert chosen(rib, SUBNET) == [2]
    assert [(conflict.winner, conflict.losers) for conflict in rib.conflicts()] == [("AS 65001", ("AS 65002",))]


def test_hosts_of_one_as_are_told_apart_by_their_leases() -> None:
    leased = {peer(number): (ip_network(f"10.244.{number}.0/24"),) for number in (2, 3)}
    rib = Rib(replace(POLICY, origin_of=leased))
    for number in (2, 3):
        rib.add_peer(info(number, 65001))
        rib.announced(peer(number), [told(number, "10.244.9.7/32", ases=(65001,))])
    assert [(conflict.winner, conflict.losers) for conflict in rib.conflicts()] == [("10.0.0.2", ("10.0.0.3",))]
    rib.policy_changed(POLICY)
    assert rib.conflicts() == ()
    assert chosen(rib, "10.244.9.7/32") == [2, 3]


def test_a_rule_that_lengthens_the_path_does_not_hide_whose_it_is() -> None:
    rib = Rib(POLICY)
    for number in (2, 3):
        rib.add_peer(info(number, rules=(Rule(changes=Changes(prepend=1)),)))
        rib.announced(peer(number), [told(number, SUBNET)])
    assert [(conflict.winner, conflict.losers) for conflict in rib.conflicts()] == [("10.0.0.2", ("10.0.0.3",))]


def test_who_claims_our_own_subnet_is_refused_and_named() -> None:
    rib = rib_of(told(2, str(OUR_SUBNET)), told(3, "10.244.1.7/32"))
    assert rib.choices() == {}
    words = "10.244.1.0/24 is announced by this host and 10.0.0.2, expected one host; traffic goes to this host"
    assert [str(conflict) for conflict in rib.conflicts()] == [words]


def test_our_own_subnet_reflected_to_us_is_no_claim() -> None:
    assert rib_of(told(2, str(OUR_SUBNET), attributes=said(originator="10.0.0.1"))).conflicts() == ()


def test_the_loser_of_a_conflict_is_explained() -> None:
    words = [each.why for each in rib_of(told(2, SUBNET), told(3, SUBNET)).explain(ip_network(SUBNET))]
    assert words == ["best", "announced by 10.0.0.3, while 10.0.0.2 has the prefix"]
