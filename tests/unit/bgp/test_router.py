"""This host as a router: whatever happens, its speaker is brought to what it should be, and the RIB says what counts."""

from __future__ import annotations

import logging
from dataclasses import replace
from ipaddress import IPv4Address, ip_network

import pytest

from bgp import adjacencies, router
from bgp.aim import Aim
from bgp.bfd.service import ADMINISTRATIVELY_DOWN
from bgp.events import Announced, Down, EndOfRib, Up, Withdrawn
from bgp.exports import Origination
from bgp.neighbours import Neighbour, Neighbourhood
from bgp.path import Path
from bgp.peer import MaxPrefix
from bgp.settings import BfdTimers
from bgp.speaker.news import Lost
from bgp.topology import Role
from bgp_announcements import OUR_SUBNET, POLICY, SUBNET, US, chosen, info, peer, told
from bgp_scripted_speaker import Scripted, opened, scripted, synced

P2, P3 = peer(2), peer(3)
OWN = str(OUR_SUBNET)
ORIGINATION = Origination((OUR_SUBNET,), addresses=(US,))
SERVICE = "10.96.0.10/32"


def neighbour(number: int, **changes: object) -> Neighbour:
    """A host in our AS."""
    session = replace(info(number).session, **{key: changes.pop(key) for key in ("hold_time_s", "families") if key in changes})  # type: ignore[arg-type]
    return replace(Neighbour(session, Role.MESH, (), (), MaxPrefix(100), None, frozenset()), **changes)  # type: ignore[arg-type]


def aim(*neighbours: Neighbour, origination: Origination = ORIGINATION) -> Aim:
    return Aim(Neighbourhood(neighbours), origination, POLICY)


async def standing(scene: Scripted, *numbers: int, graceful_restart_s: int | None = 120) -> None:
    """Sessions with these hosts, which have told a subnet each, and that it is all."""
    for number in numbers:
        address = peer(number)
        await scene.says(opened(address, graceful_restart_s), Up(address), announced(number), EndOfRib(address, 4))


def announced(number: int, prefix: str = "") -> Announced:
    return Announced(peer(number), (told(number, prefix or f"10.244.{number}.0/24"),))


def routed(scene: Scripted) -> dict[str, list[int]]:
    """The hosts that each prefix leads to."""
    return {str(prefix): chosen(scene.router.adjacencies.rib, str(prefix)) for prefix in scene.router.adjacencies.rib.choices()}


async def test_sessions_that_are_missing_are_made() -> None:
    async with scripted() as scene:
        scene.router.follow(aim(neighbour(2), neighbour(3)))
        await scene.says(synced())
        assert scene.commands() == [("add", P2, info(2).session), ("add", P3, info(3).session)]


async def test_sessions_that_differ_are_made_anew_and_those_that_nobody_wants_end() -> None:
    async with scripted() as scene:
        changed = neighbour(3, hold_time_s=30)
        scene.router.follow(aim(neighbour(2), changed))
        await scene.says(synced(info(2).session, info(3).session, info(4).session))
        assert scene.commands("add", "delete") == [("delete", peer(4)), ("add", P3, changed.session)]


async def test_until_it_is_known_what_to_be_what_stands_is_left_alone_and_then_it_is_known() -> None:
    """A daemon that was restarted hears of exabgp's sessions before it hears of leases."""
    async with scripted() as scene:
        await scene.says(synced(info(2).session, paths=(told(2, SUBNET),)))
        assert scene.commands() == []
        scene.router.follow(aim(neighbour(2)))
        await scene.rest()
        assert scene.commands("add", "delete") == []
        assert routed(scene) == {SUBNET: [2]}


async def test_to_be_nothing_is_something_to_be() -> None:
    async with scripted() as scene:
        await scene.says(synced(info(2).session))
        scene.router.follow(Aim())
        await scene.rest()
        assert scene.commands() == [("delete", P2)]


async def test_the_same_again_does_nothing() -> None:
    async with scripted() as scene:
        scene.router.follow(aim(neighbour(2)))
        await scene.says(synced())
        await standing(scene, 2)
        before, changes = scene.commands(), len(scene.changes)
        scene.router.follow(aim(neighbour(2)))
        await scene.rest()
        assert (scene.commands(), len(scene.changes)) == (before, changes)


async def test_what_a_reflector_passes_on_stays_as_it_was_while_its_client_restarts() -> None:
    clients = tuple(replace(neighbour(number), role=Role.CLIENT) for number in (2, 3))
    reflecting = Aim(Neighbourhood(clients, cluster_id=IPv4Address("10.0.0.1")), ORIGINATION, POLICY)
    async with scripted() as scene:
        scene.router.follow(reflecting)
        await scene.says(synced())
        await standing(scene, 2)
        await standing(scene, 3)
        assert [told for told in scene.commands("announce") if told[1] == P3 and "10.244.2.0/24" in told]
        before = len(scene.commands())
        await scene.says(Down(P2, "closing connection", hard=False))
        assert scene.commands()[before:] == []


async def test_leave_is_taken_of_all_that_stand_even_if_one_does_not_listen() -> None:
    async with scripted() as scene:
        scene.router.follow(aim(neighbour(2), neighbour(3)))
        await scene.says(synced())
        await standing(scene, 2)
        await standing(scene, 3)
        before = len(scene.commands())
        scene.speaker.refused.add(("withdraw", P2))
        await scene.router.take_leave()
        assert scene.commands()[before:] == [("withdraw", P3, OWN), ("end of rib", P3, 4)]


async def test_a_neighbour_is_told_our_own_and_then_once_per_family_that_it_is_all() -> None:
    async with scripted() as scene:
        scene.router.follow(aim(neighbour(2, families=(4, 6))))
        await scene.says(synced())
        await standing(scene, 2)
        await scene.says(announced(2, "10.244.9.0/24"))
        said = scene.commands("announce", "end of rib")
        assert said == [("announce", P2, OWN), ("end of rib", P2, 4), ("end of rib", P2, 6)]


async def test_every_session_begins_anew() -> None:
    async with scripted() as scene:
        scene.router.follow(aim(neighbour(2)))
        await scene.says(synced())
        await standing(scene, 2)
        await scene.says(Down(P2, "closing connection", hard=False))
        await standing(scene, 2)
        assert scene.commands("announce", "end of rib") == [("announce", P2, OWN), ("end of rib", P2, 4)] * 2


async def test_only_what_has_changed_is_told() -> None:
    async with scripted() as scene:
        scene.router.follow(aim(neighbour(2)))
        await scene.says(synced())
        await standing(scene, 2)
        since = len(scene.commands())
        scene.router.follow(aim(neighbour(2), origination=replace(ORIGINATION, extra=frozenset({ip_network(SERVICE)}))))
        await scene.rest()
        scene.router.follow(aim(neighbour(2)))
        await scene.rest()
        assert scene.commands()[since:] == [("announce", P2, SERVICE), ("withdraw", P2, SERVICE)]


async def test_what_was_announced_before_us_is_announced_again_or_withdrawn() -> None:
    """It is not known with what attributes."""
    async with scripted() as scene:
        scene.router.follow(aim(neighbour(2)))
        known = frozenset({OUR_SUBNET, ip_network(SERVICE)})
        await scene.says(synced(info(2).session, announced={P2: known}))
        assert scene.commands() == [("announce", P2, OWN), ("withdraw", P2, SERVICE), ("end of rib", P2, 4)]


@pytest.mark.parametrize(
    ("restart_s", "hard", "kept"),
    [(120, False, True), (120, True, False), (None, False, False), (0, False, False)],
)
async def test_what_a_lost_neighbour_told_is_kept_if_both_want_that(restart_s: int | None, hard: bool, kept: bool) -> None:
    async with scripted() as scene:
        scene.router.follow(aim(neighbour(2), neighbour(3)))
        await scene.says(synced())
        await standing(scene, 2, 3, graceful_restart_s=restart_s)
        await scene.says(Down(P2, "gone", hard=hard))
        assert routed(scene) == {"10.244.3.0/24": [3], **({"10.244.2.0/24": [2]} if kept else {})}
        assert set(scene.router.adjacencies.standing) == {P3}


async def test_what_was_kept_goes_with_the_end_of_rib_or_in_its_time() -> None:
    clock = [100.0]
    async with scripted(lambda: clock[0]) as scene:
        scene.router.follow(aim(neighbour(2), neighbour(3)))
        await scene.says(synced())
        await standing(scene, 2, 3, graceful_restart_s=60)
        await scene.says(Down(P2, "gone", hard=False), Down(P3, "gone", hard=False))
        await scene.says(opened(P2), Up(P2), announced(2, SUBNET))
        assert routed(scene) == {SUBNET: [2], "10.244.2.0/24": [2], "10.244.3.0/24": [3]}
        await scene.says(EndOfRib(P2, 4))
        assert routed(scene) == {SUBNET: [2], "10.244.3.0/24": [3]}
        clock[0] = 161.0
        await scene.says(Withdrawn(P2, ()))
        assert routed(scene) == {SUBNET: [2]}


async def test_a_lost_speaker_is_no_end_and_its_successor_is_told_everything() -> None:
    async with scripted() as scene:
        scene.router.follow(aim(neighbour(2)))
        await scene.says(synced())
        await standing(scene, 2)
        await scene.says(Lost("killed"))
        assert (routed(scene), scene.router.adjacencies.lost, scene.router.adjacencies.standing) == (
            {"10.244.2.0/24": [2]},
            "killed",
            {},
        )
        since = len(scene.commands())
        await scene.says(synced())
        assert scene.commands()[since:] == [("add", P2, info(2).session)]
        assert not scene.router.adjacencies.settled
        await standing(scene, 2)
        assert scene.router.adjacencies.settled


async def test_what_a_session_that_stood_does_not_tell_again_goes_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection to exabgp was lost, and exabgp went on."""
    monkeypatch.setattr(adjacencies, "TOLD_S", 0.1)
    async with scripted() as scene:
        scene.router.follow(aim(neighbour(2)))
        await scene.says(synced())
        await standing(scene, 2)
        await scene.says(Lost("displaced"), synced(info(2).session, paths=(told(2, SUBNET),)))
        assert routed(scene) == {"10.244.2.0/24": [2], SUBNET: [2]}
        await scene.until(lambda: routed(scene) == {SUBNET: [2]})


async def test_a_session_that_is_refused_stops_no_other_and_is_tried_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(router, "RETRY_S", 0.1)
    async with scripted() as scene:
        scene.speaker.refused.add(("add", P2))
        scene.router.follow(aim(neighbour(2), neighbour(3)))
        with caplog.at_level(logging.WARNING):
            await scene.says(synced())
            assert scene.commands("add") == [("add", P3, info(3).session)]
            await standing(scene, 3)
            await scene.until(lambda: len(scene.changes) > 6)
        assert [record.message for record in caplog.records] == ["bgp session refused"]
        scene.speaker.refused.clear()
        await scene.until(lambda: ("add", P2, info(2).session) in scene.commands())


async def test_one_whose_open_came_before_we_listened_is_up_all_the_same() -> None:
    async with scripted() as scene:
        scene.router.follow(aim(neighbour(2)))
        await scene.says(synced(others=[info(2).session]), Up(P2), announced(2))
        assert routed(scene) == {"10.244.2.0/24": [2]}
        await scene.says(Down(P2, "closing connection", hard=False))
        assert routed(scene) == {"10.244.2.0/24": [2]}


async def test_a_neighbour_that_is_dead_by_bfd_is_forgotten_at_once_and_its_session_ended(caplog: pytest.LogCaptureFixture) -> None:
    async with scripted() as scene:
        scene.router.follow(aim(neighbour(2), neighbour(3)))
        await scene.says(synced())
        await standing(scene, 2, 3)
        scene.router._bfd_changed(P2, up=False, why="control detection time expired")
        await scene.rest()
        assert routed(scene) == {"10.244.3.0/24": [3]}
        assert scene.commands("teardown") == [("teardown", P2)]
        await scene.says(Down(P2, "notification sent (6,4)", hard=True))
        assert scene.router.adjacencies.downs[P2] == "bfd: control detection time expired"
        assert [record.message for record in caplog.records] == ["bgp session down"]


async def test_bfd_that_ends_on_purpose_or_is_not_up_yet_says_nothing_of_the_neighbour() -> None:
    async with scripted() as scene:
        scene.router.follow(aim(neighbour(2)))
        await scene.says(synced())
        await standing(scene, 2)
        scene.router._bfd_changed(P2, up=False, why=ADMINISTRATIVELY_DOWN)
        scene.router._bfd_changed(P3, up=False, why="control detection time expired")
        scene.router._bfd_changed(P2, up=True, why="")
        await scene.rest()
        assert routed(scene) == {"10.244.2.0/24": [2]}
        assert scene.commands("teardown") == []


async def test_what_is_kept_of_a_neighbour_that_restarts_is_kept_while_its_bfd_is_down_too() -> None:
    """RFC 5882 §4.3.2.2: its BFD may have ended with its BGP."""
    async with scripted() as scene:
        scene.router.follow(aim(neighbour(2)))
        await scene.says(synced())
        await standing(scene, 2)
        await scene.says(Down(P2, "closing connection", hard=False))
        scene.router._bfd_changed(P2, up=False, why="detection time expired")
        await scene.rest()
        assert routed(scene) == {"10.244.2.0/24": [2]}
        await standing(scene, 2)
        assert scene.commands("teardown") == []


async def test_those_are_watched_by_bfd_that_are_to_be() -> None:
    async with scripted() as scene:
        followed: list[set[object]] = []
        scene.router.bfd.follow = lambda wanted: followed.append(set(wanted))  # type: ignore[method-assign]
        scene.router.follow(aim(neighbour(2, bfd=BfdTimers(100, 3)), neighbour(3)))
        await scene.says(synced())
        assert followed[-1] == {P2}


async def test_a_prefix_that_two_hosts_claim_is_said_once_and_so_is_the_end_of_it(caplog: pytest.LogCaptureFixture) -> None:
    async with scripted() as scene:
        scene.router.follow(aim(neighbour(2), neighbour(3)))
        await scene.says(synced())
        with caplog.at_level(logging.INFO):
            await standing(scene, 2, 3)
            await scene.says(announced(2, SUBNET), announced(3, SUBNET))
            await scene.says(announced(3, "10.244.8.0/24"))
            assert routed(scene)[SUBNET] == [2]
            await scene.says(Withdrawn(P3, ((ip_network(SUBNET), 0),)))
        said = [record.message for record in caplog.records if "conflict" in record.message]
        assert said == ["bgp conflict", "bgp conflict is over"]


async def test_who_goes_beyond_a_hard_limit_is_reset_and_room_is_filled_by_a_refresh() -> None:
    async with scripted() as scene:
        scene.router.follow(aim(neighbour(2, max_prefix=MaxPrefix(1, hard=True)), neighbour(3, max_prefix=MaxPrefix(1))))
        await scene.says(synced())
        await standing(scene, 2, 3)
        await scene.says(announced(3, SUBNET))
        assert scene.commands("teardown", "refresh") == []
        await scene.says(Withdrawn(P3, ((ip_network("10.244.3.0/24"), 0),)))
        assert scene.commands("refresh") == [("refresh", P3, 4)]
        await scene.says(announced(2, SUBNET))
        assert scene.commands("teardown")[:1] == [("teardown", P2)]


async def test_a_neighbour_that_is_not_wanted_any_more_is_forgotten_with_all_that_it_told() -> None:
    async with scripted() as scene:
        scene.router.follow(aim(neighbour(2), neighbour(3)))
        await scene.says(synced())
        await standing(scene, 2, 3)
        scene.router.follow(aim(neighbour(3)))
        await scene.rest()
        assert routed(scene) == {"10.244.3.0/24": [3]}
        assert scene.commands("delete") == [("delete", P2)]
        assert set(scene.router.adjacencies.standing) == {P3}


async def test_whoever_asks_is_told_of_changes() -> None:
    async with scripted() as scene:
        scene.router.follow(aim(neighbour(2)))
        await scene.says(synced())
        before = len(scene.changes)
        await standing(scene, 2)
        assert len(scene.changes) > before
        assert isinstance(next(iter(scene.router.adjacencies.rib.choices().values()))[0], Path)
