"""Commands and their answers over a connection, whose other end is played here."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from ipaddress import ip_address, ip_network
from pathlib import Path
from types import SimpleNamespace

import pytest

from bgp.events import Event, Up
from bgp.speaker import keeper
from bgp.speaker.connection import Connection
from bgp.speaker.decode import Hello
from bgp.speaker.launcher.settings import Settings
from bgp.speaker.news import SpeakerError, Synced

PEER = ip_address("10.9.0.2")
LINES = Path(__file__).with_name("speaker_lines") / "sessions.jsonl"
HELLO = '{"speaker": "hello", "settings": "name"}'
UP = '{"type": "state", "neighbor": {"address": {"peer": "10.9.0.2"}, "state": "up"}}'


class Relay:
    """The other end: what it was asked, and what it says."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def asked(self) -> str:
        return (await self._reader.readline()).decode().strip()

    def say(self, *lines: str) -> None:
        self._writer.write("".join(f"{line}\n" for line in lines).encode())

    async def list(self, *lines: str) -> None:
        """Answer the question how everything stands."""
        token = (await self.asked()).removeprefix("peer list ")
        self.say(f'{{"speaker": "list", "token": "{token}"}}', *lines, "done")

    def hang_up(self) -> None:
        self._writer.close()


@asynccontextmanager
async def connected(tmp_path: Path) -> AsyncIterator[tuple[Relay, Connection, list[Synced | Event]]]:
    news: list[Synced | Event] = []
    clients: asyncio.Queue[Relay] = asyncio.Queue()
    server = await asyncio.start_unix_server(lambda *ends: clients.put_nowait(Relay(*ends)), tmp_path / "s")
    reader, writer = await asyncio.open_unix_connection(tmp_path / "s")
    connection = Connection(reader, writer, lambda told: news.extend([told] if isinstance(told, Synced) else told))
    relay = await clients.get()
    try:
        yield relay, connection, news
    finally:
        connection.close()
        relay.hang_up()
        server.close()


@asynccontextmanager
async def synced(tmp_path: Path) -> AsyncIterator[tuple[Relay, Connection, list[Synced | Event]]]:
    async with connected(tmp_path) as (relay, connection, news), asyncio.TaskGroup() as tasks:
        running = tasks.create_task(connection.run())
        await relay.list()
        await until(lambda: connection.synced)
        news.clear()
        yield relay, connection, news
        running.cancel()


async def until(look: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not look():  # noqa: ASYNC110  # what is looked at has no event
            await asyncio.sleep(0.01)


async def test_it_is_greeted_once(tmp_path: Path) -> None:
    async with connected(tmp_path) as (relay, connection, _):
        relay.say(HELLO)
        assert await connection.greeting() == Hello("name")
        relay.say("done")
        with pytest.raises(SpeakerError, match="expected a speaker's greeting, got Answer"):
            await connection.greeting()
        relay.hang_up()
        with pytest.raises(SpeakerError):
            await connection.greeting()


async def test_what_is_said_to_a_client_before_us_is_not_ours(tmp_path: Path) -> None:
    async with connected(tmp_path) as (relay, connection, news):
        relay.say("done", UP, "error", '{"speaker": "list", "token": "of another"}', "done")
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(connection.run())
            await relay.list()
            relay.say(UP)
            relay.hang_up()
        assert news == [Synced({}, {}, (), {}), Up(PEER)]


async def test_how_everything_stands_is_told_in_one(tmp_path: Path) -> None:
    lines = LINES.read_text().splitlines()
    start = next(number for number, line in enumerate(lines) if "tok1" in line) + 1
    async with connected(tmp_path) as (relay, connection, news):
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(connection.run())
            await relay.list(*lines[start : start + 7])
            relay.hang_up()
        (found,) = news
        assert isinstance(found, Synced)
        assert found.sessions == {PEER: "be9955e292cd49499cbf1dda9a5d5986"}
        assert (found.established, found.opened[PEER].graceful_restart_s) == (frozenset({PEER}), 120)
        assert {str(path.prefix) for path in found.paths} == {"10.244.5.0/24", "0.0.0.0/0", "fd00:1::/64"}
        assert found.announced == {PEER: {ip_network("10.1.0.0/24"), ip_network("10.1.1.0/24")}}


async def test_answers_come_to_who_has_asked_with_news_in_between(tmp_path: Path) -> None:
    async with synced(tmp_path) as (relay, connection, news), asyncio.TaskGroup() as tasks:
        first = tasks.create_task(connection.command(["one", "two"]))
        second = tasks.create_task(connection.command(["three"]))
        assert [await relay.asked() for _ in range(3)] == ["one", "two", "three"]
        relay.say("done", UP, "done")
        await first
        assert news == [Up(PEER)]
        assert not second.done()
        relay.say("done")


async def test_the_first_refusal_is_raised_when_all_is_answered(tmp_path: Path) -> None:
    async with synced(tmp_path) as (relay, connection, _), asyncio.TaskGroup() as tasks:
        asking = tasks.create_task(failure(connection, ["neighbor 1.1.1.1 announce eor ipv4 unicast", "peer del 1.1.1.1", "ok"]))
        relay.say("error", '{"speaker": "refused", "why": "no neighbour"}', "error")
        await asyncio.sleep(0.05)
        assert not asking.done()
        relay.say("done")
        assert await asking == "exabgp refused neighbor 1.1.1.1 announce eor, its log says why"
        asking = tasks.create_task(failure(connection, ["peer add x c2VjcmV0"]))
        relay.say("error")
        assert await asking == "exabgp refused peer add, its log says why"
        asking = tasks.create_task(failure(connection, ["peer del 1.1.1.1"]))
        relay.say('{"speaker": "refused", "why": "no neighbour"}', "error")
        assert await asking == "no neighbour"


async def failure(connection: Connection, lines: list[str]) -> str:
    with pytest.raises(SpeakerError) as raised:
        await connection.command(lines)
    return str(raised.value)


async def test_an_answer_to_who_is_gone_is_nobodys(tmp_path: Path) -> None:
    async with synced(tmp_path) as (relay, connection, _), asyncio.TaskGroup() as tasks:
        gone = tasks.create_task(connection.command(["one"]))
        await relay.asked()
        gone.cancel()
        other = tasks.create_task(connection.command(["two"]))
        await relay.asked()
        relay.say("error")
        await asyncio.sleep(0.05)
        assert not other.done()
        relay.say("done")


async def test_a_lost_connection_fails_what_has_no_answer(tmp_path: Path) -> None:
    async with synced(tmp_path) as (relay, connection, _), asyncio.TaskGroup() as tasks:
        asking = tasks.create_task(failure(connection, ["one"]))
        await relay.asked()
        relay.hang_up()
        assert await asking == "the speaker is gone"
        assert await failure(connection, ["two"]) == "the speaker is gone"


async def test_words_that_nobody_knows_are_logged_and_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with synced(tmp_path) as (relay, _, news):
        with caplog.at_level(logging.WARNING):
            relay.say("nonsense", UP, "done")
            await until(lambda: len(caplog.records) == 2)
    assert [record.message for record in caplog.records] == ["unknown words of exabgp's", "answer of exabgp's to no question"]
    assert news == [Up(PEER)]


def test_news_that_nobody_takes_are_not_kept_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper, "MOST_NEWS", 3)
    kept = keeper.Keeper(Settings(Path("/nonexistent"), (), 179, "", 1, "name"))
    closed: list[str] = []
    kept._connection = SimpleNamespace(close=lambda: closed.append("closed"))  # type: ignore[assignment]
    kept._tell((Up(PEER),) * 3)
    assert not closed
    kept._tell((Up(PEER),))
    assert closed == ["closed"]
