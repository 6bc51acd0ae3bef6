"""Two speakers and more, over real connections: what one announces, the other is told."""

from __future__ import annotations

import time
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network, ip_address, ip_network

import pytest

from bgp.events import Announced, Down, EndOfRib, Opened, Up, Withdrawn
from bgp.path import Asn, AsPath, Attributes, Origin, Path
from bgp.speaker import commands
from bgp.speaker.commands import Announcement
from bgp.speaker.news import SpeakerError
from bgp_speaker_world import ASN, PREFIX, PREFIX6, Node, meet, session, speakers
from flanneld_world import eventually

SILENCE_S = 3.0
"""In which a session that can be would have come up ten times."""


@pytest.fixture
def two() -> Iterator[list[Node]]:
    with speakers("a", "b") as made:
        yield made


def test_what_is_announced_arrives_with_all_its_attributes(two: list[Node]) -> None:
    a, b = two
    meet(a, b)
    told = Attributes(
        Origin.INCOMPLETE,
        AsPath((Asn(7), Asn(4200000000)), (frozenset({Asn(9), Asn(8)}),)),
        local_pref=200,
        med=50,
        communities=frozenset({(65535, 0), (64512, 7)}),
        originator_id=IPv4Address("7.7.7.7"),
        cluster_list=(IPv4Address("6.6.6.6"), IPv4Address("5.5.5.5")),
    )
    a.call(a.speaker.announce(b.ip, [Announcement(PREFIX, ip_address("10.99.0.77"), told)]))
    assert b.path(PREFIX) == Path(PREFIX, ip_address("10.99.0.77"), a.ip, told)


def test_a_plain_announcement_has_our_end_as_next_hop_and_what_is_usual_in_an_as(two: list[Node]) -> None:
    a, b = two
    meet(a, b)
    a.says(b.ip, PREFIX)
    assert b.path(PREFIX) == Path(PREFIX, a.ip, a.ip, Attributes(local_pref=100))


def test_another_as_sees_our_number_and_no_local_preference(two: list[Node]) -> None:
    a, b = two
    b.call(b.speaker.add(session(b, a, local_as=Asn(64513), peer_as=ASN)))
    a.call(a.speaker.add(session(a, b, peer_as=Asn(64513))))
    a.up(b.ip)
    a.call(a.speaker.announce(b.ip, [Announcement(PREFIX, attributes=Attributes(local_pref=300))]))
    assert b.path(PREFIX).attributes == Attributes(as_path=AsPath((ASN,)))


def test_what_is_withdrawn_is_told_and_what_comes_again_too(two: list[Node]) -> None:
    a, b = two
    meet(a, b)
    for _ in range(2):
        since = len(b.news)
        a.says(b.ip, PREFIX)
        b.path(PREFIX, since)
        a.call(a.speaker.withdraw(b.ip, [PREFIX]))
        b.hears(lambda news: news == Withdrawn(a.ip, ((PREFIX, 0),)), "withdrawn", since)


def test_of_what_is_said_at_once_the_last_word_counts(two: list[Node]) -> None:
    a, b = two
    meet(a, b)
    dear, cheap = Attributes(med=2, local_pref=100), Attributes(med=1, local_pref=100)
    words = [commands.announce(b.ip, [Announcement(PREFIX, attributes=said)]) for said in (cheap, dear)]
    a.call(a.speaker.command([*words[0], *words[1], *words[0]]))
    a.call(a.speaker.command([*words[1], *words[0], *commands.withdraw(b.ip, [PREFIX]), *words[0]]))
    a.says(b.ip, other := ip_network("10.244.9.0/24"))
    b.path(other)
    said = [news.paths[0] for news in b.news if isinstance(news, Announced)]
    assert [path.attributes for path in said if path.prefix == PREFIX][-1] == cheap
    assert not b.events(Withdrawn)


def test_the_neighbours_open_and_its_end_of_rib_are_told(two: list[Node]) -> None:
    a, b = two
    meet(a, b, graceful_restart_s=77, families=(4, 6), hold_time_s=6)
    a.call(a.speaker.end_of_rib(b.ip, 6))
    b.hears(lambda news: news == EndOfRib(a.ip, 6), "end of rib")
    assert not [news for news in b.news if news == EndOfRib(a.ip, 4)]
    (opened,) = b.events(Opened)
    assert opened == Opened(a.ip, ASN, "10.99.0.97", 6, 77, restarting=True, forwarding=frozenset({4, 6}))


def test_a_neighbour_says_everything_again_when_it_is_asked_to(two: list[Node]) -> None:
    a, b = two
    meet(a, b)
    a.says(b.ip, PREFIX)
    b.path(PREFIX)
    since = len(b.news)
    b.call(b.speaker.refresh(a.ip, 4))
    b.path(PREFIX, since)


def test_sessions_run_over_ipv6_and_carry_both_families(two: list[Node]) -> None:
    a, b = two
    meet(a, b, v6=True, families=(4, 6))
    over = Announcement(PREFIX, a.ip6)
    a.call(a.speaker.announce(b.ip6, [Announcement(PREFIX6), over]))
    assert (b.path(PREFIX6).next_hop, b.path(PREFIX).next_hop) == (a.ip6, a.ip6)
    a.call(a.speaker.withdraw(b.ip6, [PREFIX, PREFIX6]))
    for prefix in (PREFIX, PREFIX6):
        b.hears(lambda news, gone=prefix: news == Withdrawn(a.ip6, ((gone, 0),)), f"{prefix} withdrawn")  # type: ignore[misc]


def test_ipv6_routes_go_over_an_ipv4_session_with_a_next_hop_of_their_own(two: list[Node]) -> None:
    a, b = two
    meet(a, b, families=(4, 6))
    with pytest.raises(SpeakerError, match=f"{PREFIX6} for {b.ip} has no next hop"):
        a.says(b.ip, PREFIX6)
    a.call(a.speaker.announce(b.ip, [Announcement(PREFIX6, a.ip6)]))
    assert b.path(PREFIX6).next_hop == a.ip6


def test_a_peer_that_is_added_while_others_run_disturbs_none_and_is_told_what_is_announced_then() -> None:
    with speakers("a", "b", "c") as (a, b, c):
        meet(a, b)
        a.says(b.ip, PREFIX)
        before = time.monotonic()
        meet(a, c)
        assert time.monotonic() - before < 3
        a.says(c.ip, PREFIX)
        assert c.path(PREFIX).next_hop == a.ip
        assert not b.events(Down)


def test_two_that_both_open_the_session_agree_on_one_and_then_are_as_fast_as_others(two: list[Node]) -> None:
    a, b = two
    for _ in range(3):
        meet(a, b, passive=False)
        before = time.monotonic()
        for number in range(100):
            a.says(b.ip, ip_network(f"10.244.{number}.0/24"))
        b.path(ip_network("10.244.99.0/24"), len(b.news) - 1)
        assert time.monotonic() - before < 1.5
        for ours, peer in ((a, b), (b, a)):
            ours.call(ours.speaker.delete(peer.ip))


def test_what_is_announced_before_the_session_is_up_is_told_when_it_is(two: list[Node]) -> None:
    a, b = two
    a.call(a.speaker.add(session(a, b)))
    a.says(b.ip, PREFIX)
    b.call(b.speaker.add(session(b, a)))
    assert b.path(PREFIX).next_hop == a.ip


def test_a_deleted_peer_is_told_so_at_once_for_all_graceful_restart(two: list[Node]) -> None:
    a, b = two
    meet(a, b, graceful_restart_s=120)
    a.call(a.speaker.delete(b.ip))
    b.hears(lambda news: news == Down(a.ip, "notification received (6,3)", hard=True), "down", within_s=1)
    since = len(b.news)
    with pytest.raises(SpeakerError, match=f"no neighbour {b.ip}"):
        a.call(a.speaker.delete(b.ip))
    meet(a, b)
    assert not [news for news in b.news[since:] if isinstance(news, Announced)]


def test_a_torn_down_session_ends_aloud_and_comes_again(two: list[Node]) -> None:
    a, b = two
    meet(a, b, graceful_restart_s=120)
    a.says(b.ip, PREFIX)
    since = len(b.news)
    a.call(a.speaker.teardown(b.ip))
    b.hears(lambda news: news == Down(a.ip, "notification received (6,4)", hard=True), "down", since)
    b.up(a.ip, since)
    b.path(PREFIX, since)


def test_an_added_session_that_is_there_already_stays_as_it_is_and_one_that_differs_begins_anew_softly(two: list[Node]) -> None:
    a, b = two
    meet(a, b)
    a.says(b.ip, PREFIX)
    b.path(PREFIX)
    a.call(a.speaker.add(session(a, b)))
    for hold_time_s in (30, 40):
        since = len(b.news)
        a.call(a.speaker.add(session(a, b, hold_time_s=hold_time_s)))
        b.path(PREFIX, since)
        assert [news.hard for news in b.news[since:] if isinstance(news, Down)] == [False]


@pytest.mark.parametrize("v6", [False, True])
@pytest.mark.parametrize("password", ["k3y", "a \"b' {;} #\\ é"])
def test_sessions_have_passwords(two: list[Node], password: str, v6: bool) -> None:
    meet(*two, password=password, v6=v6)


def test_with_the_wrong_password_there_is_no_session_and_with_the_right_one_there_is(two: list[Node]) -> None:
    a, b = two
    right, wrong = "right", "wrong"
    b.call(b.speaker.add(session(b, a, password=right)))
    a.call(a.speaker.add(session(a, b, password=wrong)))
    time.sleep(SILENCE_S)
    assert not [*a.events(Up), *b.events(Up)]
    a.call(a.speaker.add(session(a, b, password=right)))
    b.up(a.ip)
    since = len(b.news)
    for ours, peer in ((a, b), (b, a)):
        ours.call(ours.speaker.add(session(ours, peer)))
    b.up(a.ip, since)


@pytest.mark.parametrize("v6", [False, True])
def test_sessions_have_ttl_security(two: list[Node], v6: bool) -> None:
    meet(*two, ttl_security=1, v6=v6)


@pytest.mark.parametrize(("strict", "lax"), [("a", "b"), ("b", "a")])
def test_with_ttl_security_one_that_seems_to_be_farther_away_is_not_heard(two: list[Node], strict: str, lax: str) -> None:
    by_name = {node.name: node for node in two}
    ours, peer = by_name[strict], by_name[lax]
    peer.call(peer.speaker.add(session(peer, ours, multihop=250)))
    ours.call(ours.speaker.add(session(ours, peer, ttl_security=1)))
    time.sleep(SILENCE_S)
    assert not ours.events(Up)
    peer.call(peer.speaker.add(session(peer, ours, multihop=255)))
    ours.up(peer.ip)


def test_one_neighbour_without_ttl_security_keeps_no_other_from_it() -> None:
    with speakers("a", "b", "c") as (a, b, c):
        meet(a, c, ttl_security=1)
        meet(b, c)
        a.call(a.speaker.add(session(a, c, multihop=250)))
        since = len(a.news)
        time.sleep(SILENCE_S)
        assert not [news for news in a.news[since:] if isinstance(news, Up)]


def test_refusals_say_why_and_answers_come_to_who_has_asked(two: list[Node]) -> None:
    a, b = two
    nobody = ip_address("10.99.0.99")
    for command, why in (
        (a.speaker.delete(nobody), "peer del: no neighbour 10.99.0.99"),
        (a.speaker.end_of_rib(nobody, 4), r"exabgp refused neighbor 10\.99\.0\.99 announce eor"),
        (a.speaker.announce(nobody, [Announcement(PREFIX)]), r"exabgp refused neighbor 10\.99\.0\.99 announce attributes"),
        (a.speaker.command(["peer add x bm9uc2Vuc2UgMTs="]), "peer add: .*nonsense"),
    ):
        with pytest.raises(SpeakerError, match=why):
            a.call(command)
    meet(a, b)
    known = [*commands.announce(b.ip, [Announcement(PREFIX)]), commands.end_of_rib(b.ip, 4)]
    with pytest.raises(SpeakerError, match=r"exabgp refused neighbor 10\.99\.0\.99 announce eor"):
        a.call(a.speaker.command([*known, commands.end_of_rib(nobody, 4), *known, "peer del 1.1.1.1"]))
    b.hears(lambda news: news == EndOfRib(a.ip, 4), "end of rib")


def test_a_neighbour_that_is_cut_off_is_down_hard_when_the_hold_time_is_over(two: list[Node]) -> None:
    a, b = two
    meet(a, b, hold_time_s=3)
    a.ip_command("link set eth0 down")
    b.hears(lambda news: news == Down(a.ip, "notification sent (4,0)", hard=True), "down", within_s=8)
    a.ip_command("link set eth0 up")
    since = len(b.news)
    b.up(a.ip, since)


def test_ten_thousand_routes_are_told_and_listed(two: list[Node]) -> None:
    a, b = two
    meet(a, b, hold_time_s=3)
    prefixes = [*IPv4Network("10.128.0.0/9").subnets(new_prefix=24)][:10_000]
    a.says(b.ip, *prefixes)

    def heard() -> int:
        return sum(len(news.paths) for news in b.events(Announced) if isinstance(news, Announced))

    eventually(lambda: heard() == len(prefixes), "all routes", 60)
    assert b.path(prefixes[-1]) == Path(prefixes[-1], a.ip, a.ip, Attributes(local_pref=100))
    assert not b.events(Down)
