"""gRPC on HTTP/2 against a peer that does what no etcd does, or not when a test wants it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from struct import pack

import pytest
from h2.settings import SettingCodes
from hypothesis import given
from hypothesis import strategies as st

from flanneld.etcd.call import Call, ConnectionLost, RpcError, Status
from flanneld.etcd.connection import WINDOW, Connection
from grpc_peer import HEADERS, LOOPBACK, Peer, Script, grpc_peer

A_WHILE_S = 10


def echo(peer: Peer, stream: int, asked: bytes) -> None:
    peer.answer(stream, asked[5:])


@asynccontextmanager
async def connected(
    script: Script, settings: dict[SettingCodes | int, int] | None = None
) -> AsyncIterator[tuple[Connection, list[Peer]]]:
    async with asyncio.timeout(A_WHILE_S), grpc_peer(script, settings) as (port, peers):
        connection = Connection(*await asyncio.open_connection(LOOPBACK, port), "http", "peer")
        try:
            yield connection, peers
        finally:
            await connection.close()


async def ask(connection: Connection, message: bytes = b"") -> bytes | None:
    async with connection.call("/service/method", ()) as call:
        await call.send(message, last=True)
        answer = await call.receive()
        assert await call.receive() is None
        assert await call.receive() is None
        return answer


async def failure(script: Script) -> RpcError:
    async with connected(script) as (connection, _):
        with pytest.raises(RpcError) as failed:
            await ask(connection)
    return failed.value


@given(st.lists(st.binary(max_size=40)), st.integers(min_value=1, max_value=50))
def test_messages_arrive_whole_however_they_are_cut(messages: list[bytes], size: int) -> None:
    call = Call(nowhere)
    stream = b"".join(pack(">?I", False, len(message)) + message for message in messages)
    for at in range(0, len(stream), size):
        call.data_arrived(stream[at : at + size])
    call.end(None)

    async def received() -> list[bytes]:
        return [message async for message in aiter_of(call)]

    assert asyncio.run(received()) == messages


async def nowhere(data: bytes, last: bool) -> None:
    raise AssertionError("nothing is sent here")


async def aiter_of(call: Call) -> AsyncIterator[bytes]:
    while (message := await call.receive()) is not None:
        yield message


async def test_calls_side_by_side_get_their_own_answers() -> None:
    async with connected(echo) as (connection, _):
        asked = [str(number).encode() for number in range(20)]
        assert await asyncio.gather(*(ask(connection, one) for one in asked)) == asked


@pytest.mark.parametrize("window", [10, 65_535])
async def test_a_long_message_goes_out_as_the_peer_makes_room(window: int) -> None:
    message = bytes(range(256)) * (8 if window == 10 else 1024)

    def length(peer: Peer, stream: int, asked: bytes) -> None:
        peer.answer(stream, asked[-256:] + str(len(asked) - 5).encode())

    async with connected(length, {SettingCodes.INITIAL_WINDOW_SIZE: window}) as (connection, _):
        assert await ask(connection, message) == message[:256] + str(len(message)).encode()


async def test_windows_are_given_back() -> None:
    def half(peer: Peer, stream: int, asked: bytes) -> None:
        peer.answer(stream, bytes(WINDOW // 2))

    async with connected(half) as (connection, _):
        for _ in range(6):
            assert len(await ask(connection) or b"") == WINDOW // 2


async def test_no_more_calls_at_a_time_than_the_peer_allows() -> None:
    async with connected(echo, {SettingCodes.MAX_CONCURRENT_STREAMS: 1}) as (connection, _):
        await ask(connection)  # before that, its settings may not have come
        assert await asyncio.gather(*(ask(connection, b"%d" % number) for number in range(5))) == [b"0", b"1", b"2", b"3", b"4"]


async def test_a_call_that_is_left_is_broken_off_and_the_others_go_on() -> None:
    async with connected(echo) as (connection, peers):
        async with connection.call("/service/method", ()) as call:
            await call.send(b"more will come")
        assert await ask(connection, b"a") == b"a"
        assert peers[0].resets() == [1]


async def test_a_status_other_than_ok_is_an_error_in_its_words() -> None:
    error = await failure(lambda peer, stream, _: peer.answer(stream, b"", status=5, words="no such%0Alease%C3%A9"))
    assert (error.status, str(error)) == (Status.NOT_FOUND, "no such leaseé")


@pytest.mark.parametrize("status", ["99", "many"])
async def test_a_status_that_nobody_knows_is_unknown(status: str) -> None:
    def answer(peer: Peer, stream: int, _: bytes) -> None:
        peer.h2.send_headers(stream, (*HEADERS, ("grpc-status", status)), end_stream=True)

    error = await failure(answer)
    assert (error.status, str(error)) == (Status.UNKNOWN, "unknown")


async def test_an_end_without_a_status_is_an_error() -> None:
    def answer(peer: Peer, stream: int, _: bytes) -> None:
        peer.h2.send_headers(stream, HEADERS, end_stream=True)

    assert str(await failure(answer)) == "ended the call without a status"


@pytest.mark.parametrize(
    ("http", "status"), [("401", Status.UNAUTHENTICATED), ("503", Status.UNAVAILABLE), ("418", Status.UNKNOWN)]
)
async def test_a_proxy_that_speaks_no_grpc_is_quoted(http: str, status: Status) -> None:
    def answer(peer: Peer, stream: int, _: bytes) -> None:
        peer.h2.send_headers(stream, ((":status", http), ("content-type", "text/html")))
        peer.h2.send_data(stream, b"<html>", end_stream=True)

    error = await failure(answer)
    assert (error.status, str(error)) == (status, f"answers with HTTP status {http}")


async def test_a_compressed_message_is_refused() -> None:
    def answer(peer: Peer, stream: int, _: bytes) -> None:
        peer.h2.send_headers(stream, HEADERS)
        peer.h2.send_data(stream, pack(">?I", True, 3) + b"abc")

    assert (await failure(answer)).status is Status.INTERNAL


async def test_a_call_that_the_peer_breaks_off_is_unavailable() -> None:
    error = await failure(lambda peer, stream, _: peer.h2.reset_stream(stream, 7))
    assert (error.status, str(error)) == (Status.UNAVAILABLE, "broke off the call: HTTP/2 error 7")


async def test_a_peer_that_says_good_bye_loses_the_connection() -> None:
    error = await failure(lambda peer, stream, _: peer.h2.close_connection())
    assert isinstance(error, ConnectionLost)
    assert str(error) == "is closing the connection"


async def test_a_peer_that_hangs_up_loses_the_connection_for_good() -> None:
    async with connected(lambda peer, stream, _: peer.writer.close()) as (connection, _):
        for _ in range(2):
            with pytest.raises(ConnectionLost, match=r"connection (lost|reset by peer)"):
                await ask(connection)


async def test_a_peer_that_breaks_the_protocol_loses_the_connection() -> None:
    def data_on_stream_0(peer: Peer, stream: int, _: bytes) -> None:
        peer.writer.write(bytes((0, 0, 1, 0, 0, 0, 0, 0, 0, 0)))

    error = await failure(data_on_stream_0)
    assert isinstance(error, ConnectionLost)
    assert str(error).startswith("does not speak HTTP/2 as expected: ")
