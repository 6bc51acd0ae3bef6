"""The bgp backend's settings: every default, every rule."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from ipaddress import IPv4Address, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgp.config import KEYS, BgpConfig, HostSettings, Reflectors, parse
from bgp.path import NO_EXPORT, Asn
from bgp.peer import MaxPrefix
from bgp.policy import parse_rules
from bgp.selector import EVERY_HOST, parse_selector
from bgp.settings import BfdTimers, SessionSettings
from flanneld.config import ConfigError, parse_network

ROUTER = {"Address": "10.0.1.254", "AS": 65101}
REFUSE = [{"Match": {"Prefix": "10.9.0.0/16"}, "Action": "refuse"}]
ACCEPT = [{"Action": "accept"}]


def read(**settings: object) -> BgpConfig:
    """As flanneld does, from the text that a user writes."""
    network = {"Network": "10.244.0.0/16", "Backend": {"Type": "bgp"} | settings}
    return parse(parse_network(json.dumps(network)).backend)


def session_of(entry: Mapping[str, object], **settings: object) -> SessionSettings:
    config = read(Peers=[entry], **settings)
    (peering,) = config.routers or config.links
    return peering.session


def test_with_no_key_at_all_there_is_a_mesh_in_one_private_as() -> None:
    assert read() == BgpConfig()
    assert read().asn == 64512
    assert read().mesh
    assert read().session == SessionSettings(hold_time_s=9, graceful_restart_s=120, ttl_security=1)


def test_the_mesh_is_configured_at_the_top() -> None:
    config = read(
        HoldTime=3, gracefulrestart=0, PASSWORDFILE="/etc/p", TTLSecurity=2, BFD={"interval": 100}, MaxPrefix=10, Import=REFUSE
    )
    assert config.session == SessionSettings(3, 0, 2, None, "/etc/p", BfdTimers(100, 3), MaxPrefix(10), parse_rules(REFUSE, ""))


def test_what_concerns_the_whole_cluster() -> None:
    config = read(
        AS=65000,
        Port=1790,
        Mesh=False,
        MaxPaths=2,
        Communities=["64512:100", "no-export"],
        ClusterID="10.0.0.1",
        AllowHostRoutes=True,
    )
    assert config == BgpConfig(
        asn=Asn(65000),
        port=1790,
        mesh=False,
        max_paths=2,
        communities=frozenset({(64512, 100), NO_EXPORT}),
        cluster_id=IPv4Address("10.0.0.1"),
        allow_host_routes=True,
    )
    assert read(Services=["10.96.0.0/12", "fd00:96::/108"]).services == (ip_network("10.96.0.0/12"), ip_network("fd00:96::/108"))


def test_security_by_ttl_and_bfd_can_be_turned_off() -> None:
    assert read(TTLSecurity=False).session.ttl_security is None
    assert session_of({"SelectPeer": "", "BFD": False}, BFD={}).bfd is None


def test_of_each_setting_the_first_rule_that_matches_a_host_and_has_it_counts() -> None:
    config = read(
        AS=65000,
        Communities=["1:1"],
        Hosts=[
            {"Select": "rack == r1", "AS": 65001},
            {"Select": "rack in (r1, r2)", "AS": 65002, "Mesh": False, "Communities": []},
            {"Select": "name == h1", "RouterID": "1.2.3.4", "Mesh": True},
        ],
    )
    assert config.of_host({"rack": "r1"}) == HostSettings(Asn(65001), None, frozenset(), mesh=False)
    assert config.of_host({"rack": "r2"}) == HostSettings(Asn(65002), None, frozenset(), mesh=False)
    assert config.of_host({"name": "h1"}) == HostSettings(Asn(65000), IPv4Address("1.2.3.4"), frozenset({(1, 1)}), mesh=True)


def test_reflectors_are_selected_or_counted_and_never_one_alone() -> None:
    assert read(Reflectors={"Select": "role == rr"}).reflectors == Reflectors(parse_selector("role == rr", ""))
    assert read(Reflectors={"Count": 3}).reflectors == Reflectors(count=3)
    assert read(Reflectors={"Count": 1}).reflectors == Reflectors(count=2)


def test_a_router_has_the_meshs_settings_but_neither_its_password_nor_its_ttl() -> None:
    settings = {"HoldTime": 30, "BFD": {}, "MaxPrefix": 7, "GracefulRestart": 9, "PasswordFile": "/mesh", "TTLSecurity": 1}
    assert session_of(ROUTER, **settings) == SessionSettings(30, 9, ttl_security=None, bfd=BfdTimers(), max_prefix=MaxPrefix(7))


def test_hosts_that_peers_bring_together_have_the_meshs_settings_and_password() -> None:
    entry = {"Select": "rack == r1", "SelectPeer": "role == edge", "AS": 65009, "HoldTime": 3}
    config = read(PasswordFile="/mesh", Peers=[entry])
    (link,) = config.links
    assert (link.select, link.select_peer, link.asn) == (parse_selector("rack==r1", ""), parse_selector("role==edge", ""), 65009)
    assert link.session == SessionSettings(3, 120, 1, None, "/mesh")
    assert link.chooses({"role": "edge"}, Asn(65009))
    assert not link.chooses({"role": "edge"}, Asn(65000))


def test_a_router_with_all_keys() -> None:
    timers = {
        "HoldTime": 3,
        "GracefulRestart": 60,
        "BFD": {"Interval": 50, "Multiplier": 5},
        "MaxPrefix": 200,
        "MaxPrefixAction": "Reset",
    }
    way = {"Port": 1179, "TTLSecurity": 1, "Source": "10.0.1.11", "Passive": True, "NextHop": "keep", "Families": [6, 4]}
    (router,) = read(Peers=[ROUTER | timers | way | {"Select": "rack=r1", "PasswordFile": "/p", "Communities": ["1:2"]}]).routers
    assert router.session == SessionSettings(3, 60, 1, None, "/p", BfdTimers(50, 5), MaxPrefix(200, hard=True))
    assert (router.key, router.address, router.asn, router.port) == ("Backend.Peers[0]", ip_address("10.0.1.254"), 65101, 1179)
    assert (router.source, router.passive, router.next_hop_self, router.families) == (ip_address("10.0.1.11"), True, False, (4, 6))
    assert (router.select, router.communities) == (parse_selector("rack=r1", ""), frozenset({(1, 2)}))


def test_a_router_is_every_hosts_unless_some_are_selected() -> None:
    (router,) = read(Peers=[ROUTER]).routers
    assert router.select == EVERY_HOST


def test_a_peers_rules_come_before_those_of_all() -> None:
    settings = session_of(ROUTER | {"Import": REFUSE, "Export": ACCEPT}, Import=ACCEPT, Export=REFUSE)
    assert settings.imports == parse_rules(REFUSE + ACCEPT, "")
    assert settings.exports == parse_rules(ACCEPT + REFUSE, "")


def test_several_hops_away_neither_ttl_security_nor_bfd_can_work() -> None:
    far = session_of({"SelectPeer": "role == edge", "Multihop": 3}, BFD={})
    assert (far.multihop, far.ttl_security, far.bfd) == (3, None, None)


PEER, HOST = "Backend.Peers[0]", "Backend.Hosts[0]"
AS_EXPECTED = "expected an AS number from 1 to 4294967294 that is not reserved"


def peer(**settings: object) -> dict[str, object]:
    return {"Peers": [ROUTER | settings]}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"AS": 0}, f"Backend.AS: {AS_EXPECTED}, got 0"),
        ({"AS": 23456}, f"Backend.AS: {AS_EXPECTED}, got 23456"),
        ({"AS": 65535}, f"Backend.AS: {AS_EXPECTED}, got 65535"),
        ({"AS": 4294967295}, f"Backend.AS: {AS_EXPECTED}, got 4294967295"),
        ({"AS": 4294967296}, f"Backend.AS: {AS_EXPECTED}, got 4294967296"),
        ({"AS": "64512"}, f'Backend.AS: {AS_EXPECTED}, got "64512"'),
        ({"AS": True}, f"Backend.AS: {AS_EXPECTED}, got true"),
        ({"Port": 0}, "Backend.Port: expected a whole number from 1 to 65535, got 0"),
        ({"Port": 65536}, "Backend.Port: expected a whole number from 1 to 65535, got 65536"),
        ({"HoldTime": 0}, "Backend.HoldTime: expected a whole number from 3 to 65535, got 0"),
        ({"HoldTime": 2}, "Backend.HoldTime: expected a whole number from 3 to 65535, got 2"),
        ({"HoldTime": 9.0}, "Backend.HoldTime: expected a whole number from 3 to 65535, got 9.0"),
        ({"GracefulRestart": -1}, "Backend.GracefulRestart: expected a whole number from 0 to 4095, got -1"),
        ({"GracefulRestart": 4096}, "Backend.GracefulRestart: expected a whole number from 0 to 4095, got 4096"),
        ({"Mesh": "yes"}, 'Backend.Mesh: expected true or false, got "yes"'),
        ({"PasswordFile": "bgp"}, 'Backend.PasswordFile: expected an absolute path, got "bgp"'),
        ({"PasswordFile": "/\0"}, 'Backend.PasswordFile: expected an absolute path, got "/\\u0000"'),
        ({"PasswordFile": ["/p"]}, "Backend.PasswordFile: expected an absolute path, got ['/p']"),
        ({"TTLSecurity": 0}, "Backend.TTLSecurity: expected a whole number from 1 to 254, got 0"),
        ({"TTLSecurity": 255}, "Backend.TTLSecurity: expected a whole number from 1 to 254, got 255"),
        ({"TTLSecurity": True}, "Backend.TTLSecurity: expected a whole number from 1 to 254, got true"),
        ({"BFD": True}, "Backend.BFD: expected an object, got true"),
        ({"BFD": {"Interval": 9}}, "Backend.BFD.Interval: expected a whole number from 10 to 60000, got 9"),
        ({"BFD": {"Multiplier": 256}}, "Backend.BFD.Multiplier: expected a whole number from 1 to 255, got 256"),
        ({"BFD": {"Intervall": 100}}, "Backend.BFD.Intervall: unknown key, got 100"),
        ({"MaxPrefix": 0}, "Backend.MaxPrefix: expected a whole number from 1 to 10000000, got 0"),
        ({"MaxPaths": 65}, "Backend.MaxPaths: expected a whole number from 1 to 64, got 65"),
        ({"Communities": "64512:100"}, 'Backend.Communities: expected a list, got "64512:100"'),
        ({"Communities": ["1:1", "64512"]}, 'Backend.Communities[1]: expected a community like "64512:100", got "64512"'),
        ({"Communities": [100]}, 'Backend.Communities[0]: expected a community like "64512:100", got 100'),
        ({"Hosts": {}}, "Backend.Hosts: expected a list, got {}"),
        ({"Hosts": ["h1"]}, f'{HOST}: expected an object, got "h1"'),
        ({"Hosts": [{"AS": 0}]}, f"{HOST}.AS: {AS_EXPECTED}, got 0"),
        (
            {"Hosts": [{"Select": "rack ="}, {"Select": "rack in"}]},
            "Backend.Hosts[1].Select: expected an opening parenthesis at the end",
        ),
        ({"Hosts": [{"Select": 1}]}, f'{HOST}.Select: expected a selector like "rack == r1", got 1'),
        (
            {"Hosts": [{"RouterID": str(IPv4Address(0))}]},
            f'{HOST}.RouterID: expected a dotted quad like 10.0.0.1, not 0.0.0.0, got "0.0.0.0"',
        ),
        ({"Hosts": [{"RouterID": 1}]}, f"{HOST}.RouterID: expected a dotted quad like 10.0.0.1, not 0.0.0.0, got 1"),
        ({"Hosts": [{"Communities": [""]}]}, f'{HOST}.Communities[0]: expected a community like "64512:100", got ""'),
        ({"Hosts": [{"Mesh": 0}]}, f"{HOST}.Mesh: expected true or false, got 0"),
        ({"Hosts": [{"Port": 179}]}, f"{HOST}.Port: unknown key, got 179"),
        ({"Reflectors": {}}, "Backend.Reflectors: expected one of Select and Count, got neither"),
        ({"Reflectors": {"Select": "rr", "Count": 2}}, "Backend.Reflectors: expected one of Select and Count, got both"),
        ({"Reflectors": {"Count": 0}}, "Backend.Reflectors.Count: expected a whole number from 1 to 1000, got 0"),
        ({"Reflectors": {"Select": "!"}}, "Backend.Reflectors.Select: expected a label's name at the end"),
        ({"Reflectors": {"Counts": 2}}, "Backend.Reflectors.Counts: unknown key, got 2"),
        ({"ClusterID": "fd00::1"}, 'Backend.ClusterID: expected a dotted quad like 10.0.0.1, not 0.0.0.0, got "fd00::1"'),
        ({"Peers": [{}]}, f"{PEER}: expected one of Address and SelectPeer, got neither"),
        (peer(SelectPeer="role"), f"{PEER}: expected one of Address and SelectPeer, got both"),
        ({"Peers": [{"Address": "10.0.1.254"}]}, f"{PEER}.AS: expected the AS number of 10.0.1.254, got none"),
        (peer(AS=65535), f"{PEER}.AS: {AS_EXPECTED}, got 65535"),
        (peer(Address="router"), f'{PEER}.Address: expected one neighbour\'s address, and no link-local one of IPv6, got "router"'),
        (peer(Address="10.0.1.0/24"), f"{PEER}.Address: expected one neighbour's address"),
        (peer(Address="224.0.0.1"), f"{PEER}.Address: expected one neighbour's address"),
        (peer(Address="255.255.255.255"), f"{PEER}.Address: expected one neighbour's address"),
        (peer(Address="::"), f"{PEER}.Address: expected one neighbour's address"),
        (peer(Address="fe80::1"), f"{PEER}.Address: expected one neighbour's address"),
        (peer(Address="fe80::1%eth0"), f"{PEER}.Address: expected one neighbour's address"),
        ({"Peers": [ROUTER, ROUTER]}, "Backend.Peers[1].Address: expected another than that of Backend.Peers[0], got 10.0.1.254"),
        (peer(Select="rack in"), f"{PEER}.Select: expected an opening parenthesis at the end"),
        (peer(PasswordFile=""), f'{PEER}.PasswordFile: expected an absolute path, got ""'),
        (peer(Port="179"), f'{PEER}.Port: expected a whole number from 1 to 65535, got "179"'),
        (peer(HoldTime=1), f"{PEER}.HoldTime: expected a whole number from 3 to 65535, got 1"),
        (peer(Multihop=1), f"{PEER}.Multihop: expected a whole number from 2 to 255, got 1"),
        (
            peer(Multihop=3, TTLSecurity=1),
            f"{PEER}.Multihop: expected none beside TTLSecurity, which says how far away the neighbour is, got 3",
        ),
        (peer(Multihop=3, BFD={}), f"{PEER}.BFD: expected none beside Multihop: it watches neighbours on the link"),
        (peer(Source="fd00::1"), f'{PEER}.Source: expected an IPv4 address, as Address is one, got "fd00::1"'),
        (peer(Source="eth0"), f'{PEER}.Source: expected an address of ours, got "eth0"'),
        (peer(Passive="no"), f'{PEER}.Passive: expected true or false, got "no"'),
        (peer(Import={}), f"{PEER}.Import: expected a list, got {{}}"),
        (peer(Export=[{"Action": "drop"}]), f"{PEER}.Export[0].Action: expected"),
        (peer(MaxPrefix=-1), f"{PEER}.MaxPrefix: expected a whole number from 1 to 10000000, got -1"),
        (peer(MaxPrefixAction="stop"), f'{PEER}.MaxPrefixAction: expected "refuse" or "reset", got "stop"'),
        (peer(GracefulRestart=5000), f"{PEER}.GracefulRestart: expected a whole number from 0 to 4095, got 5000"),
        (peer(BFD=1), f"{PEER}.BFD: expected an object, got 1"),
        (peer(Communities=["65536:1"]), f"{PEER}.Communities[0]: expected a community"),
        (peer(NextHop="peer"), f'{PEER}.NextHop: expected "self" or "keep", got "peer"'),
        (peer(Families=[]), f"{PEER}.Families: expected [4], [6] or [4, 6], got []"),
        (peer(Families=[4, 4]), f"{PEER}.Families: expected [4], [6] or [4, 6], got [4, 4]"),
        (peer(Families=["4"]), f"{PEER}.Families: expected [4], [6] or [4, 6], got ['4']"),
        (peer(Families=4), f"{PEER}.Families: expected [4], [6] or [4, 6], got 4"),
        (peer(Weight=5), f"{PEER}.Weight: unknown key, got 5"),
        (
            {"Peers": [{"SelectPeer": "rr", "Port": 5}]},
            f"{PEER}.Port: expected none beside SelectPeer: hosts settle it themselves, got 5",
        ),
        ({"Peers": [{"SelectPeer": "rr", "Passive": False}]}, f"{PEER}.Passive: expected none beside SelectPeer"),
        ({"Peers": [{"SelectPeer": "rr", "RouterID": "1.1.1.1"}]}, f"{PEER}.RouterID: unknown key"),
        ({"Import": [{"Match": {"Prefx": "10.0.0.0/8"}, "Action": "accept"}]}, "Backend.Import[0].Match.Prefx: unknown key"),
        ({"Services": "10.96.0.0/12"}, 'Backend.Services: expected a list, got "10.96.0.0/12"'),
        ({"Services": ["10.96.0.1/12"]}, 'Backend.Services[0]: expected a network like 10.96.0.0/12, got "10.96.0.1/12"'),
        ({"Services": ["10.96.0.0"]}, "Backend.Services[0]: expected a network like 10.96.0.0/12"),
        ({"Services": ["0.0.0.0/0"]}, "Backend.Services[0]: expected a network like 10.96.0.0/12"),
        ({"AllowHostRoutes": 1}, "Backend.AllowHostRoutes: expected true or false, got 1"),
    ],
)
def test_a_wrong_value_is_an_error_that_names_key_value_and_what_was_expected(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        read(**settings)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


def test_every_key_that_is_read_is_known_and_no_other() -> None:
    wrong = object()  # which no key can have as its value
    for key in KEYS:
        with pytest.raises((ConfigError, TypeError)):
            parse({key: wrong})
    assert parse(dict.fromkeys(("type", "vni", "multihop", "maxprefixaction", "families"), wrong)) == BgpConfig()


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-2, 70000)
    | st.sampled_from(["10.0.1.254", "10.96.0.0/12", "rack==r1", "/p", "1:1", "self"]),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(["Address", "AS", "SelectPeer", "Select", "Count", "Interval", "Port", "Families"]), inner, max_size=3
        )
    ),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from(sorted(KEYS)), JSON))
def test_any_json_is_a_usable_config_or_a_config_error(settings: dict[str, object]) -> None:
    with suppress(ConfigError):
        config = parse(settings)
        assert config.session.hold_time_s >= 3
        assert all(router.asn not in (0, 23456, 65535) for router in config.routers)
