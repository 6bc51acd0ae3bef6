"""bgp.rib: what is chosen among the peers' paths, and why."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network

from hypothesis import given
from hypothesis import strategies as st

from bgp.admission import Reason
from bgp.path import Path
from bgp.policy import Changes, Match, Rule
from bgp_announcements import POLICY, SERVICE, SUBNET, chosen, info, peer, rib_of, said, told


def test_what_is_announced_is_chosen_until_it_is_withdrawn() -> None:
    path = told(2, SUBNET)
    rib = rib_of(path)
    assert rib.choices() == {path.prefix: (path,)}
    rib.withdrawn(peer(2), [(path.prefix, 0)])
    assert rib.choices() == {}


def test_a_new_announcement_takes_the_place_of_the_old() -> None:
    rib = rib_of(told(2, SUBNET), told(2, SUBNET, via="10.0.0.7"))
    assert chosen(rib, SUBNET) == [7]


def test_a_new_announcement_that_is_refused_withdraws_the_old() -> None:
    rib = rib_of(told(2, SUBNET), told(2, SUBNET, via="192.0.2.7"))
    assert rib.choices() == {}


def test_paths_with_numbers_stand_side_by_side() -> None:
    rib = rib_of(told(2, SERVICE, via="10.0.0.7", path_id=1), told(2, SERVICE, via="10.0.0.8", path_id=2))
    assert chosen(rib, SERVICE) == [7, 8]
    rib.withdrawn(peer(2), [(ip_network(SERVICE), 1)])
    assert chosen(rib, SERVICE) == [8]


def test_what_was_never_announced_can_be_withdrawn() -> None:
    rib = rib_of()
    rib.withdrawn(peer(2), [(ip_network(SUBNET), 0)])
    assert rib.choices() == {}


def test_a_peer_that_was_not_added_is_not_listened_to() -> None:
    rib = rib_of(told(99, SUBNET))
    rib.withdrawn(peer(99), [(ip_network(SUBNET), 0)])
    rib.resync(peer(99), [told(99, SUBNET)])
    assert rib.choices() == {}
    assert rib.state(peer(99)) is None
    assert rib.refusals(peer(99)) == ()


def test_a_forgotten_peer_leaves_nothing() -> None:
    rib = rib_of(told(2, SERVICE), told(3, SERVICE))
    rib.forget(peer(2))
    rib.forget(peer(2))
    assert chosen(rib, SERVICE) == [3]
    assert rib.state(peer(2)) is None


def test_traffic_to_a_service_is_shared_among_equals() -> None:
    rib = rib_of(*(told(number, SERVICE) for number in (4, 2, 3)), told(5, SERVICE, attributes=said(99)))
    assert chosen(rib, SERVICE) == [2, 3, 4]


def test_no_more_next_hops_are_used_than_allowed() -> None:
    rib = rib_of(*(told(number, SERVICE) for number in range(12, 1, -1)), max_paths=3)
    assert chosen(rib, SERVICE) == [2, 3, 4]


def test_a_next_hop_is_used_once() -> None:
    rib = rib_of(told(2, SERVICE, via="10.0.0.9"), told(3, SERVICE, via="10.0.0.9"), told(4, SERVICE))
    assert chosen(rib, SERVICE) == [9, 4]


def test_a_prefix_that_was_not_touched_keeps_the_very_tuple() -> None:
    rib = rib_of(told(2, SERVICE), told(3, SUBNET))
    before = dict(rib.choices())
    rib.announced(peer(2), [told(2, SERVICE), told(2, "10.244.2.0/24")])
    assert all(rib.choices()[prefix] is paths for prefix, paths in before.items())


@given(st.permutations([told(n, prefix, attributes=said(med=n % 2)) for n in range(2, 7) for prefix in (SERVICE, "10.96.0.2/32")]))
def test_choices_hang_on_what_was_told_and_not_on_its_order(paths: list[Path]) -> None:
    assert rib_of(*paths, peers=7).choices() == rib_of(*sorted(paths, key=str), peers=7).choices()


def test_every_path_is_explained() -> None:
    rib = rib_of(
        told(2, SERVICE),
        told(3, SERVICE),
        told(4, SERVICE),
        told(5, SERVICE, via="10.0.0.2"),
        told(6, SERVICE, attributes=said(50)),
        told(7, SERVICE, via="192.0.2.7"),
        max_paths=2,
    )
    assert [(each.path.peer, each.chosen, each.why) for each in rib.explain(ip_network(SERVICE))] == [
        (peer(2), True, "best"),
        (peer(3), True, "as good as the best"),
        (peer(4), False, "2 next hops are in use, which is the limit"),
        (peer(5), False, "next hop 10.0.0.2 is in use already"),
        (peer(6), False, "local preference 50, another 100"),
        (peer(7), False, "refused: next hop 192.0.2.7 is neither on a link of ours nor a known host"),
    ]
    assert rib.explain(ip_network("10.96.0.9/32")) == ()


def test_a_new_policy_judges_what_was_told_before() -> None:
    rib = rib_of(told(2, SUBNET), told(2, "10.244.8.0/24"), told(3, "10.244.7.0/24", via="192.0.2.7"))
    hosts = frozenset((ip_address("192.0.2.7"),))
    rib.policy_changed(replace(POLICY, elsewhere=frozenset((ip_network(SUBNET),)), known_hosts=hosts))
    assert sorted(map(str, rib.choices())) == ["10.244.7.0/24", "10.244.8.0/24"]
    words = "10.244.9.0/24 via 10.0.0.2 from 10.0.0.2: prefix 10.244.9.0/24 is leased by a host that is not reached by BGP"
    assert [str(each) for each in rib.refusals(peer(2))] == [words]
    rib.policy_changed(POLICY)
    assert sorted(map(str, rib.choices())) == ["10.244.8.0/24", "10.244.9.0/24"]


def test_new_rules_judge_what_was_told_before() -> None:
    rib = rib_of(told(2, SUBNET), told(2, SERVICE))
    rib.add_peer(info(2, rules=(Rule(Match(ip_network(SUBNET)), accept=False), Rule(changes=Changes(med=7)))))
    assert [path.attributes.med for (path,) in rib.choices().values()] == [7]
    rib.add_peer(info(2))
    assert [path.attributes.med for (path,) in rib.choices().values()] == [None, None]


def test_a_peers_new_router_id_counts_at_once() -> None:
    rib = rib_of(told(2, SERVICE), told(3, SERVICE))
    assert chosen(rib, SERVICE) == [2, 3]
    rib.add_peer(replace(info(2), router_id="10.0.0.200"))
    assert chosen(rib, SERVICE) == [3, 2]


def test_the_reasons_of_refusals_are_counted_and_shown() -> None:
    rib = rib_of(told(2, "0.0.0.0/0"), told(2, "10.9.0.0/16"), told(2, "10.8.0.0/16"))
    state = rib.state(peer(2))
    assert state is not None
    assert state.refused == {Reason.DEFAULT_ROUTE: 1, Reason.NO_POOL: 2}
    assert [str(each.path.prefix) for each in rib.refusals(peer(2))] == ["0.0.0.0/0", "10.9.0.0/16", "10.8.0.0/16"]
    rib.withdrawn(peer(2), [(ip_network("10.9.0.0/16"), 0)])
    assert len(rib.refusals(peer(2))) == 2
