"""bgp.rib: what a peer told, when its session ends, comes back, or is found standing (RFC 4724)."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_network

import pytest

from bgp.rib import Rib
from bgp_announcements import POLICY, SERVICE, SUBNET, chosen, info, peer, rib_of, told
from flanneld.lease import Pool

IPV6_POOL = Pool(ip_network("fd00:244::/48"), 64, ip_network("fd00:244:0:1::/64"), ip_network("fd00:244:0:ffff::/64"))
IPV6_SUBNET, OTHER = "fd00:244:0:9::/64", "10.244.8.0/24"


def stale(rib: Rib, number: int = 2) -> int:
    state = rib.state(peer(number))
    assert state is not None
    return state.stale


@pytest.mark.parametrize(("hard", "keep_s"), [(True, 0), (True, 60), (False, 0)])
def test_what_is_void_or_not_to_be_kept_is_dropped_at_once(hard: bool, keep_s: float) -> None:
    rib = rib_of(told(2, SUBNET))
    rib.down(peer(2), hard, keep_s, now=100)
    assert rib.choices() == {}
    assert rib.next_expiry() is None
    state = rib.state(peer(2))
    assert state is not None
    assert not state.up


def test_what_a_lost_peer_told_is_kept_for_its_time() -> None:
    rib = rib_of(told(2, SUBNET))
    rib.down(peer(2), hard=False, keep_s=60, now=100)
    assert chosen(rib, SUBNET) == [2]
    assert (stale(rib), rib.next_expiry()) == (1, 160)
    assert not rib.expire(159.9)
    assert chosen(rib, SUBNET) == [2]
    assert rib.expire(160)
    assert rib.choices() == {}
    assert not rib.expire(160)


def test_a_hard_end_within_the_time_drops_what_was_kept() -> None:
    rib = rib_of(told(2, SUBNET))
    rib.down(peer(2), hard=False, keep_s=60, now=100)
    rib.down(peer(2), hard=True, keep_s=60, now=101)
    assert rib.choices() == {}


def test_a_fresh_path_is_better_than_a_stale_one() -> None:
    rib = rib_of(told(2, SERVICE), told(3, SERVICE))
    assert chosen(rib, SERVICE) == [2, 3]
    rib.down(peer(2), hard=False, keep_s=60, now=100)
    assert chosen(rib, SERVICE) == [3]


def test_who_takes_over_a_lost_hosts_subnet_is_no_conflict() -> None:
    rib = rib_of(told(2, SUBNET))
    rib.down(peer(2), hard=False, keep_s=60, now=100)
    rib.announced(peer(3), [told(3, SUBNET)])
    assert chosen(rib, SUBNET) == [3]
    assert rib.conflicts() == ()


def test_what_is_told_again_is_fresh_and_the_rest_goes_at_the_end_of_the_rib() -> None:
    rib = rib_of(told(2, SUBNET), told(2, OTHER))
    rib.down(peer(2), hard=False, keep_s=60, now=100)
    rib.up(peer(2))
    rib.announced(peer(2), [told(2, SUBNET)])
    assert (stale(rib), len(rib.choices())) == (1, 2)
    rib.end_of_rib(peer(2), 4)
    assert list(rib.choices()) == [ip_network(SUBNET)]
    assert not rib.expire(1000)


def test_the_end_of_one_familys_rib_is_not_the_others() -> None:
    rib = rib_of()
    rib.policy_changed(replace(POLICY, pools=(*POLICY.pools, IPV6_POOL)))
    rib.announced(peer(2), [told(2, SUBNET), told(2, IPV6_SUBNET)])
    rib.down(peer(2), hard=False, keep_s=60, now=100)
    rib.end_of_rib(peer(2), 6)
    assert list(rib.choices()) == [ip_network(SUBNET)]


def test_the_end_of_one_peers_rib_is_not_anothers() -> None:
    rib = rib_of(told(2, SUBNET), told(3, OTHER))
    for each in (2, 3):
        rib.down(peer(each), hard=False, keep_s=60, now=100)
    rib.end_of_rib(peer(2), 4)
    assert list(rib.choices()) == [ip_network(OTHER)]


def test_a_second_loss_does_not_keep_longer_what_the_first_made_stale() -> None:
    rib = rib_of(told(2, SUBNET), told(2, OTHER))
    rib.down(peer(2), hard=False, keep_s=60, now=100)
    rib.up(peer(2))
    rib.announced(peer(2), [told(2, OTHER)])
    rib.down(peer(2), hard=False, keep_s=60, now=150)
    assert rib.next_expiry() == 160
    assert rib.expire(160)
    assert list(rib.choices()) == [ip_network(OTHER)]
    assert rib.next_expiry() == 210


def test_a_failed_attempt_does_not_keep_anything_longer() -> None:
    rib = rib_of(told(2, SUBNET))
    for now in (100, 130, 159):
        rib.down(peer(2), hard=False, keep_s=60, now=now)
    assert rib.next_expiry() == 160


def test_stale_paths_can_be_withdrawn() -> None:
    rib = rib_of(told(2, SUBNET))
    rib.down(peer(2), hard=False, keep_s=60, now=100)
    rib.up(peer(2))
    rib.withdrawn(peer(2), [(ip_network(SUBNET), 0)])
    assert (rib.choices(), rib.next_expiry()) == ({}, None)


def test_a_stale_path_stays_stale_through_a_change_of_policy() -> None:
    rib = rib_of(told(2, SUBNET))
    rib.down(peer(2), hard=False, keep_s=60, now=100)
    rib.policy_changed(replace(POLICY, elsewhere=frozenset((ip_network(SUBNET),))))
    assert rib.choices() == {}
    rib.policy_changed(POLICY)
    assert chosen(rib, SUBNET) == [2]
    assert (stale(rib), rib.next_expiry()) == (1, 160)


def test_after_our_own_start_the_paths_of_standing_sessions_are_these() -> None:
    rib = Rib(POLICY)
    rib.add_peer(info(2))
    rib.resync(peer(2), [told(2, SUBNET), told(2, "0.0.0.0/0")])
    state = rib.state(peer(2))
    assert state is not None
    assert (state.up, state.paths, sum(state.refused.values())) == (True, 1, 1)
    rib.down(peer(2), hard=False, keep_s=60, now=100)
    rib.resync(peer(2), [told(2, OTHER)])
    assert list(rib.choices()) == [ip_network(OTHER)]
    assert (stale(rib), rib.refusals(peer(2))) == (0, ())


def test_what_was_refused_in_a_lost_session_is_forgotten() -> None:
    rib = rib_of(told(2, "10.244.7.0/24", via="192.0.2.7"))
    assert len(rib.refusals(peer(2))) == 1
    rib.down(peer(2), hard=False, keep_s=60, now=100)
    assert rib.refusals(peer(2)) == ()
