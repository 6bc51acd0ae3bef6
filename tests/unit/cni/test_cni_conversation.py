"""The conversation with the CNI client: said whole, answered, acknowledged; or undone."""

from __future__ import annotations

import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cni_talk import ENVIRON, Plugins, hear, said
from flanneld import cni_server
from flanneld.cni_server import REQUEST, converse


@pytest.fixture
def plugins() -> Plugins:
    return Plugins()


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    client, server = socket.socketpair()
    client.settimeout(10)
    for direction in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
        server.setsockopt(socket.SOL_SOCKET, direction, struct.pack("@ll", 0, 300_000))
    with client, server:
        yield client, server


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def acknowledge(client: socket.socket, plugins: Plugins) -> None:
    """Have the client say that it has printed the answer."""
    plugins.meanwhile = lambda alive: client.sendall(b"k")


Pair = tuple[socket.socket, socket.socket]


def test_a_call_is_answered_and_not_undone_when_it_was_printed(pair: Pair, plugins: Plugins) -> None:
    client, server = pair
    acknowledge(client, plugins)
    client.sendall(said())
    converse(server, plugins)
    assert plugins.heard == [("bridge", ENVIRON, b"{conf}")]
    assert hear(client) == (3, b"out", b"err")
    assert plugins.reply.undone == []


def test_bytes_that_are_no_text_arrive_as_the_environment_has_them(pair: Pair, plugins: Plugins) -> None:
    client, server = pair
    client.sendall(said(environ={"CNI_NETNS": b"/run/\xff\n".decode(errors="surrogateescape")}, stdin=b""))
    converse(server, plugins)
    assert os.fsencode(plugins.heard[0][1]["CNI_NETNS"]) == b"/run/\xff\n"


def test_the_namespace_comes_as_a_descriptor_which_is_closed_at_the_end(pair: Pair, plugins: Plugins, tmp_path: Path) -> None:
    client, server = pair
    before = open_files()
    with (tmp_path / "netns").open("w") as file:
        socket.send_fds(client, [said()], [file.fileno()])
        converse(server, plugins)
        assert plugins.inode == os.fstat(file.fileno()).st_ino
    assert open_files() == before


def test_a_call_is_undone_when_the_client_goes_before_the_answer_is_printed(pair: Pair, plugins: Plugins) -> None:
    client, server = pair
    client.sendall(said())
    plugins.meanwhile = lambda alive: client.close()
    converse(server, plugins)
    assert plugins.reply.undone == ["undone"]


def test_the_namespace_is_still_open_while_a_call_is_undone(pair: Pair, plugins: Plugins, tmp_path: Path) -> None:
    client, server = pair
    seen: list[int] = []
    plugins.reply.on_undo = lambda: seen.append(os.fstat(plugins.netns[0] or -1).st_ino)
    with (tmp_path / "netns").open("w") as file:
        socket.send_fds(client, [said()], [file.fileno()])
        plugins.meanwhile = lambda alive: client.close()
        converse(server, plugins)
        assert seen == [os.fstat(file.fileno()).st_ino]


def test_a_client_that_does_not_say_that_it_printed_is_as_good_as_gone(pair: Pair, plugins: Plugins) -> None:
    client, server = pair
    client.sendall(said())
    converse(server, plugins)
    assert plugins.reply.undone == ["undone"]
    assert hear(client) == (3, b"out", b"err")


def test_an_answer_that_nobody_takes_is_undone(pair: Pair, plugins: Plugins) -> None:
    client, server = pair
    plugins.reply.stdout = b"x" * 10_000_000
    acknowledge(client, plugins)
    client.sendall(said())
    converse(server, plugins)
    assert plugins.reply.undone == ["undone"]


def test_a_plugin_may_ask_whether_somebody_still_waits(pair: Pair, plugins: Plugins) -> None:
    client, server = pair
    answers: list[str] = []

    def ask(alive: Callable[[], None]) -> None:
        for _ in range(2):
            try:
                alive()
                answers.append("waits")
            except cni_server.ClientGone:
                answers.append("gone")
            client.close()

    plugins.meanwhile = ask
    client.sendall(said())
    converse(server, plugins)
    assert answers == ["waits", "gone"]


@pytest.mark.parametrize(
    "bytes_said",
    [
        b"",
        b"CNI1",
        b"GET / HTTP/1.1\r\n\r\n",
        REQUEST.pack(b"CNI2", 1, 1) + b"xx",
        REQUEST.pack(b"CNI1", cni_server.MOST_BYTES + 1, 0),
        REQUEST.pack(b"CNI1", 0, 2**32 - 1),
        REQUEST.pack(b"CNI1", 100, 100) + b"short",
        said()[:-1],
    ],
)
def test_what_is_no_call_is_not_answered_and_leaves_no_descriptor(
    pair: Pair, plugins: Plugins, bytes_said: bytes, tmp_path: Path
) -> None:
    client, server = pair
    before = open_files()
    with (tmp_path / "netns").open("w") as file:
        socket.send_fds(client, [bytes_said or b"C"], [file.fileno()])
        client.shutdown(socket.SHUT_WR)
        with pytest.raises((OSError, ValueError)):
            converse(server, plugins)
    assert (plugins.heard, open_files()) == ([], before)


def test_a_client_that_stops_in_the_middle_is_given_up(pair: Pair, plugins: Plugins) -> None:
    client, server = pair
    client.sendall(said()[:20])
    began = time.monotonic()
    with pytest.raises(BlockingIOError):
        converse(server, plugins)
    assert (plugins.heard, time.monotonic() - began < 5) == ([], True)


def test_a_slow_client_is_heard_to_the_end(pair: Pair, plugins: Plugins) -> None:
    client, server = pair

    def speak() -> None:
        for byte in said():
            client.sendall(bytes([byte]))
            time.sleep(0.001)
        client.sendall(b"k")

    speaker = threading.Thread(target=speak)
    speaker.start()
    converse(server, plugins)
    speaker.join()
    assert (plugins.heard, plugins.reply.undone) == ([("bridge", ENVIRON, b"{conf}")], [])
