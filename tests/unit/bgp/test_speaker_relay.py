"""The relay between exabgp, which is played here by its two pipes, and the daemon, which is a client of its socket."""

from __future__ import annotations

import json
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bgp.speaker import relay

WAIT_S = 10.0
FOLDER = str(Path(relay.__file__).parent)


class Pipes:
    """exabgp's part, and where the daemon connects."""

    def __init__(self, process: subprocess.Popen[bytes], address: str) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self.process, self.address = process, address
        self.events, self.commands = process.stdin, process.stdout

    def say(self, text: bytes) -> None:
        self.events.write(text)
        self.events.flush()

    def client(self) -> socket.socket:
        """Greeted already."""
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(WAIT_S)
        client.connect(self.address)
        assert json.loads(line(client)) == {"speaker": "hello", "pid": os.getpid(), "settings": "name"}
        return client


def line(client: socket.socket) -> bytes:
    """The next one; as far as it goes, if the connection ends."""
    text = b""
    while not text.endswith(b"\n") and (more := client.recv(1)):
        text += more
    return text


@contextmanager
def running(orphan_s: float = 60.0, **limits: float) -> Iterator[Pipes]:
    changes = "".join(f"relay.{name} = {value}; " for name, value in limits.items())
    program = f"import sys; sys.path.insert(0, {FOLDER!r}); import relay; {changes}relay.main()"
    address = f"\0relay-{secrets.token_hex(4)}"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        arguments = map(str, (listener.fileno(), orphan_s, os.getuid(), "name"))
        command = [sys.executable, "-I", "-S", "-c", program, *arguments]
        pipe = subprocess.PIPE
        process = subprocess.Popen(command, stdin=pipe, stdout=pipe, pass_fds=(listener.fileno(),))
    with process:
        yield Pipes(process, address)
        process.kill()


@pytest.fixture
def pipes() -> Iterator[Pipes]:
    with running() as made:
        yield made


def test_events_go_to_the_client_and_commands_to_exabgp(pipes: Pipes) -> None:
    with pipes.client() as client:
        pipes.say(b'{"a": 1}\n{"b": 2}\n')
        assert [line(client), line(client)] == [b'{"a": 1}\n', b'{"b": 2}\n']
        client.sendall(b"one\ntwo\n")
        assert [pipes.commands.readline(), pipes.commands.readline()] == [b"one\n", b"two\n"]


def test_exabgp_is_read_while_there_is_nobody_and_its_words_are_gone(pipes: Pipes) -> None:
    pipes.say(b"x" * 100 + b"\n" + b"y\n" * 200_000)
    pipes.say(b"half")
    time.sleep(0.2)
    with pipes.client() as client:
        pipes.say(b" a line\nnews\n")
        assert line(client) in (b"half a line\n", b"news\n")


def test_a_new_client_takes_the_place_of_the_old_and_begins_with_a_whole_line(pipes: Pipes) -> None:
    with pipes.client() as old:
        pipes.say(b"first\nsecond, ")
        assert line(old) == b"first\n"
        old.sendall(b"whole\nhal")
        assert pipes.commands.readline() == b"whole\n"
        with pipes.client() as new:
            assert line(old) == b""
            pipes.say(b"in full\n")
            assert line(new) == b"second, in full\n"
            new.sendall(b"new\n")
            assert pipes.commands.readline() == b"new\n"


def test_a_client_that_does_not_read_is_dropped_and_exabgp_never_waits() -> None:
    with running(MOST_UNREAD=1 << 20) as pipes, pipes.client() as lazy:
        started = time.monotonic()
        for _ in range(100):
            pipes.say(b"y" * 99_999 + b"\n")
        assert time.monotonic() - started < WAIT_S
        with pipes.client() as diligent:
            pipes.say(b"news\n")
            assert line(diligent) in (b"news\n", b"y" * 99_999 + b"\n")
        while lazy.recv(1 << 20):
            pass


def test_a_client_waits_for_exabgp_to_take_its_commands_and_hears_meanwhile() -> None:
    with running(MOST_COMMANDS=1 << 20) as pipes, pipes.client() as client:
        client.settimeout(0.5)
        with pytest.raises(TimeoutError):
            client.sendall((b"c" * 9_999 + b"\n") * 1000)
        pipes.say(b"news\n")
        client.settimeout(WAIT_S)
        assert line(client) == b"news\n"
        for _ in range(50):
            assert pipes.commands.readline() == b"c" * 9_999 + b"\n"


def test_a_client_that_says_a_line_without_end_is_dropped() -> None:
    with running(MOST_COMMANDS=1 << 16) as pipes, pipes.client() as client, pytest.raises(OSError, match=r"Broken pipe|reset"):
        client.sendall(b"c" * (10 << 20))


def test_it_ends_with_exabgp_and_says_the_last_words(pipes: Pipes) -> None:
    with pipes.client() as client:
        pipes.say(b"y\n" * 100_000 + b"the end\n")
        pipes.events.close()
        text = b""
        while more := client.recv(1 << 20):
            text += more
        assert text == b"y\n" * 100_000 + b"the end\n"
        assert pipes.process.wait(WAIT_S) == 0


def test_without_a_client_for_long_exabgp_is_told_to_leave() -> None:
    with running(orphan_s=0.5) as pipes:
        with pipes.client():
            time.sleep(1)
        left = time.monotonic()
        assert pipes.commands.readline() == b"leave\n"
        assert time.monotonic() - left > 0.4


def test_a_client_that_comes_in_time_keeps_exabgp() -> None:
    with running(orphan_s=0.6) as pipes:
        for _ in range(4):
            time.sleep(0.3)
            with pipes.client() as client:
                client.sendall(b"here\n")
            assert pipes.commands.readline() == b"here\n"


def test_an_exabgp_that_does_not_leave_is_killed(tmp_path: Path) -> None:
    """Of another process, which has the relay as its child: it would be ours."""
    program = f"""
import socket, subprocess, sys, time
sys.path.insert(0, {FOLDER!r})
listener = socket.socket(socket.AF_UNIX)
listener.bind({str(tmp_path / "s")!r})
listener.listen()
text = "import sys; sys.path.insert(0, {FOLDER!r}); import relay; relay.LEAVE_S = 0.2; relay.main()"
pipe = subprocess.PIPE
child = [sys.executable, "-c", text, str(listener.fileno()), "0.2", "0", "name"]
subprocess.Popen(child, stdin=pipe, stdout=pipe, pass_fds=[listener.fileno()])
time.sleep(60)
"""
    assert subprocess.run([sys.executable, "-c", program], timeout=WAIT_S, check=False).returncode == -9


@pytest.mark.root
def test_other_users_are_turned_away(pipes: Pipes) -> None:
    connect = f"s = socket.socket(socket.AF_UNIX); s.connect({pipes.address!r}); print(s.recv(99))"
    with pipes.client() as client:
        command = [sys.executable, "-c", f"import os, socket; os.setuid(65534); {connect}"]
        assert subprocess.run(command, capture_output=True, timeout=WAIT_S, check=True).stdout == b"b''\n"
        pipes.say(b"news\n")
        assert line(client) == b"news\n"
