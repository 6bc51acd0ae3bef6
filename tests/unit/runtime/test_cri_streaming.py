"""The streaming server with clients of both kinds; the processes are the test's own."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from cri_streams import EchoCommand, SpdyPeer, connect, noise, spdy_peer, websocket_peer
from runtime.cri.streaming import spdy
from runtime.cri.streaming.port_forward import Forward
from runtime.cri.streaming.server import CommandRequest, PortsRequest, StreamingServer, streaming_server
from runtime.cri.streaming.tokens import LIFE_S, Tokens
from runtime.errors import EngineError

V4 = "v4.channel.k8s.io"
Echo = Callable[..., EchoCommand]


@pytest.fixture
async def server() -> AsyncIterator[StreamingServer]:
    async with asyncio.timeout(20), streaming_server() as server:
        yield server


@pytest.fixture
async def echo() -> AsyncIterator[Echo]:
    """Makes processes."""
    made: list[EchoCommand] = []

    def make(**given: Any) -> EchoCommand:
        made.append(EchoCommand(**given))
        return made[-1]

    yield make
    for command in made:
        await command.end()


def asked(command: EchoCommand, *, stdin: bool = True, stderr: bool = True) -> CommandRequest:
    return CommandRequest(command.begin, stdin, True, stderr and not command.tty, command.tty)


async def test_a_command_over_spdy_is_typed_at_and_answers(server: StreamingServer, echo: Echo) -> None:
    command = echo(code=3)
    async with spdy_peer(server.url("exec", asked(command)), "v3.channel.k8s.io", V4) as peer:
        error, stdin, stdout, stderr = (peer.open(streamtype=name) for name in ("error", "stdin", "stdout", "stderr"))
        peer.send(stdin, b"typed ", is_last=False)
        peer.send(stdin, b"in", is_last=True)
        await command.begun.wait()
        assert await command.reader.read() == b"typed in"
        command.say(b"out")
        command.say(b"err", stream=2)
        await command.end()
        await peer.until_ended(stdout, stderr, error)
        assert (peer.said(stdout), peer.said(stderr)) == (b"out", b"err")
        outcome = json.loads(peer.said(error))
    assert (outcome["reason"], outcome["details"]["causes"]) == ("NonZeroExitCode", [{"reason": "ExitCode", "message": "3"}])


async def test_a_terminal_over_spdy_has_sizes(server: StreamingServer, echo: Echo) -> None:
    command = echo(tty=True)
    async with spdy_peer(server.url("exec", asked(command)), V4) as peer:
        error, stdin, stdout, resize = (peer.open(streamtype=name) for name in ("error", "stdin", "stdout", "resize"))
        peer.send(resize, b'{"Width":80,"Height":24}\n{"Width":100,')
        peer.send(resize, b'"Height":50}\nnonsense')
        await command.begun.wait()
        command.say(b"bare")
        await peer.until(stdout, b"bare")
        peer.send(stdin, b"x")
        assert await command.reader.read(1) == b"x"
        await command.end()
        await peer.until_ended(error)
    assert command.sizes == [(24, 80), (50, 100)]
    assert json.loads(peer.said(error))["status"] == "Success"


@pytest.mark.parametrize(("protocol", "text"), [("v2.channel.k8s.io", b"command terminated"), ("", b"command terminated")])
async def test_older_clients_are_told_in_words(server: StreamingServer, echo: Echo, protocol: str, text: bytes) -> None:
    command = echo(code=1)
    async with spdy_peer(server.url("exec", asked(command, stdin=False, stderr=False)), *([protocol] if protocol else [])) as peer:
        error, stdout = peer.open(streamtype="error"), peer.open(streamtype="stdout")
        await command.begun.wait()
        await command.end()
        await peer.until_ended(stdout, error)
    assert peer.said(error).startswith(text)


async def test_much_goes_through_unchanged(server: StreamingServer, echo: Echo) -> None:
    command, much = echo(), noise(5 << 20)
    async with spdy_peer(server.url("exec", asked(command, stderr=False)), V4) as peer:
        error, stdin, stdout = (peer.open(streamtype=name) for name in ("error", "stdin", "stdout"))
        await command.begun.wait()
        for start in range(0, len(much), 1 << 20):
            peer.send(stdin, much[start : start + (1 << 20)], is_last=start + (1 << 20) >= len(much))

        async def give_back() -> None:
            while data := await command.reader.read(65536):
                command.say(data)
                await command.writer.drain()
            await command.end()

        await asyncio.gather(give_back(), peer.until_ended(stdout, error))
    assert peer.said(stdout) == much


async def test_a_command_that_cannot_be_run_is_an_outcome(server: StreamingServer) -> None:
    async def begin() -> object:
        raise EngineError("no such program")

    async with spdy_peer(server.url("exec", CommandRequest(begin, stdout=True)), V4) as peer:  # type: ignore[arg-type]
        error, stdout = peer.open(streamtype="error"), peer.open(streamtype="stdout")
        await peer.until_ended(error, stdout)
    assert json.loads(peer.said(error))["message"] == "no such program"


async def test_a_ping_is_answered_while_nothing_else_happens(server: StreamingServer, echo: Echo) -> None:
    command = echo()
    async with spdy_peer(server.url("exec", asked(command, stdin=False, stderr=False)), V4) as peer:
        peer.writer.write(spdy.ping(7) + spdy.ping(8))
        await peer.until_pinged()
    assert peer.pings == [7]


async def test_who_leaves_ends_what_was_typed(server: StreamingServer, echo: Echo) -> None:
    command = echo()
    async with spdy_peer(server.url("exec", asked(command, stderr=False)), V4) as peer:
        for name in ("error", "stdin", "stdout"):
            peer.open(streamtype=name)
        await command.begun.wait()
    assert await command.reader.read() == b""


@pytest.mark.parametrize("protocol", ["v5.channel.k8s.io", V4, "v4.base64.channel.k8s.io", "channel.k8s.io", ""])
async def test_a_command_over_websocket_is_typed_at_and_answers(server: StreamingServer, echo: Echo, protocol: str) -> None:
    command = echo(code=2)
    async with websocket_peer(server.url("exec", asked(command)), *([protocol] if protocol else [])) as peer:
        assert peer.protocol == protocol
        await command.begun.wait()
        peer.send(0, b"typed")
        assert await command.reader.read(5) == b"typed"
        command.say(b"out")
        command.say(b"err", stream=2)
        await command.end()
        while not peer.closed:
            await peer.read()
    assert (peer.got[1], peer.got[2]) == (b"out", b"err")
    told = peer.got[3]
    assert json.loads(told)["reason"] == "NonZeroExitCode" if "v" in protocol else told.startswith(b"command terminated")


async def test_version_five_ends_one_stream_alone(server: StreamingServer, echo: Echo) -> None:
    command = echo()
    async with websocket_peer(server.url("exec", asked(command)), V4, "v5.channel.k8s.io") as peer:
        await command.begun.wait()
        peer.send(0, b"all")
        peer.send(255, b"\0")
        assert await command.reader.read() == b"all"
        command.say(b"bye")
        await command.end()
        assert (await peer.until_closed())["status"] == "Success"
    assert peer.got[1] == b"bye"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, "400"),
        ({"Connection": "Upgrade", "Upgrade": "h2c"}, "400"),
        ({"Connection": "Upgrade", "Upgrade": "SPDY/3.1", "X-Stream-Protocol-Version": "v9.channel.k8s.io"}, "403"),
    ],
)
async def test_who_speaks_nothing_known_is_refused(
    server: StreamingServer, echo: Echo, headers: dict[str, str], status: str
) -> None:
    _, writer, head = await connect(server.url("exec", asked(echo())), headers)
    writer.close()
    assert head.split()[1] == status


async def test_a_token_is_good_once(server: StreamingServer, echo: Echo) -> None:
    url, command = server.url("exec", asked(echo())), {"Connection": "Upgrade", "Upgrade": "SPDY/3.1"}
    for path, status in ((url[:-1], "404"), (url, "101"), (url, "404")):
        _, writer, head = await connect(path, command)
        writer.close()
        assert head.split()[1] == status


def test_a_token_is_not_good_for_ever() -> None:
    now = [0.0]
    tokens: Tokens[str] = Tokens(lambda: now[0])
    early, late = tokens.put("early"), tokens.put("late")
    assert tokens.take(early) == "early"
    now[0] = LIFE_S
    assert tokens.take(late) is None


@pytest.mark.parametrize(
    "garbage",
    [b"\x80\x02\x00\x01\x00\x00\x00\x00", b"\x80\x03\x00\x01\x00\x00\x00\x0c" + b"\xff" * 12, b"\x80\x03\x00\x01\x00\xff\xff\xff"],
)
async def test_nonsense_ends_the_connection_and_nothing_else(server: StreamingServer, echo: Echo, garbage: bytes) -> None:
    async with spdy_peer(server.url("exec", asked(echo())), V4) as peer:
        peer.writer.write(garbage)
        assert await peer.reader.read() == b""
    assert server.url("exec", asked(echo()))


@pytest.fixture
async def page() -> AsyncIterator[int]:
    """A port that answers every line with it."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            writer.write(b"you said " + line)
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


def forwarding(*ports: int) -> PortsRequest:
    async def begin() -> Forward:
        return Forward("", ports)

    return PortsRequest(begin)


def pair(peer: SpdyPeer, number: int, port: int) -> tuple[int, int]:
    headers = {"requestid": str(number), "port": str(port)}
    return peer.open(streamtype="error", **headers), peer.open(streamtype="data", **headers)


async def test_ports_are_forwarded_over_spdy(server: StreamingServer, page: int) -> None:
    async with spdy_peer(server.url("portforward", forwarding()), "portforward.k8s.io") as peer:
        first, second = pair(peer, 0, page), pair(peer, 1, page)
        for (error, data), word in ((first, b"one\n"), (second, b"two\n")):
            peer.send(error, b"", is_last=True)
            peer.send(data, word, is_last=True)
        await peer.until_ended(*first, *second)
    assert (peer.said(first[1]), peer.said(second[1])) == (b"you said one\n", b"you said two\n")
    assert not peer.said(first[0])


async def test_a_port_where_nobody_listens_is_an_error(server: StreamingServer) -> None:
    async with spdy_peer(server.url("portforward", forwarding()), "portforward.k8s.io") as peer:
        error, data = pair(peer, 0, 1)
        await peer.until_ended(error, data)
    assert peer.said(error).endswith(b"connection refused")


async def test_ports_are_forwarded_over_websocket(server: StreamingServer, page: int) -> None:
    async with websocket_peer(server.url("portforward", forwarding(page, 1)), V4) as peer:
        peer.send(0, b"hello\n")
        wanted = page.to_bytes(2, "little") + b"you said hello\n"
        while peer.got.get(0) != wanted or b"refused" not in peer.got.get(3, b""):
            await peer.read()
    assert peer.got[2] == (1).to_bytes(2, "little")
