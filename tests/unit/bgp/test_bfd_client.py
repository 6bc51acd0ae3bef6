"""What a daemon makes of what the BFD process says: changes are told once, and what is not known is no change."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from pathlib import Path

import pytest

from bfd_scripted_process import DOWN, OTHER, PEER, UP, WANTED, scripted
from bgp import process
from bgp.bfd import client
from bgp.bfd.packet import Drop, State
from bgp.bfd.words import End, Follow, Hello, Report, Standing
from bgp.process import ProcessError, Program

LOST = Standing(State.DOWN, 1, "path down")
TOLD_UP, TOLD_LOST = (PEER, True, "none"), (PEER, False, "path down")


async def test_what_is_wanted_is_said_and_said_again_when_it_is_something_else(tmp_path: Path) -> None:
    async with scripted(tmp_path) as scene:
        scene.speaker.follow(WANTED)
        await scene.until(lambda: scene.heard)
        scene.speaker.follow(dict(WANTED))
        more = WANTED | {OTHER: WANTED[PEER]}
        scene.speaker.follow(more)
        await scene.until(lambda: len(scene.heard) == 2)
        assert scene.heard == [Follow(WANTED), Follow(more)]


async def test_until_it_is_known_what_is_wanted_nothing_is_said(tmp_path: Path) -> None:
    async with scripted(tmp_path) as scene:
        await asyncio.sleep(0.05)
        assert scene.connections == 0


async def test_a_process_that_nobody_wants_is_ended(tmp_path: Path) -> None:
    async with scripted(tmp_path) as scene:
        scene.speaker.follow({})
        await scene.until(lambda: scene.heard == [End()])
        assert scene.writer is not None
        scene.writer.close()
        await scene.until(lambda: not (tmp_path / "bfd.sock").exists())


async def test_changes_are_told_in_order_and_states_are_known(tmp_path: Path) -> None:
    async with scripted(tmp_path) as scene:
        scene.speaker.follow(WANTED)
        for standing in (
            DOWN,
            Standing(State.INIT),
            UP,
            UP,
            LOST,
            Standing(State.INIT, 1, "path down"),
            replace(LOST, state=State.UP),
        ):
            await scene.reports(standing)
            assert scene.speaker.states == {PEER: standing.state}
        assert scene.told == [TOLD_UP, TOLD_LOST, TOLD_UP]


@pytest.mark.parametrize(
    ("before", "now", "told"),
    [
        (UP, UP, []),
        (UP, LOST, [TOLD_LOST]),
        (UP, replace(LOST, state=State.UP), [TOLD_LOST, TOLD_UP]),
        (DOWN, LOST, [TOLD_LOST]),
        (DOWN, UP, [TOLD_UP]),
        (LOST, LOST, []),
    ],
)
async def test_what_has_happened_while_the_connection_was_lost_is_told(
    tmp_path: Path, before: Standing, now: Standing, told: list[object]
) -> None:
    async with scripted(tmp_path) as scene:
        scene.speaker.follow(WANTED)
        await scene.reports(before)
        since = len(scene.told)
        await scene.hangs_up()
        await scene.reports(now)
        assert scene.told[since:] == told
        assert scene.heard == [Follow(WANTED)]


async def test_of_another_process_nothing_bad_is_told_for_what_the_lost_one_knew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with scripted(tmp_path) as scene:
        scene.speaker.follow(WANTED)
        await scene.says(Report({PEER: UP}, dropped={Drop.TTL: 3}))
        await scene.hangs_up("second")
        assert (scene.speaker.states, scene.speaker.dropped) == ({}, {})
        await scene.reports(DOWN)
        await scene.reports(UP)
        assert scene.told == [TOLD_UP, TOLD_UP]
        assert [record.message for record in caplog.records] == ["bfd process lost"]


async def test_a_session_that_was_down_before_anybody_knew_it_is_no_change(tmp_path: Path) -> None:
    """The neighbour may be just restarting, with its BGP session up already."""
    async with scripted(tmp_path) as scene:
        scene.speaker.follow(WANTED)
        await scene.reports(LOST)
        assert (scene.told, scene.speaker.states) == ([], {PEER: State.DOWN})


async def test_of_a_neighbour_that_nobody_wants_nothing_is_told(tmp_path: Path) -> None:
    async with scripted(tmp_path) as scene:
        scene.speaker.follow(WANTED)
        await scene.says(Report({PEER: UP, OTHER: UP}))
        await scene.reports(Standing(None, trouble="no such device"))
        assert scene.speaker.states == {}
        await scene.reports(UP)
        await scene.says(Report(gone=frozenset({PEER})))
        assert (scene.told, scene.speaker.states) == ([TOLD_UP, TOLD_UP], {})


async def test_trouble_is_said_once_until_it_is_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with scripted(tmp_path) as scene:
        scene.speaker.follow(WANTED)
        with caplog.at_level(logging.WARNING):
            for trouble in ("no such device", "no such device", "", "no such device"):
                await scene.reports(Standing(None, trouble=trouble))
        assert [record.message for record in caplog.records] == ["bfd session in trouble"] * 2


@pytest.mark.parametrize("said", [b"nonsense\n", b"[]\n", b'{"sessions": {"x": {}}, "gone": [], "dropped": {}}\n', Hello("a", "b")])
async def test_who_talks_nonsense_is_asked_again(tmp_path: Path, said: bytes | Hello) -> None:
    async with scripted(tmp_path) as scene:
        scene.speaker.follow(WANTED)
        await scene.says(said)
        await scene.until(lambda: scene.connections == 2)
        await scene.reports(UP)
        assert scene.told == [TOLD_UP]


async def test_another_program_is_ended_and_one_started_in_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with scripted(tmp_path) as scene:
        ours, scene.hello = scene.hello, Hello("another", "second")

        async def start(program: Program) -> None:
            assert scene.heard == [End()]
            scene.heard.clear()
            scene.hello = ours

        monkeypatch.setattr(process, "start", start)
        monkeypatch.setattr(client, "END_S", 0.1)
        scene.speaker.follow(WANTED)
        await scene.until(lambda: scene.heard == [Follow(WANTED)])


async def test_what_cannot_be_started_is_said_once_and_tried_more_and_more_seldom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tries = []

    async def start(program: Program) -> None:
        tries.append(asyncio.get_running_loop().time())
        raise ProcessError("no memory")

    monkeypatch.setattr(process, "start", start)
    async with scripted(tmp_path) as scene:
        (tmp_path / "bfd.sock").unlink()
        scene.speaker.follow(WANTED)
        await scene.until(lambda: len(tries) == 4)
    assert [record.message for record in caplog.records] == ["bfd process lost"]
    assert tries[3] - tries[2] > tries[1] - tries[0]


async def test_a_daemon_that_hangs_while_it_is_greeted_has_heard_it_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(client, "SILENCE_S", 0.2)
    async with scripted(tmp_path) as scene:
        scene.stall_s = 0.3
        scene.speaker.follow(WANTED)
        await scene.until(lambda: scene.heard)
        assert (scene.heard, scene.connections, caplog.records) == ([Follow(WANTED)], 1, [])


async def test_silence_is_the_end_of_a_connection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "SILENCE_S", 0.2)
    async with scripted(tmp_path) as scene:
        scene.speaker.follow(WANTED)
        await scene.reports(UP)
        await scene.until(lambda: scene.connections == 2)
