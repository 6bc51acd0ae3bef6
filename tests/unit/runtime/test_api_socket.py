"""The Engine API's socket: whose it is, and what becomes of one that is there already."""

from __future__ import annotations

import asyncio
import socket
import stat
from pathlib import Path

import pytest

from runtime.docker_api import clients
from runtime.docker_api.clients import listen
from runtime.docker_api.exchange import Request, Response, Text
from runtime.errors import Unavailable
from runtime_api import answering, talking


async def ok(_: Request) -> Response:
    return Text("OK")


async def test_the_socket_is_there_for_root_and_a_group_alone_and_goes_with_the_server(tmp_path: Path) -> None:
    async with answering(tmp_path / "deep/engine.sock", ok) as path:
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
    assert not path.exists()


async def test_a_socket_that_nobody_listens_on_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    async with answering(path, ok), talking(path) as talk:
        assert (await talk.ask("GET", "/_ping"))[2] == b"OK"


async def test_a_socket_that_somebody_listens_on_is_left_to_them(tmp_path: Path) -> None:
    async with answering(tmp_path / "s", ok) as path:
        with pytest.raises(Unavailable, match="another engine listens on"):
            await asyncio.to_thread(listen, path, "docker")
        async with talking(path) as talk:
            assert (await talk.ask("GET", "/_ping"))[2] == b"OK"


async def test_a_file_in_the_sockets_place_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "s").write_text("mine")
    with pytest.raises(Unavailable, match="a file that is no socket"):
        await asyncio.to_thread(listen, tmp_path / "s", "docker")
    assert (tmp_path / "s").read_text() == "mine"


async def test_a_later_engines_socket_survives_the_end_of_the_earlier(tmp_path: Path) -> None:
    async with answering(tmp_path / "s", ok) as path:
        path.unlink()
        later = await asyncio.to_thread(listen, path, "docker")
    assert path.exists()
    later.close()


async def test_one_client_too_many_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clients, "MAX_CONNECTIONS", 1)
    async with answering(tmp_path / "s", ok) as path, talking(path) as first:
        assert (await first.ask("GET", "/"))[0] == 200
        async with talking(path) as second:
            assert (await second.reader.read()).startswith(b"HTTP/1.1 503 ")


async def test_the_servers_end_waits_for_what_is_at_work(tmp_path: Path) -> None:
    begun = asyncio.Event()

    async def slow(_: Request) -> Response:
        begun.set()
        await asyncio.sleep(0.05)
        return Text("done")

    async with answering(tmp_path / "s", slow) as path:
        reader, writer = await asyncio.open_unix_connection(str(path))
        writer.write(b"POST / HTTP/1.1\r\nHost: x\r\n\r\n")
        await begun.wait()
    assert (await reader.read()).endswith(b"done")
    writer.close()
    await writer.wait_closed()
