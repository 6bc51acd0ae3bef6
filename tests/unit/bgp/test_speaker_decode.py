"""What exabgp says, in lines recorded from exabgp 5.0.15 in sessions with a neighbour that sent all that is in them."""

from __future__ import annotations

import json
from contextlib import suppress
from ipaddress import IPv4Address, ip_address, ip_network
from pathlib import Path as File

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgp.events import Announced, Down, EndOfRib, Opened, Up, Withdrawn
from bgp.path import Asn, AsPath, Attributes, Origin, Path
from bgp.speaker.decode import Answer, Hello, Listed, Listing, Refused, Said, Was, WasAnnounced, decode
from bgp.speaker.news import SpeakerError

LINES = File(__file__).with_name("speaker_lines")
PEER = IPv4Address("10.9.0.2")
LONG = AsPath((Asn(65001), Asn(4200000000)), (frozenset({Asn(7), Asn(9)}),))
SHORT = Attributes(as_path=AsPath((Asn(65001),)))


def recorded(name: str) -> list[Said]:
    """All lines of a recording, but for those that are of no interest."""
    return [said for line in (LINES / f"{name}.jsonl").read_text().splitlines() if (said := decode(line)) != ()]


def events(name: str) -> list[object]:
    return [event for said in recorded(name) if isinstance(said, tuple) for event in said]


def path(prefix: str, attributes: Attributes, number: int = 0) -> Path:
    return Path(ip_network(prefix), PEER if "." in prefix else ip_address("fd99::2"), PEER, attributes, number)


def told(*paths: Path) -> Announced:
    return Announced(PEER, paths)


def gone(prefix: str, number: int = 0, *, error: bool = False) -> Withdrawn:
    return Withdrawn(PEER, ((ip_network(prefix), number),), error)


def test_a_session_is_told_from_its_open_to_its_end() -> None:
    opened = Opened(PEER, Asn(65001), "9.9.9.9", 90, 120, restarting=True, forwarding=frozenset({4}))
    said = events("sessions")
    assert said[:2] == [opened, Up(PEER)]
    assert [event for event in said if isinstance(event, EndOfRib)] == [EndOfRib(PEER, 4), EndOfRib(PEER, 6)]
    assert said[said.index(EndOfRib(PEER, 6)) + 1] == Down(PEER, "notification received (6,2)", hard=True)


def test_a_neighbour_without_graceful_restart_has_none() -> None:
    assert Opened(PEER, Asn(65002), "9.9.9.9", 90, None) in events("sessions")


def test_notifications_and_the_hold_time_are_hard_and_a_lost_connection_is_not() -> None:
    downs = {event.why: event.hard for event in events("sessions") if isinstance(event, Down)}
    assert downs == {
        "notification received (6,2)": True,
        "closing connection": False,
        "notification sent (2,2)": True,
        "notification sent (4,0)": True,
    }


def test_an_end_that_denies_a_notification_is_not_hard() -> None:
    line = (LINES / "sessions.jsonl").read_text().splitlines()[34]
    silent = "graceful restarted negotiated, closing without sending any notification"
    assert decode(line.replace("closing connection", silent)) == (Down(PEER, silent, hard=False),)


def test_updates_are_told_with_all_attributes_and_what_is_withdrawn_first() -> None:
    full = Attributes(Origin.INCOMPLETE, LONG, med=50, communities=frozenset({(65535, 0), (64512, 7), (65535, 65281)}))
    plain = Attributes(Origin.INCOMPLETE, LONG)
    assert events("sessions")[2:6] == [
        told(path("10.244.1.0/24", full), path("10.244.2.0/24", full)),
        gone("10.244.2.0/24"),
        gone("10.244.1.0/24"),
        told(path("10.244.5.0/24", plain)),
    ]


def test_of_two_next_hops_the_global_one_is_taken() -> None:
    assert told(path("fd00:1::/64", SHORT), path("fd00:2::/64", SHORT)) in events("sessions")
    assert gone("fd00:2::/64") in events("sessions")


def test_a_link_local_next_hop_is_taken_where_there_is_no_other() -> None:
    line = next(line for line in (LINES / "sessions.jsonl").read_text().splitlines() if "fe80" in line)
    (event,) = decode(line.replace('"fd99::2"', '"fe80::3"'))  # type: ignore[misc]
    assert isinstance(event, Announced)
    assert {str(path.next_hop) for path in event.paths} <= {"fe80::2", "fe80::3"}


@pytest.mark.parametrize(
    ("recording", "lost"),
    [
        ("sessions", gone("10.244.6.0/24", error=True)),  # an origin that there is not
        ("sessions", gone("10.244.7.0/24", error=True)),  # communities of three bytes
        ("path_numbers", gone("10.244.5.0/24", 3, error=True)),  # no next hop
    ],
)
def test_a_malformed_announcement_is_a_withdrawal_as_rfc_7606_has_it(recording: str, lost: Withdrawn) -> None:
    assert lost in events(recording)


def test_an_attribute_that_is_malformed_but_of_no_weight_is_left_out_as_rfc_7606_has_it() -> None:
    assert told(path("10.244.8.0/24", Attributes(Origin.INCOMPLETE))) in events("sessions")


def test_a_reflectors_attributes_are_told() -> None:
    clusters = (IPv4Address("8.8.8.8"), IPv4Address("6.6.6.6"))
    reflected = Attributes(Origin.INCOMPLETE, local_pref=300, originator_id=IPv4Address("7.7.7.7"), cluster_list=clusters)
    assert told(path("10.244.9.0/24", reflected), path("10.244.9.128/32", reflected)) in events("sessions")


def test_paths_with_numbers_are_told_apart() -> None:
    joined = Attributes(as_path=AsPath((Asn(65001), Asn(5))))
    assert events("path_numbers")[2:5] == [
        told(path("10.244.1.0/24", SHORT, 1), path("10.244.1.0/24", SHORT, 258)),
        gone("10.244.1.0/24", 258),
        told(path("10.244.4.0/24", joined, 3)),
    ]


def test_a_listing_says_how_everything_stands() -> None:
    said = recorded("sessions")
    start = said.index(Listing("tok1"))
    assert said[0] == Hello("abc")
    assert said[start + 1] == Listed(PEER, "be9955e292cd49499cbf1dda9a5d5986")
    assert said[start + 2] == Was((Opened(PEER, Asn(65001), "9.9.9.9", 90, 120, restarting=True, forwarding=frozenset({4})),))
    assert Was((told(path("fd00:1::/64", SHORT)),)) in said[start:]
    assert said[start + 7] == WasAnnounced(PEER, frozenset({ip_network("10.1.0.0/24"), ip_network("10.1.1.0/24")}))
    assert said[start + 8] == Answer(done=True)


def test_refusals_have_a_reason_and_an_answer() -> None:
    said = recorded("sessions")
    assert said[said.index(Refused("peer del: no neighbour 10.9.0.2")) + 1] == Answer(done=False)


@pytest.mark.parametrize(
    "line",
    ["", "EOF", "[]", "7", '{"speaker": "nonsense"}', '{"type": "open", "neighbor": {"address": {}}}'],
)
def test_what_exabgp_cannot_say_is_an_error(line: str) -> None:
    with pytest.raises(SpeakerError, match="expected a message"):
        decode(line)


@given(st.data())
def test_any_line_is_read_or_refused(data: st.DataObject) -> None:
    """A recorded line in which one value is something else."""
    line = data.draw(st.sampled_from([line for file in sorted(LINES.iterdir()) for line in file.read_text().splitlines()]))
    if not line.startswith("{"):
        return
    message = json.loads(line)
    place, key = message, data.draw(st.sampled_from(sorted(message)))
    while isinstance(place[key], dict) and place[key] and data.draw(st.booleans()):
        place = place[key]
        key = data.draw(st.sampled_from(sorted(place)))
    scalars = st.none() | st.booleans() | st.integers() | st.text(max_size=5)
    place[key] = data.draw(scalars | st.lists(scalars, max_size=2) | st.dictionaries(st.text(max_size=3), scalars))
    with suppress(SpeakerError):
        decode(json.dumps(message))


@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    with suppress(SpeakerError):
        decode(text)
