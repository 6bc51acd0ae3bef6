"""What each neighbour is told."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgp.exports import Origination, Reflection, announcements, next_hop_of
from bgp.neighbours import Neighbour
from bgp.path import GRACEFUL_SHUTDOWN, NO_ADVERTISE, NO_EXPORT, Asn, AsPath, Path
from bgp.peer import MaxPrefix
from bgp.policy import parse_rules
from bgp.speaker.commands import Announcement
from bgp.topology import Role
from bgp_announcements import OUR_AS, OUR_SUBNET, SUBNET, US, info, peer, said, told
from flanneld.lease import IPAddress

CLUSTER = IPv4Address("10.0.0.1")
US6 = ip_address("fd00:10::1")
OUR_SUBNET6 = ip_network("fd00:244:0:1::/64")
OWN = Origination((OUR_SUBNET,), addresses=(US, US6))
NET = ip_network(SUBNET)


def neighbour(number: int, role: Role = Role.MESH, asn: int = OUR_AS, **changes: object) -> Neighbour:
    session = info(number, asn).session
    return replace(Neighbour(session, role, (), (), MaxPrefix(100), None, frozenset()), **changes)  # type: ignore[arg-type]


def over_ipv6(own: Neighbour) -> Neighbour:
    """The same, by a session of IPv6 that carries both families."""
    return replace(own, session=replace(own.session, peer=ip_address("fd00:10::2"), local=US6, families=(4, 6)))


def own_of(to: Neighbour, own: Origination = OWN) -> Announcement:
    (announced,) = announcements(to, own).values()
    return announced


def test_inside_of_our_as_a_subnet_has_a_local_preference_and_no_as_path() -> None:
    announced = own_of(neighbour(2))
    assert (announced.prefix, announced.next_hop) == (OUR_SUBNET, US)
    assert (announced.attributes.local_pref, announced.attributes.as_path.length) == (100, 0)


def test_to_another_as_it_has_ours_in_its_path_and_no_local_preference() -> None:
    announced = own_of(neighbour(2, Role.EXTERNAL, 65101))
    assert (announced.attributes.local_pref, announced.attributes.as_path.sequence) == (None, (OUR_AS,))


def test_communities_are_those_of_the_neighbour() -> None:
    assert own_of(neighbour(2, communities=frozenset({(64512, 100)}))).attributes.communities == {(64512, 100)}


def test_who_is_drained_is_everybodys_last_choice() -> None:
    drained = replace(OWN, draining=True)
    inside, outside = own_of(neighbour(2), drained), own_of(neighbour(3, Role.EXTERNAL, 65101), drained)
    assert (inside.attributes.local_pref, outside.attributes.local_pref) == (0, None)
    assert all(GRACEFUL_SHUTDOWN in told.attributes.communities for told in (inside, outside))


def test_what_was_asked_for_is_announced_besides() -> None:
    extra = ip_network("10.96.0.10/32")
    assert set(announcements(neighbour(2), replace(OWN, extra=frozenset({extra})))) == {OUR_SUBNET, extra}


def test_a_family_that_is_not_exchanged_is_not_told() -> None:
    assert set(announcements(neighbour(2), replace(OWN, subnets=(OUR_SUBNET, OUR_SUBNET6)))) == {OUR_SUBNET}


def test_each_family_has_a_next_hop_of_its_own_where_there_is_one() -> None:
    both = replace(neighbour(2), session=replace(neighbour(2).session, families=(4, 6)))
    found = announcements(both, replace(OWN, subnets=(OUR_SUBNET, OUR_SUBNET6)))
    assert {prefix.version: each.next_hop for prefix, each in found.items()} == {4: US, 6: US6}
    assert {each.next_hop for each in announcements(over_ipv6(both), OWN).values()} == {US}


def test_ipv4_may_have_a_next_hop_of_ipv6_but_not_the_other_way_round() -> None:
    """RFC 8950."""
    v6 = over_ipv6(neighbour(2))
    assert next_hop_of(v6, (US6,), OUR_SUBNET) == US6
    v4 = replace(neighbour(2), session=replace(neighbour(2).session, families=(4, 6)))
    assert next_hop_of(v4, (US,), OUR_SUBNET6) is None


def test_export_rules_have_the_last_word() -> None:
    refused = parse_rules([{"Match": {"Prefix": "10.244.0.0/16"}, "Action": "refuse"}], "Export")
    assert announcements(neighbour(2, exports=refused), OWN) == {}
    changed = parse_rules([{"Action": "accept", "Set": {"MED": 5, "Communities": ["64512:7"], "Prepend": 2}}], "Export")
    attributes = own_of(neighbour(2, Role.EXTERNAL, 65101, exports=changed)).attributes
    assert (attributes.med, attributes.communities) == (5, frozenset({(64512, 7)}))
    assert attributes.as_path.sequence == (OUR_AS,) * 3


def reflection(*paths: Path, **roles: Role) -> Reflection:
    """What we pass on as a reflector; host n is said by `h<n>`, and is of our AS unless it is external."""
    of = {peer(int(name[1:])): role for name, role in roles.items()}
    internal = frozenset(address for address, role in of.items() if role is not Role.EXTERNAL)
    return Reflection(CLUSTER, {path.prefix: (path,) for path in paths}, of, internal, {each: str(each) for each in of})


def reflected(to: Neighbour, *paths: Path, **roles: Role) -> set[IPAddress]:
    """The next hops of what the neighbour is told besides our own."""
    found = announcements(to, OWN, reflection(*paths, **roles))
    return {each.next_hop for prefix, each in found.items() if prefix != OUR_SUBNET and each.next_hop is not None}


PASSED_ON = [
    (Role.CLIENT, Role.CLIENT, True),
    (Role.CLIENT, Role.REFLECTOR, True),
    (Role.REFLECTOR, Role.CLIENT, True),
    (Role.REFLECTOR, Role.REFLECTOR, False),
    (Role.EXTERNAL, Role.CLIENT, True),
    (Role.EXTERNAL, Role.REFLECTOR, True),
    (Role.CLIENT, Role.MESH, False),
    (Role.CLIENT, Role.EXTERNAL, False),
]


@pytest.mark.parametrize(("source", "to", "passed"), PASSED_ON)
def test_who_is_told_what_whom_has_told(source: Role, to: Role, passed: bool) -> None:
    """RFC 4456 §6; a router is told by each host itself."""
    target = neighbour(3, to, 65101 if to is Role.EXTERNAL else OUR_AS)
    path = told(2, SUBNET, ases=(65102,) if source is Role.EXTERNAL else ())
    assert bool(reflected(target, path, h2=source, h3=to)) is passed


def test_nobody_is_told_what_he_has_told() -> None:
    assert reflected(neighbour(2, Role.CLIENT), told(2, SUBNET), h2=Role.CLIENT) == set()


def test_a_reflection_names_its_origin_and_its_way_and_leaves_the_next_hop_alone() -> None:
    """RFC 4456 §8."""
    path = told(2, SUBNET, attributes=said(clusters=("10.0.0.9",)))
    announced = announcements(neighbour(3, Role.CLIENT), OWN, reflection(path, h2=Role.CLIENT, h3=Role.CLIENT))[NET]
    assert announced.next_hop == peer(2)
    assert announced.attributes.originator_id == IPv4Address("10.0.0.2")
    assert announced.attributes.cluster_list == (CLUSTER, IPv4Address("10.0.0.9"))


def test_the_origin_that_another_reflector_has_named_stays() -> None:
    path = told(2, SUBNET, attributes=said(originator="10.0.0.7"))
    announced = announcements(neighbour(3, Role.CLIENT), OWN, reflection(path, h2=Role.REFLECTOR, h3=Role.CLIENT))[NET]
    assert announced.attributes.originator_id == IPv4Address("10.0.0.7")


def test_what_came_from_outside_has_no_origin_and_a_local_preference() -> None:
    path = told(2, SUBNET, ases=(65101,))
    announced = announcements(neighbour(3, Role.CLIENT), OWN, reflection(path, h2=Role.EXTERNAL, h3=Role.CLIENT))[NET]
    assert (announced.attributes.originator_id, announced.attributes.local_pref) == (None, 100)
    assert announced.attributes.as_path == AsPath((Asn(65101),))


def test_to_a_client_of_another_as_the_path_is_longer_by_ours() -> None:
    path = told(2, SUBNET, attributes=said(local_pref=300))
    target = neighbour(3, Role.CLIENT, 64513)
    announced = announcements(target, OWN, reflection(path, h2=Role.CLIENT, h3=Role.CLIENT))[NET]
    assert announced.attributes.as_path.sequence == (OUR_AS,)
    assert (announced.attributes.local_pref, announced.attributes.originator_id) == (None, None)


@pytest.mark.parametrize(
    ("community", "asn", "passed"),
    [(NO_ADVERTISE, OUR_AS, False), (NO_EXPORT, OUR_AS, True), (NO_EXPORT, 64513, False), (NO_ADVERTISE, 64513, False)],
)
def test_well_known_communities_are_obeyed(community: tuple[int, int], asn: int, passed: bool) -> None:
    """RFC 1997."""
    path = told(2, SUBNET, attributes=said(communities=(community,)))
    assert bool(reflected(neighbour(3, Role.CLIENT, asn), path, h2=Role.CLIENT, h3=Role.CLIENT)) is passed


def test_our_own_prefix_is_told_by_ourselves_whoever_else_has_it() -> None:
    claim = told(2, str(OUR_SUBNET))
    announced = announcements(neighbour(3, Role.CLIENT), OWN, reflection(claim, h2=Role.CLIENT, h3=Role.CLIENT))
    assert announced[OUR_SUBNET].next_hop == US


@given(st.sets(st.sampled_from([OUR_SUBNET, OUR_SUBNET6, ip_network("10.96.0.1/32")])), st.sampled_from(list(Role)), st.booleans())
def test_all_that_is_told_can_be_said_in_the_session(prefixes: set[object], role: Role, v6: bool) -> None:
    to = neighbour(2, role)
    to = over_ipv6(to) if v6 else to
    found = announcements(to, Origination(extra=frozenset(prefixes), addresses=(US, US6)))  # type: ignore[arg-type]
    assert all(prefix.version in to.session.families for prefix in found)
    assert all(each.next_hop is not None and each.prefix == prefix for prefix, each in found.items())
