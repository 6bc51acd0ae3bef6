"""Who speaks with whom: what holds for any set of hosts."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import combinations
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from bgp.config import BgpConfig, Reflectors
from bgp.hosts import HostView
from bgp.neighbours import Neighbour
from bgp.session import Session
from bgp.topology import Role, reflectors
from bgp_hosts import config_of, host, seen_by
from flanneld.lease import Family

RACKS = [{"Select": "rack=r1", "AS": 65001}, {"Select": "rack=r2", "AS": 65002, "Mesh": False}]
LINK = {"Select": "rack=r1", "SelectPeer": "role=edge", "PasswordFile": "/edge", "HoldTime": 30, "Multihop": 4}
CONFIGS = [
    config_of(PasswordFile="/mesh"),
    config_of(Hosts=RACKS, TTLSecurity=3),
    config_of(Hosts=RACKS, PasswordFile="/mesh", Peers=[LINK | {"AS": 65001}, {"SelectPeer": "role=edge"}]),
    config_of(Reflectors={"Count": 2}, Peers=[LINK]),
    config_of(Reflectors={"Count": 1}, Hosts=RACKS),
    config_of(Reflectors={"Select": "role=edge"}, Hosts=RACKS[:1], BFD={}),
    config_of(Reflectors={"Select": "role=edge"}, Mesh=False),
    config_of(Mesh=False, Peers=[LINK]),
]
ROLES = {(Role.MESH, Role.MESH), (Role.REFLECTOR, Role.CLIENT), (Role.CLIENT, Role.REFLECTOR), (Role.REFLECTOR, Role.REFLECTOR)}
LABELS = st.fixed_dictionaries({"rack": st.sampled_from(["r1", "r2", "r3"]), "role": st.sampled_from(["edge", "other"])})
FAMILIES: st.SearchStrategy[tuple[Family, ...]] = st.sampled_from([(4,), (6,), (4, 6)])


@st.composite
def clusters(draw: st.DrawFn) -> tuple[BgpConfig, list[HostView]]:
    """Hosts of any kind."""
    config = draw(st.sampled_from(CONFIGS))
    numbers = draw(st.lists(st.integers(1, 250), unique=True, max_size=7))
    return config, [host(config, n, draw(LABELS), draw(FAMILIES), draw(st.integers(0, 1))) for n in numbers]


def pairs(config: BgpConfig, hosts: Sequence[HostView]) -> dict[tuple[str, str], Neighbour]:
    """What each host has with each other, by the names of both."""
    names = {address: view.name for view in hosts for address in view.addresses}
    return {
        (own.name, names[neighbour.session.peer]): neighbour
        for own in hosts
        for neighbour in seen_by(config, own, hosts).neighbours
    }


def mirrored(session: Session) -> tuple[object, ...]:
    return session.peer, session.local, session.peer_as, session.local_as, not session.passive


def shared(session: Session) -> tuple[object, ...]:
    return (
        session.password,
        session.hold_time_s,
        session.families,
        session.multihop,
        session.ttl_security,
        session.graceful_restart_s,
    )


@given(clusters())
def test_both_ends_have_the_same_session_seen_from_their_side(cluster: tuple[BgpConfig, list[HostView]]) -> None:
    found = pairs(*cluster)
    for (one, other), here in found.items():
        there = found[other, one]
        session = there.session
        assert mirrored(here.session) == (session.local, session.peer, session.local_as, session.peer_as, session.passive)
        assert shared(here.session) == shared(session)
        assert (here.role, there.role) in ROLES
        assert here.bfd == there.bfd


@given(clusters())
def test_no_host_is_its_own_neighbour_and_nobody_has_two_sessions(cluster: tuple[BgpConfig, list[HostView]]) -> None:
    config, hosts = cluster
    for own in hosts:
        found = [neighbour.host for neighbour in seen_by(config, own, hosts).neighbours]
        assert own.subnets not in found
        assert len(found) == len(set(found))


@given(clusters(), st.randoms(use_true_random=False))
def test_the_order_in_which_hosts_are_known_makes_no_difference(cluster: tuple[BgpConfig, list[HostView]], random: Random) -> None:
    config, hosts = cluster
    shuffled = random.sample(hosts, len(hosts))
    assert [seen_by(config, own, hosts) for own in hosts] == [seen_by(config, own, shuffled) for own in hosts]


@given(clusters())
def test_who_is_refused_refuses_too(cluster: tuple[BgpConfig, list[HostView]]) -> None:
    config, hosts = cluster
    refused = {(own.name, peer.name) for own in hosts for peer, _ in seen_by(config, own, hosts).refused}
    assert refused == {(other, one) for one, other in refused}


CONNECTED = [
    config_of(),
    config_of(Hosts=[RACKS[0]]),
    config_of(Reflectors={"Count": 2}),
    config_of(Reflectors={"Count": 3}, Mesh=False),
    config_of(Reflectors={"Count": 1}, Hosts=[RACKS[0]]),
    config_of(Reflectors={"Select": "role=edge"}, Hosts=[RACKS[0]]),
]


@given(st.sampled_from(CONNECTED), st.lists(LABELS, max_size=8))
def test_every_host_has_a_way_to_tell_every_other(config: BgpConfig, labels: list[dict[str, str]]) -> None:
    """Directly, or by a reflector: of the same AS, if both are of one, for else it would be a loop to them."""
    hosts = [host(config, n, each) for n, each in enumerate(labels, 1)]
    found = pairs(config, hosts)
    for one, other in combinations(hosts, 2):
        between = [
            middle
            for middle in hosts
            if all((end.name, middle.name) in found and found[end.name, middle.name].role is Role.REFLECTOR for end in (one, other))
            and (one.asn != other.asn or middle.asn == one.asn)
        ]
        assert between or (one.name, other.name) in found


NUMBERS = st.sets(st.integers(1, 250), max_size=12)


def chosen(rule: Reflectors, numbers: Collection[int]) -> set[str]:
    return {view.name for view in reflectors(rule, [host(config_of(), n) for n in numbers])}


@given(NUMBERS, st.integers(1, 250), st.integers(2, 5))
def test_a_host_that_joins_changes_one_of_the_chosen_reflectors_at_most(numbers: set[int], new: int, count: int) -> None:
    before, after = (chosen(Reflectors(count=count), each) for each in (numbers, numbers | {new}))
    assert len(before - after) <= 1
    assert after - before <= {f"h{new}"}


@given(NUMBERS, st.integers(2, 5))
def test_there_are_as_many_reflectors_as_wanted_while_there_are_hosts(numbers: set[int], count: int) -> None:
    assert len(chosen(Reflectors(count=count), numbers)) == min(count, len(numbers))


def test_the_first_hosts_of_a_rack_are_not_all_chosen() -> None:
    assert chosen(Reflectors(count=3), range(1, 200)) != {"h1", "h2", "h3"}


def test_chosen_reflectors_outlive_the_loss_of_one() -> None:
    config = config_of(Reflectors={"Count": 1})
    hosts = [host(config, n) for n in range(1, 6)]
    found = pairs(config, hosts)
    of_each = [sum(neighbour.role is Role.REFLECTOR for (own, _), neighbour in found.items() if own == view.name) for view in hosts]
    assert sorted(of_each) == [1, 1, 2, 2, 2]
