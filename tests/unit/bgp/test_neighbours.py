"""Which sessions a host has, and what they are like."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, ip_address, ip_interface, ip_network

import pytest

from bgp.config import BgpConfig
from bgp.hosts import HostView
from bgp.neighbours import Neighbour, neighbours, password_files
from bgp.path import Asn
from bgp.peer import MaxPrefix
from bgp.policy import parse_rules
from bgp.session import Session
from bgp.settings import BfdTimers
from bgp.topology import Role
from bgp_hosts import between, config_of, host, seen_by

ROUTER = {"Address": "10.0.0.254", "AS": 65101}


def the(neighbour: Neighbour | None) -> Neighbour:
    assert neighbour is not None
    return neighbour


def session_between(config: BgpConfig, own: HostView, peer: HostView) -> Session:
    return the(between(config, own, peer)).session


def external(config: BgpConfig, own: HostView) -> Neighbour:
    (neighbour,) = seen_by(config, own, []).neighbours
    return neighbour


def test_two_hosts_have_one_session_and_the_one_with_the_lower_address_waits() -> None:
    config = config_of(PasswordFile="/mesh", HoldTime=3)
    neighbour = the(between(config, host(config, 9), host(config, 10)))
    nine, ten = ip_address("10.0.0.9"), ip_address("10.0.0.10")
    expected = Session(ten, nine, config.asn, config.asn, "10.0.0.9", 179, True, "between hosts", 3, 1)
    assert neighbour == Neighbour(
        expected, Role.MESH, (), (), MaxPrefix(10_000), None, frozenset(), (ip_network("10.244.10.0/24"),), next_hop_self=True
    )
    assert not session_between(config, host(config, 10), host(config, 9)).passive


def test_the_port_and_as_are_those_that_the_peer_publishes() -> None:
    config = config_of()
    peer = replace(host(config, 2), asn=Asn(65002), port=1790)
    session = session_between(config, host(config, 1), peer)
    assert (session.port, session.local_as, session.peer_as, session.internal) == (1790, 64512, 65002, False)


def test_dual_stack_hosts_have_one_session_over_ipv4_for_both_families() -> None:
    config = config_of()
    one, other = (host(config, n, families=(4, 6)) for n in (1, 2))
    (neighbour,) = seen_by(config, one, [other]).neighbours
    assert (neighbour.session.peer, neighbour.session.families) == (ip_address("10.0.0.2"), (4, 6))
    assert neighbour.host == other.subnets


def test_hosts_without_ipv4_have_theirs_over_ipv6() -> None:
    config = config_of()
    session = session_between(config, host(config, 1, families=(6,)), host(config, 2, families=(4, 6)))
    assert (session.peer, session.families) == (ip_address("fd00:10::2"), (6,))


@pytest.mark.parametrize(
    ("setting", "on_link", "off_link"),
    [(None, 1, None), (False, None, None), (1, 1, None), (3, 3, 3)],
)
def test_security_by_ttl_is_for_hosts_on_the_link_unless_it_allows_for_more_hops(
    setting: object, on_link: int | None, off_link: int | None
) -> None:
    config = config_of(TTLSecurity=setting)
    own, near, far = host(config, 1), host(config, 2), host(config, 3, segment=1)
    assert session_between(config, own, near).ttl_security == on_link
    assert session_between(config, own, far).ttl_security == off_link


def test_hosts_of_different_as_reach_each_other_beyond_a_router() -> None:
    config = config_of(Hosts=[{"Select": "address in (10.0.1.0/24)", "AS": 65001}])
    own, near, far = host(config, 1), host(config, 2), host(config, 3, segment=1)
    assert session_between(config, own, far).multihop == 255
    assert session_between(config, own, near).multihop is None
    assert session_between(config, far, host(config, 4, segment=2)).multihop == 255


def test_bfd_watches_hosts_on_the_link() -> None:
    config = config_of(BFD={"Interval": 100})
    assert the(between(config, host(config, 1), host(config, 2))).bfd == BfdTimers(100, 3)
    assert the(between(config, host(config, 1), host(config, 3, segment=1))).bfd is None


def test_what_we_announce_has_the_communities_of_the_host_and_of_the_peer() -> None:
    config = config_of(
        Communities=["1:1"],
        Hosts=[{"Select": "name=h1", "Communities": ["1:2"]}],
        Peers=[ROUTER | {"Communities": ["1:3"]}],
    )
    to_router, to_host = seen_by(config, host(config, 1), [host(config, 2)]).neighbours
    assert (to_router.communities, to_host.communities) == (frozenset({(1, 2), (1, 3)}), frozenset({(1, 2)}))
    assert external(config, host(config, 2)).communities == frozenset({(1, 1), (1, 3)})


def test_without_a_mesh_there_are_only_externals() -> None:
    config = config_of(Mesh=False, Peers=[ROUTER])
    assert [each.role for each in seen_by(config, host(config, 1), [host(config, 2)]).neighbours] == [Role.EXTERNAL]


def test_one_host_can_be_left_out_of_the_mesh() -> None:
    config = config_of(Hosts=[{"Select": "role == alone", "Mesh": False}])
    alone, one, other = host(config, 1, {"role": "alone"}), host(config, 2), host(config, 3)
    assert between(config, one, other, alone)
    assert not between(config, one, alone, other)
    assert not seen_by(config, alone, [one, other]).neighbours


def test_a_router_is_connected_to_from_our_own_address() -> None:
    config = config_of(Peers=[ROUTER | {"Port": 1179, "PasswordFile": "/router"}])
    neighbour = external(config, host(config, 1, families=(4, 6)))
    session = neighbour.session
    assert (session.peer, session.local, session.port) == (ip_address("10.0.0.254"), ip_address("10.0.0.1"), 1179)
    assert (session.passive, session.password, session.ttl_security, session.families) == (False, "with the router", None, (4, 6))
    assert (neighbour.role, neighbour.host, neighbour.next_hop_self) == (Role.EXTERNAL, None, True)


def test_a_router_can_be_had_otherwise() -> None:
    rules = [{"Action": "refuse"}]
    way = {
        "Source": "192.0.2.1",
        "Passive": True,
        "NextHop": "keep",
        "Families": [4],
        "Multihop": 5,
        "Import": rules,
        "MaxPrefix": 9,
    }
    neighbour = external(config := config_of(Peers=[ROUTER | way]), host(config, 1, families=(4, 6)))
    session = neighbour.session
    assert (session.local, session.passive, session.multihop) == (ip_address("192.0.2.1"), True, 5)
    assert (session.families, neighbour.next_hop_self) == ((4,), False)
    assert (neighbour.imports, neighbour.exports, neighbour.max_prefix) == (parse_rules(rules, ""), (), MaxPrefix(9))


def test_a_router_is_only_for_the_hosts_that_are_selected() -> None:
    config = config_of(Peers=[ROUTER | {"Select": "rack == r1"}])
    assert seen_by(config, host(config, 1, {"rack": "r1"}), []).neighbours
    assert seen_by(config, host(config, 1, {"rack": "r2"}), []) == seen_by(config_of(), host(config, 1), [])


def test_no_host_is_its_own_neighbour() -> None:
    config = config_of(Peers=[ROUTER | {"Address": "10.0.0.1"}])
    own = host(config, 1)
    left_behind = replace(own, subnets=(ip_network("10.244.99.0/24"),))
    assert seen_by(config, own, [own, left_behind]) == seen_by(config, own, [])
    assert not seen_by(config, own, [own]).neighbours


def test_a_router_of_a_family_that_we_have_not_is_warned_of() -> None:
    config = config_of(Peers=[ROUTER | {"Address": "fd00:10::254"}])
    seen = seen_by(config, host(config, 1), [])
    assert not seen.neighbours
    assert seen.warnings == ("Backend.Peers[0]: no session with fd00:10::254: this host has no IPv6 address",)


def test_a_host_at_the_address_of_a_router_is_had_as_the_router() -> None:
    config = config_of(Peers=[ROUTER | {"Address": "10.0.0.2"}])
    seen = seen_by(config, host(config, 1), [host(config, 2), host(config, 3)])
    assert [(str(each.session.peer), each.role) for each in seen.neighbours] == [
        ("10.0.0.2", Role.EXTERNAL),
        ("10.0.0.3", Role.MESH),
    ]
    assert seen.warnings == ("10.0.0.2 is in Peers, and an address of host h2 (10.0.0.2): the session with it is as Peers says",)


def test_without_its_password_there_is_no_session() -> None:
    config = config_of(PasswordFile="/mesh", Peers=[ROUTER | {"PasswordFile": "/router"}])
    seen = seen_by(config, host(config, 1), [host(config, 2)], passwords={})
    assert not seen.neighbours
    assert seen.refused == ((host(config, 2), "the password in /mesh is not known"),)
    assert seen.warnings == ("Backend.Peers[0]: no session with 10.0.0.254: the password in /router is not known",)


def test_the_passwords_of_other_hosts_routers_are_not_needed() -> None:
    here, there = {"Select": "rack=r1", "PasswordFile": "/router"}, {"Select": "rack=r2", "PasswordFile": "/other"}
    edge = {"SelectPeer": "role == edge", "PasswordFile": "/edge"}
    config = config_of(PasswordFile="/mesh", Peers=[ROUTER | here, ROUTER | there | {"Address": "10.0.0.253"}, edge])
    assert password_files(config, host(config, 1, {"rack": "r1"})) == {"/mesh", "/router", "/edge"}


def test_a_host_without_a_common_family_is_refused() -> None:
    config = config_of()
    own, peer = host(config, 1), host(config, 2, families=(6,))
    pods = replace(host(config, 3, families=(4, 6)), subnets=(ip_network("fd00:244:0:3::/64"),))
    assert seen_by(config, own, [peer, pods]).refused == (
        (pods, "has no subnet of a family that h1 (10.0.0.1) has one of"),
        (peer, "has no address of a family that h1 (10.0.0.1) has one of"),
    )


def test_a_host_with_our_router_id_is_refused() -> None:
    config = config_of(Hosts=[{"RouterID": "1.1.1.1"}])
    seen = seen_by(config, host(config, 1), [host(config, 2)])
    assert seen.refused == ((host(config, 2), "has our router id 1.1.1.1, expected another: see RouterID in Hosts"),)


def test_of_two_hosts_with_one_address_the_second_is_refused() -> None:
    config = config_of()
    own, peer, nowhere = host(config, 1), host(config, 2), replace(host(config, 5), addresses=())
    twin, impostor = replace(host(config, 3), addresses=peer.addresses), replace(host(config, 4), addresses=own.addresses)
    seen = seen_by(config, own, [twin, impostor, peer, nowhere])
    assert [each.host for each in seen.neighbours] == [peer.subnets]
    assert seen.refused == (
        (nowhere, "has no public address"),
        (impostor, "has an address of our own"),
        (twin, "has an address of host h2 (10.0.0.2)"),
    )


def test_a_host_with_two_leases_may_announce_both_subnets() -> None:
    config = config_of()
    peer = host(config, 2)
    other = replace(peer, subnets=(ip_network("10.244.77.0/24"),))
    (neighbour,) = seen_by(config, host(config, 1), [peer, other]).neighbours
    assert neighbour.host == peer.subnets + other.subnets


def test_hosts_that_peers_bring_together_have_a_session_as_it_says_at_both_ends() -> None:
    link = {"Select": "rack == r1", "SelectPeer": "role == edge", "HoldTime": 30, "PasswordFile": "/edge"}
    config = config_of(Mesh=False, Peers=[link])
    one, edge, third = host(config, 1, {"rack": "r1"}), host(config, 2, {"role": "edge"}), host(config, 3)
    for own, peer in ((one, edge), (edge, one)):
        neighbour = the(between(config, own, peer, third))
        assert (neighbour.session.hold_time_s, neighbour.session.password, neighbour.role) == (30, "with the edge", Role.MESH)
        assert neighbour.host == peer.subnets
    assert not seen_by(config, third, [one, edge]).neighbours


def test_with_reflectors_clients_have_sessions_with_those_only() -> None:
    config = config_of(Reflectors={"Select": "role == rr"})
    rr = [host(config, n, {"role": "rr"}) for n in (1, 2)]
    clients = [host(config, n) for n in (3, 4)]
    of_client = seen_by(config, clients[0], [*rr, clients[1]])
    of_reflector = seen_by(config, rr[0], [rr[1], *clients])
    assert [(each.host, each.role, each.next_hop_self) for each in of_client.neighbours] == [
        (each.subnets, Role.REFLECTOR, False) for each in rr
    ]
    assert [each.role for each in of_reflector.neighbours] == [Role.REFLECTOR, Role.CLIENT, Role.CLIENT]
    assert not of_reflector.neighbours[1].next_hop_self


def test_each_reflector_is_a_cluster_of_its_own_unless_told_otherwise() -> None:
    reflectors = {"Select": "role == rr"}
    config, shared = config_of(Reflectors=reflectors), config_of(Reflectors=reflectors, ClusterID="1.2.3.4")
    rr, client = host(config, 1, {"role": "rr"}), host(config, 2)
    assert seen_by(config, rr, [client]).cluster_id == IPv4Address("10.0.0.1")
    assert seen_by(shared, rr, [client]).cluster_id == IPv4Address("1.2.3.4")
    assert seen_by(config, client, [rr]).cluster_id is None


def test_as_long_as_no_host_is_a_reflector_there_is_a_mesh_and_a_warning() -> None:
    config = config_of(Reflectors={"Select": "role == rr"})
    seen = seen_by(config, host(config, 1), [host(config, 2)])
    assert [each.role for each in seen.neighbours] == [Role.MESH]
    assert seen.warnings == ("Backend.Reflectors: no host is one, so that hosts speak with each other as without reflectors",)


def test_hosts_of_an_as_without_a_reflector_speak_with_each_other_too() -> None:
    config = config_of(Reflectors={"Select": "role == rr"}, Hosts=[{"Select": "rack == r2", "AS": 65002}])
    rr, one, two = host(config, 1, {"role": "rr"}), host(config, 2, {"rack": "r2"}), host(config, 3, {"rack": "r2"})
    assert the(between(config, one, two, rr)).role is Role.MESH
    assert the(between(config, one, rr, two)).role is Role.REFLECTOR


def test_a_router_on_another_link_is_no_concern_of_the_uplink() -> None:
    config = config_of(Peers=[ROUTER | {"Address": "192.0.2.254", "BFD": {}}])
    own = host(config, 1)
    (neighbour,) = neighbours(config, own, [], [ip_interface("10.0.0.1/24")], {}).neighbours
    assert (neighbour.bfd, neighbour.session.multihop) == (BfdTimers(), None)
