"""HTTP/1.1 as the Engine API's clients speak it: over a real Unix socket, with tiny answers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from runtime.docker_api import exchange
from runtime.docker_api.exchange import Bytes, Empty, Hijack, Json, Later, Lines, Request, Response, Sink, Source, Text
from runtime.errors import Conflict, InvalidParameter, NotFound, NotModified
from runtime_api import answering, message, talking


async def echo(request: Request) -> Response:
    return Json({"method": request.method, "path": request.path, "body": (await request.read()).decode()})


async def test_a_connection_serves_one_request_after_the_other(tmp_path: Path) -> None:
    async with answering(tmp_path / "s", echo) as path, talking(path) as talk:
        for number in range(3):
            status, _, body = await talk.ask("POST", f"/v1.50/n/{number}", b"hello")
            assert (status, json.loads(body)) == (200, {"method": "POST", "path": f"/n/{number}", "body": "hello"})


async def test_a_connection_outlives_a_stream_whose_request_nobody_read(tmp_path: Path) -> None:
    async def stream(_: Request) -> Response:
        async def parts() -> AsyncIterator[bytes]:
            yield b"part"

        return Bytes(parts(), "text/plain")

    async with answering(tmp_path / "s", stream) as path, talking(path) as talk:
        for body in (b"", b"unread"):
            assert (await talk.ask("POST", "/", body))[2] == b"part"
        assert (await talk.ask("GET", "/"))[0] == 200


async def test_requests_sent_before_the_answers_are_answered_in_order(tmp_path: Path) -> None:
    async with answering(tmp_path / "s", echo) as path, talking(path) as talk:
        await talk.say(b"GET /a HTTP/1.1\r\nHost: x\r\n\r\nGET /b HTTP/1.1\r\nHost: x\r\n\r\n")
        paths = [json.loads(await talk.body((await talk.head())[1]))["path"] for _ in range(2)]
    assert paths == ["/a", "/b"]


async def test_a_chunked_body_is_read_as_it_comes_and_its_answer_is_there_before_its_end(tmp_path: Path) -> None:
    async def upper(request: Request) -> Response:
        async def parts() -> AsyncIterator[bytes]:
            async for part in request.body:
                yield part.upper()

        return Bytes(parts(), "text/plain")

    async with answering(tmp_path / "s", upper) as path, talking(path) as talk:
        await talk.say(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n")
        assert (await talk.head())[0] == 200
        assert await talk.chunk() == b"AB"
        await talk.say(b"1\r\nc\r\n0\r\n\r\n")
        assert [await talk.chunk(), await talk.chunk()] == [b"C", b""]
        await talk.say(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await talk.head())[0] == 200


async def test_who_waits_for_100_continue_gets_it_when_the_body_is_wanted(tmp_path: Path) -> None:
    async with answering(tmp_path / "s", echo) as path, talking(path) as talk:
        await talk.say(b"PUT / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
        assert (await talk.head())[0] == 100
        await talk.say(b"hi")
        assert json.loads(await talk.body((await talk.head())[1]))["body"] == "hi"


async def test_a_refused_upload_is_told_so_before_it_is_over(tmp_path: Path) -> None:
    async def refuse(_: Request) -> Response:
        raise NotFound("No such container: x")

    async with answering(tmp_path / "s", refuse) as path, talking(path) as talk:
        await talk.say(b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 100000000\r\n\r\n" + b"x" * 600_000)
        status, headers = await talk.head()
        assert (status, headers["connection"]) == (404, "close")
        assert message(await talk.body(headers)) == "No such container: x"
        assert await talk.reader.read() == b""


async def test_a_wait_sends_its_head_at_once_and_its_body_at_the_end(tmp_path: Path) -> None:
    ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def document() -> Any:
        return {"StatusCode": await ended}

    async def wait(_: Request) -> Response:
        return Later(document)

    async with answering(tmp_path / "s", wait) as path, talking(path) as talk:
        await talk.say(b"POST /wait HTTP/1.1\r\nHost: x\r\n\r\n")
        status, headers = await talk.head()
        assert (status, ended.done()) == (200, False)
        ended.set_result(7)
        assert json.loads(await talk.body(headers)) == {"StatusCode": 7}


async def test_lines_go_out_one_by_one_and_an_error_among_them_is_the_last(tmp_path: Path) -> None:
    go_on = asyncio.Event()

    async def documents() -> AsyncIterator[dict[str, str]]:
        yield {"status": "Pulling"}
        await go_on.wait()
        raise Conflict("no more")

    async def pull(_: Request) -> Response:
        return Lines(documents())

    async with answering(tmp_path / "s", pull) as path, talking(path) as talk:
        await talk.say(b"POST / HTTP/1.1\r\nHost: x\r\n\r\n")
        await talk.head()
        assert await talk.chunk() == b'{"status":"Pulling"}\r\n'
        go_on.set()
        assert await talk.chunk() == b'{"errorDetail":{"message":"no more"},"error":"no more"}\r\n'
        assert await talk.chunk() == b""


async def test_a_stream_that_fails_before_its_first_line_has_a_status_of_its_own(tmp_path: Path) -> None:
    go_on = asyncio.Event()

    async def documents() -> AsyncIterator[str]:
        if not go_on.is_set():
            raise NotFound("pull access denied")
        yield ""

    async def pull(_: Request) -> Response:
        return Lines(documents())

    async with answering(tmp_path / "s", pull) as path, talking(path) as talk:
        status, _, body = await talk.ask("POST", "/images/create")
        assert (status, message(body)) == (404, "pull access denied")
        assert (await talk.ask("POST", "/images/create"))[0] == 404


async def test_a_stream_of_bytes_that_fails_half_way_is_cut_off_and_not_ended(tmp_path: Path) -> None:
    async def parts() -> AsyncIterator[bytes]:
        yield b"tar"
        raise Conflict("the disk is full")

    async def export(_: Request) -> Response:
        return Bytes(parts(), "application/x-tar")

    async with answering(tmp_path / "s", export) as path, talking(path) as talk:
        await talk.say(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await talk.head()
        assert await talk.reader.read() == b"3\r\ntar\r\n"


async def _upper_until_end(source: Source, sink: Sink) -> None:
    while data := await source.read(100):
        sink.write(data.upper())
        await sink.drain()
    sink.write(b"bye")
    await sink.drain()


async def hijack(request: Request) -> Response:
    await request.read()
    return Hijack(_upper_until_end)


@pytest.mark.parametrize(
    ("headers", "status", "upgrade"), [("Connection: Upgrade\r\nUpgrade: tcp\r\n", 101, "tcp"), ("", 200, None)], ids=["new", "old"]
)
async def test_a_hijacked_connection_is_two_streams_and_goes_on_after_the_clients_end_of_input(
    tmp_path: Path, headers: str, status: int, upgrade: str | None
) -> None:
    async with answering(tmp_path / "s", hijack) as path, talking(path) as talk:
        await talk.say(f"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n{headers}\r\n{{}}early ".encode())
        got, fields = await talk.head()
        assert (got, fields.get("upgrade"), fields["content-type"]) == (status, upgrade, "application/vnd.docker.raw-stream")
        await talk.say(b"late")
        talk.writer.write_eof()
        assert await talk.reader.read() == b"EARLY LATEbye"


async def test_what_streams_to_a_client_that_has_left_is_ended(tmp_path: Path) -> None:
    ended = asyncio.Event()

    async def documents() -> AsyncIterator[str]:
        try:
            yield "one"
            await asyncio.Event().wait()
        finally:
            ended.set()

    async def events(_: Request) -> Response:
        return Lines(documents())

    async with answering(tmp_path / "s", events) as path:
        async with talking(path) as talk:
            await talk.say(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            await talk.head()
        async with asyncio.timeout(5):
            await ended.wait()


async def test_a_hijacked_connection_ends_when_its_client_has_left_though_nothing_is_said(tmp_path: Path) -> None:
    ended = asyncio.Event()

    async def quiet(source: Source, sink: Sink) -> None:
        try:
            assert await source.read(100) == b""
            await asyncio.Event().wait()
        finally:
            ended.set()

    async def attach(_: Request) -> Response:
        return Hijack(quiet)

    async with answering(tmp_path / "s", attach) as path:
        async with talking(path) as talk:
            await talk.say(b"POST / HTTP/1.1\r\nHost: x\r\n\r\n")
            await talk.head()
            talk.writer.write_eof()
            await asyncio.sleep(0.05)
            assert not ended.is_set()
        async with asyncio.timeout(5):
            await ended.wait()


async def test_what_is_done_for_a_client_that_has_left_is_done_to_its_end(tmp_path: Path) -> None:
    begun, done = asyncio.Event(), asyncio.Event()

    async def stop(_: Request) -> Response:
        begun.set()
        await asyncio.sleep(0.05)
        done.set()
        return Empty()

    async with answering(tmp_path / "s", stop) as path, talking(path) as talk:
        await talk.say(b"POST / HTTP/1.1\r\nHost: x\r\n\r\n")
        await begun.wait()
    assert done.is_set()


@pytest.mark.parametrize(
    "sent",
    [
        b"\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nbad\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 70_000,
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        bytes(range(256)) * 300,
    ],
)
async def test_what_is_no_request_is_refused_and_its_connection_closed(tmp_path: Path, sent: bytes) -> None:
    async with answering(tmp_path / "s", echo) as path, talking(path) as talk:
        await talk.say(sent)
        status, headers = await talk.head()
        assert status in (400, 431, 501, 505)
        assert headers["connection"] == "close"
        assert isinstance(message(await talk.body(headers)), str)
        assert await talk.reader.read() == b""


async def test_a_body_that_is_cut_off_or_broken_is_the_requests_fault(tmp_path: Path) -> None:
    async with answering(tmp_path / "s", echo) as path:
        for rest in (b"Content-Length: 10\r\n\r\nabc", b"Transfer-Encoding: chunked\r\n\r\nzz\r\n"):
            async with talking(path) as talk:
                await talk.say(b"POST / HTTP/1.1\r\nHost: x\r\n" + rest)
                talk.writer.write_eof()
                assert (await talk.head())[0] == 400


async def test_a_json_body_that_does_not_come_is_not_waited_for_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "BODY_S", 0.05)
    async with answering(tmp_path / "s", echo) as path, talking(path) as talk:
        await talk.say(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc")
        assert (await talk.head())[0] == 400


async def test_a_head_request_gets_the_length_and_no_body(tmp_path: Path) -> None:
    async def ping(_: Request) -> Response:
        return Text("OK")

    async with answering(tmp_path / "s", ping) as path, talking(path) as talk:
        assert (await talk.ask("HEAD", "/_ping"))[0] == 200
        assert (await talk.ask("GET", "/_ping"))[2] == b"OK"


@pytest.mark.parametrize(
    ("error", "status"), [(InvalidParameter("x"), 400), (Conflict("x"), 409), (NotModified("x"), 304), (ValueError("x"), 500)]
)
async def test_an_errors_class_is_its_status_and_the_server_lives_on(tmp_path: Path, error: Exception, status: int) -> None:
    async def fail(_: Request) -> Response:
        raise error

    async with answering(tmp_path / "s", fail) as path, talking(path) as talk:
        for _ in range(2):
            assert (await talk.ask("POST", "/"))[0] == status


async def test_an_answer_that_is_no_json_after_all_is_our_fault_and_the_server_lives_on(tmp_path: Path) -> None:
    async def broken(_: Request) -> Response:
        return Json({"a": object()})

    async with answering(tmp_path / "s", broken) as path, talking(path) as talk:
        assert (await talk.ask("GET", "/"))[0] == 500
        assert (await talk.ask("GET", "/"))[0] == 500


async def test_two_hundred_clients_at_once_are_all_served(tmp_path: Path) -> None:
    everybody = asyncio.Barrier(200)

    async def meet(request: Request) -> Response:
        await everybody.wait()
        return Text(request.path)

    async def one(path: Path, number: int) -> bool:
        async with talking(path) as talk:
            return (await talk.ask("GET", f"/{number}"))[2] == f"/{number}".encode()

    async with answering(tmp_path / "s", meet) as path:
        async with asyncio.timeout(20):
            assert all(await asyncio.gather(*(one(path, number) for number in range(200))))


async def test_a_large_answer_to_a_client_that_reads_slowly_does_not_pile_up(tmp_path: Path) -> None:
    given = 0

    async def parts() -> AsyncIterator[bytes]:
        nonlocal given
        for _ in range(200):
            given += 1
            yield b"x" * 100_000

    async def save(_: Request) -> Response:
        return Bytes(parts(), "application/x-tar")

    async with answering(tmp_path / "s", save) as path, talking(path) as talk:
        await talk.say(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await asyncio.sleep(0.1)
        assert given < 50
        assert len(await talk.body((await talk.head())[1])) == 200 * 100_000
