"""What is mended and added of EVPN in exabgp's process; and that exabgp still needs it."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address, ip_network
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgp.evpn.announcement import EvpnAnnouncement
from bgp.evpn.exports import EvpnOrigination, OwnVtep, evpn_announcements
from bgp.evpn.routes import EvpnRoute, Key, MacIp, Multicast, Prefix, distinguisher
from bgp.neighbours import Neighbour
from bgp.peer import MaxPrefix
from bgp.speaker import commands
from bgp.topology import Role
from evpn_routes import VNI, at, session, told
from flanneld.backends.vtep import Vni


@pytest.fixture(scope="module")
def launcher(exabgp: None) -> Iterator[Any]:
    """exabgp with what the launcher mends of EVPN, and as it was at the end."""
    from bgp.speaker.launcher import evpn, stock

    kept = stock.EVPN.__dict__.get("index"), stock.Family.size[evpn.FAMILY]
    evpn.mend()
    yield SimpleNamespace(evpn=evpn, stock=stock)
    if kept[0] is None:
        del stock.EVPN.index
    stock.Family.size[evpn.FAMILY] = kept[1]


class Neighbor(dict[str, str]):
    """exabgp's settings of a session, with the table of what the neighbour is told."""

    def __init__(self, launcher: Any, families: list[Any]) -> None:
        super().__init__({"peer-address": "10.0.0.2"})
        self.rib = SimpleNamespace(outgoing=launcher.stock.OutgoingRIB(True, families))
        self._families = families

    def families(self) -> list[Any]:
        return self._families


class Session:
    """A reactor with one neighbour, which is what commands are given."""

    def __init__(self, launcher: Any, families: list[Any]) -> None:
        self.neighbor = Neighbor(launcher, families)
        self._reactor = SimpleNamespace(_peers={"one": SimpleNamespace(neighbor=self.neighbor)}, api=launcher.stock.API(None))
        self._launcher = launcher

    def do(self, line: str) -> None:
        words = line.split()
        list(getattr(self._launcher.evpn, words[1])(self._reactor, "relay", words))

    def sent(self) -> list[Any]:
        return list(self.neighbor.rib.outgoing.updates(True))


@pytest.fixture
def open_session(launcher: Any) -> Session:
    return Session(launcher, [launcher.evpn.FAMILY])


OWN = EvpnOrigination(VNI, "10.0.0.1", (OwnVtep(at(1), "02:00:00:00:00:01", (ip_network("10.244.1.0/24"),)),))
NEIGHBOUR = Neighbour(session(2), Role.MESH, (), (), MaxPrefix(9), None, frozenset())


def ours() -> dict[Key, EvpnAnnouncement]:
    return evpn_announcements(NEIGHBOUR, OWN)


def test_exabgp_takes_our_words_and_lists_what_we_told(open_session: Session, launcher: Any) -> None:
    for line in commands.announce_evpn(at(2), ours().values()):
        open_session.do(line)
    assert len(open_session.sent()) == 3
    assert set(launcher.evpn.announced(open_session.neighbor)) == {said.route.encode().hex() for said in ours().values()}


def test_attributes_are_as_we_said_and_the_next_hop_is_none_of_them(open_session: Session) -> None:
    for line in commands.announce_evpn(at(2), [said for said in ours().values() if said.tunnel]):
        open_session.do(line)
    (update,) = open_session.sent()
    assert str(update.nlris[0].nexthop) == "10.0.0.1"
    assert sorted(update.attributes) == [1, 5, 16, 22]


def test_an_ipv6_vtep_is_a_next_hop_too(open_session: Session) -> None:
    vtep = OwnVtep(ip_address("fd00:10::1"), "02:00:00:00:00:61", (ip_network("fd00:244:0:1::/64"),))
    told = evpn_announcements(NEIGHBOUR, EvpnOrigination(VNI, "10.0.0.1", (vtep,)))
    for line in commands.announce_evpn(at(2), told.values()):
        open_session.do(line)
    assert {str(update.nlris[0].nexthop) for update in open_session.sent()} == {"fd00:10::1"}


def test_a_withdrawal_by_another_label_takes_the_route_out_of_the_table(open_session: Session, launcher: Any) -> None:
    for line in commands.announce_evpn(at(2), ours().values()):
        open_session.do(line)
    open_session.sent()
    for line in commands.withdraw_evpn(at(2), ours()):
        open_session.do(line)
    assert launcher.evpn.announced(open_session.neighbor) == []
    assert len(open_session.sent()) == 3


@pytest.mark.parametrize(
    "line",
    [
        "evpn announce 10.0.0.3 031100010a000001000100000000200a000001 next-hop 10.0.0.1 origin igp",
        "evpn announce 10.0.0.2 0311 next-hop 10.0.0.1 origin igp",
        "evpn announce 10.0.0.2 xyz next-hop 10.0.0.1 origin igp",
        "evpn announce 10.0.0.2 031100010a000001000100000000200a000001 next-hop 10.0.0.1 colour blue",
        "evpn withdraw 10.0.0.2 031100010a000001000100000000200a000001ff",
    ],
)
def test_what_cannot_be_done_is_refused(open_session: Session, line: str) -> None:
    from bgp.speaker.launcher.neighbours import Refused

    with pytest.raises(Refused):
        open_session.do(line)
    assert open_session.sent() == []


def test_a_session_without_evpn_is_told_none(launcher: Any) -> None:
    from bgp.speaker.launcher.neighbours import Refused

    unicast = Session(launcher, [(1, 1)])
    with pytest.raises(Refused, match="no EVPN"):
        unicast.do("evpn withdraw 10.0.0.2 031100010a000001000100000000200a000001")


def test_exabgp_itself_still_tells_routes_apart_by_their_labels(launcher: Any) -> None:
    stock_index = launcher.stock.NLRI.index
    one, other = (_nlri(launcher, EvpnRoute(told(2).route.key, Vni(vni))) for vni in (0, 1))
    assert stock_index(one) != stock_index(other)
    assert one.index() == other.index()


@given(st.integers(0, (1 << 24) - 1), st.sampled_from([2, 3]), st.ip_addresses())
def test_routes_of_different_keys_stay_apart(launcher: Any, vni: int, n: int, ip: Any) -> None:
    rd = distinguisher("10.0.0.2", 1)
    mac = f"02:00:00:00:00:{n:02x}"
    keys: list[Key] = [MacIp(rd, mac), MacIp(rd, mac, ip), Prefix(rd, ip_network(ip)), Multicast(rd, ip)]
    keys += [MacIp(distinguisher("10.0.0.3", 1), mac), MacIp(rd, mac, tag=1), MacIp(rd, "02:00:00:00:00:99")]
    indexes = {_nlri(launcher, EvpnRoute(key, Vni(0 if isinstance(key, Multicast) else vni))).index() for key in keys}
    assert len(indexes) == len(keys)


def _nlri(launcher: Any, route: EvpnRoute) -> Any:
    found, rest = launcher.stock.EVPN.unpack_nlri(*launcher.evpn.FAMILY, route.encode(), launcher.stock.Action.ANNOUNCE, None)
    assert rest == b""
    return found
