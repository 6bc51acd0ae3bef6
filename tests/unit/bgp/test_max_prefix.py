"""bgp.rib: a peer that announces too much costs neither memory nor the routes of others."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Network, ip_network

import pytest

from bgp.admission import Reason
from bgp.path import Path
from bgp.peer import MaxPrefix, PeerState
from bgp.refusals import KEPT
from bgp.rib import Rib
from bgp_announcements import OUR_SUBNET, POLICY, info, peer, told

LIMIT = MaxPrefix(10)


def rib_with(limit: MaxPrefix | None, paths: int = 0) -> Rib:
    rib = Rib(POLICY)
    rib.add_peer(info(2, limit=limit))
    rib.up(peer(2))
    rib.announced(peer(2), subnets(paths))
    return rib


def subnets(count: int, first: int = 2) -> list[Path]:
    return [told(2, f"10.244.{number}.0/24") for number in range(first, first + count)]


def state(rib: Rib) -> PeerState:
    found = rib.state(peer(2))
    assert found is not None
    return found


@pytest.mark.parametrize(("limit", "percent", "paths"), [(10, 80, 8), (1, 80, 1), (9, 50, 5), (1000, 80, 800), (5, 0, 1)])
def test_the_warning_comes_at_a_part_of_the_limit(limit: int, percent: int, paths: int) -> None:
    assert MaxPrefix(limit, percent).warn_from == paths


def test_near_the_limit_the_peers_state_says_so() -> None:
    assert [state(rib_with(LIMIT, paths)).warned for paths in (7, 8, 10)] == [False, True, True]
    assert not state(rib_with(None, 100)).warned


def test_at_the_limit_new_prefixes_are_refused_and_old_ones_kept() -> None:
    rib = rib_with(LIMIT, 10)
    assert not state(rib).limited
    rib.announced(peer(2), subnets(3, first=50))
    assert sorted(map(str, rib.choices())) == sorted(str(path.prefix) for path in subnets(10))
    assert state(rib).limited
    assert state(rib).refused == {Reason.LIMIT: 3}
    assert str(rib.refusals(peer(2))[0].refusal) == "prefix 10.244.50.0/24 is one too many, expected 10 at most"


def test_at_the_limit_known_prefixes_may_change() -> None:
    rib = rib_with(LIMIT, 10)
    changed = [replace(path, next_hop=peer(7)) for path in subnets(10)]
    rib.announced(peer(2), changed)
    assert set(rib.choices().values()) == {(path,) for path in changed}
    assert not state(rib).limited


def test_what_the_policy_refuses_does_not_count() -> None:
    rib = rib_with(LIMIT, 10)
    rib.announced(peer(2), [told(2, "0.0.0.0/0")])
    assert not state(rib).limited


@pytest.mark.parametrize("hard", [False, True])
def test_a_hard_limit_wants_the_session_reset(hard: bool) -> None:
    rib = rib_with(MaxPrefix(10, hard=hard), 10)
    assert not state(rib).wants_reset
    rib.announced(peer(2), subnets(1, first=50))
    assert state(rib).wants_reset == hard
    rib.down(peer(2), hard=True, keep_s=0, now=0)
    assert not state(rib).wants_reset


def test_when_there_is_room_again_the_peer_is_to_tell_all_again() -> None:
    rib = rib_with(LIMIT, 12)
    assert not state(rib).wants_refresh
    rib.withdrawn(peer(2), [(path.prefix, 0) for path in subnets(2)])
    assert state(rib).wants_refresh
    rib.refreshed(peer(2))
    assert not state(rib).wants_refresh
    rib.announced(peer(2), subnets(10, first=4))
    assert len(rib.choices()) == 10
    assert (state(rib).limited, state(rib).wants_refresh) == (False, False)


def test_a_higher_limit_makes_room() -> None:
    rib = rib_with(LIMIT, 10 + KEPT + 1)
    rib.add_peer(info(2, limit=MaxPrefix(100)))
    assert len(rib.choices()) == 10 + KEPT
    assert state(rib).wants_refresh


def test_a_lower_limit_takes_nothing_away() -> None:
    rib = rib_with(LIMIT, 10)
    rib.add_peer(info(2, limit=MaxPrefix(5)))
    assert len(rib.choices()) == 10
    rib.announced(peer(2), subnets(1, first=50))
    assert state(rib).limited


def test_a_peer_that_is_down_is_not_to_tell_anything() -> None:
    rib = rib_with(LIMIT, 12)
    rib.down(peer(2), hard=False, keep_s=60, now=0)
    rib.expire(60)
    assert not state(rib).wants_refresh


def test_stale_paths_count_until_they_go() -> None:
    rib = rib_with(LIMIT, 10)
    rib.down(peer(2), hard=False, keep_s=60, now=0)
    rib.up(peer(2))
    rib.announced(peer(2), subnets(10, first=50))
    assert (state(rib).limited, state(rib).wants_refresh) == (True, False)
    rib.end_of_rib(peer(2), 4)
    assert state(rib).wants_refresh


def test_a_policy_that_lets_through_what_was_refused_and_not_kept_wants_it_told_again() -> None:
    rib = rib_with(None)
    rib.announced(peer(2), [told(2, f"10.9.{number}.0/24") for number in range(KEPT + 1)])
    rib.policy_changed(replace(POLICY, own_subnets=(OUR_SUBNET, ip_network("10.244.2.0/24"))))
    assert not state(rib).wants_refresh
    rib.policy_changed(replace(POLICY, services=(ip_network("10.9.0.0/16"),)))
    assert len(rib.choices()) == KEPT
    assert state(rib).wants_refresh
    rib.refreshed(peer(2))
    assert not state(rib).wants_refresh


def test_what_was_refused_and_kept_needs_not_be_told_again() -> None:
    rib = rib_with(None)
    rib.announced(peer(2), [told(2, f"10.9.{number}.0/24") for number in range(KEPT)])
    rib.policy_changed(replace(POLICY, services=(ip_network("10.9.0.0/16"),)))
    assert len(rib.choices()) == KEPT
    assert not state(rib).wants_refresh


def flood(network: str, count: int) -> Iterator[Path]:
    base = ip_network(network).network_address
    template = told(2, "10.244.2.0/24")
    return (replace(template, prefix=IPv4Network((int(base) + number, 32))) for number in range(count))


@pytest.mark.parametrize(
    ("network", "limit", "taken", "kept"),
    [("172.16.0.0/12", 1000, 0, KEPT), ("10.96.0.0/12", 1000, 1000, KEPT), ("10.96.0.0/12", 0, 0, KEPT)],
)
def test_a_hundred_thousand_prefixes_cost_no_more_than_the_limit(network: str, limit: int, taken: int, kept: int) -> None:
    rib = rib_with(MaxPrefix(limit))
    before = sum(isinstance(each, Path) for each in gc.get_objects())
    rib.announced(peer(2), flood(network, 100_000))
    assert len(rib.choices()) == taken
    assert len(rib.refusals(peer(2))) == kept
    assert sum(state(rib).refused.values()) == 100_000 - taken
    gc.collect()
    assert sum(isinstance(each, Path) for each in gc.get_objects()) - before <= taken + kept
