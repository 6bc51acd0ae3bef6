"""Calls that make no sense are refused in the spec's words, at once, and leave nothing; so is nonsense on the daemon's socket."""

from __future__ import annotations

import json
import os
import random
import socket
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from cni_fuzz import FuzzedHost, fuzzed_host
from cni_ours import SOCKET
from cni_processes import Nursery, nursery
from cni_spoilt import CONFIGURATIONS, garbage, mangled, spelled, spoilt
from cni_talk import said
from flanneld.cni_server import MOST_BYTES, REQUEST

CALLS = int(os.environ.get("TARTAN_CNI_CALLS", "200"))
"""Of each kind."""
SEED = os.environ.get("TARTAN_CNI_SEED", "tartan")
COMMANDS = ("ADD", "ADD", "ADD", "DEL", "CHECK", "GC", "STATUS", "VERSION")
NAMES = (b"CNI_COMMAND", b"CNI_CONTAINERID", b"CNI_NETNS", b"CNI_IFNAME", b"CNI_ARGS", b"CNI_PATH", b"CNI_NETNS_OVERRIDE")
VALUES = (
    b"", b" ", b"x", b"\xff", b"eth1\xff", b"\xed\xa0\x80", b"a=b;;c", b"IP=10.9.0.9", b"=", b";", b"A" * 100_000, b"a\nb",
    b"../../x", b"/", b"/dev/null", b"/dev/zero", b"/proc/self/ns/net", b"/proc/self/ns/mnt", b"/run", b"lo", b"eth0", b"all",
    b"add", b"ADD\xc3",
    b"IgnoreUnknown=1;K8S_POD_NAME=p\xff", b".", b"-x", b"0" * 5000, "ä".encode(), b"%s%n", b"1",
)  # fmt: skip


@pytest.fixture(scope="module")
def servers() -> Iterator[Nursery]:
    with nursery() as forking:
        yield forking


@pytest.fixture
def host(servers: Nursery, tmp_path: Path) -> Iterator[FuzzedHost]:
    with fuzzed_host(servers, tmp_path) as fuzzed:
        descriptors = fuzzed.served.descriptors()
        yield fuzzed
        print(f"{len(fuzzed.walls_s)} calls, median {fuzzed.median_s() * 1000:.1f} ms, worst {max(fuzzed.walls_s) * 1000:.0f} ms")
        assert fuzzed.median_s() < 0.1
        assert not fuzzed.served.leaks(descriptors)


@pytest.fixture
def draw(request: pytest.FixtureRequest) -> random.Random:
    return random.Random(f"{SEED} {request.node.name}")


def test_whatever_the_environment_says(host: FuzzedHost, draw: random.Random) -> None:
    for _ in range(CALLS):
        plugin = draw.choice(list(CONFIGURATIONS))
        environ = host.environ(draw.choice(COMMANDS), plugin)
        for name in draw.sample(NAMES, draw.randrange(1, 4)):
            environ[name] = draw.choice(VALUES)
            if draw.random() < 0.3:
                del environ[name]
        if environ.get(b"CNI_COMMAND"):
            host.fuzz(plugin, environ, json.dumps(host.conf(plugin)).encode())


def test_whatever_comes_on_standard_input(host: FuzzedHost, draw: random.Random) -> None:
    for _ in range(CALLS):
        plugin = draw.choice(list(CONFIGURATIONS))
        text = mangled(draw, json.dumps(host.conf(plugin)).encode()) if draw.random() < 0.6 else garbage(draw)
        host.fuzz(plugin, host.environ(draw.choice(COMMANDS), plugin), text)


@pytest.mark.parametrize("plugin", CONFIGURATIONS)
def test_whatever_a_key_is_set_to(host: FuzzedHost, draw: random.Random, plugin: str) -> None:
    for _ in range(CALLS // 5):
        conf = spoilt(draw, host.conf(plugin))
        host.fuzz(plugin, host.environ(draw.choice(COMMANDS), plugin), spelled(conf))


def test_a_configuration_without_end_is_refused(host: FuzzedHost) -> None:
    heard = host.fuzz("bridge", host.environ("ADD", "bridge"), b" " * (MOST_BYTES + 2))
    assert json.loads(heard.stdout)["code"] == 6


def test_null_everywhere_is_absence_everywhere(host: FuzzedHost) -> None:
    for plugin in CONFIGURATIONS:
        conf = {key: value if key in ("cniVersion", "name", "type") else None for key, value in host.conf(plugin).items()}
        for command in dict.fromkeys(COMMANDS):
            host.fuzz(plugin, host.environ(command, plugin), json.dumps(conf).encode())


def test_without_a_command_it_says_what_it_is(host: FuzzedHost, draw: random.Random) -> None:
    for plugin in CONFIGURATIONS:
        for environ in ({}, {b"CNI_COMMAND": b""}, {b"CNI_IFNAME": b"\xff"}):
            heard = host.execute(plugin, environ, garbage(draw))
            assert (heard.exit_code, heard.stdout) == (0, b"")
            assert f"CNI {plugin} plugin".encode() in heard.stderr


class Talk:
    """Connections to the daemon's socket, made on the host."""

    def __init__(self, host: FuzzedHost) -> None:
        self.host = host
        self.before = host.served.descriptors()

    def say(self, message: bytes, descriptors: Sequence[int] = (), *, listen: bool = False) -> bytes:
        """Say it and hang up; if `listen`, only after the answer, or the daemon's own end."""
        with self.host.thread.submit(socket.socket, socket.AF_UNIX).result() as client:
            client.settimeout(5)
            self.host.thread.submit(client.connect, str(SOCKET)).result()
            with suppress(BrokenPipeError, ConnectionResetError):
                if descriptors:
                    socket.send_fds(client, [message], list(descriptors))
                else:
                    client.sendall(message)
                client.shutdown(socket.SHUT_WR)
                return client.recv(1 << 16) if listen else b""
        return b""

    def settled(self) -> bool:
        """Nothing of all that is left in the daemon, which still answers."""
        give_up_at = time.monotonic() + 5
        while self.host.served.leaks(self.before) and time.monotonic() < give_up_at:
            time.sleep(0.01)
        assert not self.host.served.leaks(self.before)
        heard = self.host.execute("bridge", {b"CNI_COMMAND": b"VERSION"}, b"{}")
        return heard.exit_code == 0 and not self.host.served.faults()


@pytest.fixture
def talk(host: FuzzedHost) -> Talk:
    return Talk(host)


def question(host: FuzzedHost, command: str = "ADD") -> bytes:
    environ = {name.decode(): value.decode() for name, value in host.environ(command, "bridge").items()}
    return said("bridge", environ, json.dumps(host.conf("bridge")).encode())


def test_a_client_that_hangs_up_at_any_byte_leaves_nothing(host: FuzzedHost, talk: Talk) -> None:
    whole, before = question(host), host.state()
    for count in (*range(200), len(whole) - 1):
        talk.say(whole[:count])
    assert talk.settled()
    assert host.state() == before


def test_heads_of_garbage_and_lengths_that_lie_are_no_conversation(host: FuzzedHost, talk: Talk, draw: random.Random) -> None:
    whole = question(host, "STATUS")
    _, environment, stdin = REQUEST.unpack_from(whole)
    for _ in range(100):
        talk.say(draw.randbytes(draw.randrange(400)), listen=True)
    for lengths in ((environment + 1, stdin), (environment, stdin + 1), (MOST_BYTES + 1, 0), (0, 2**32 - 1), (2**32 - 1,) * 2):
        assert talk.say(REQUEST.pack(b"CNI1", *lengths) + whole[REQUEST.size :], listen=True) == b""
    for lengths in ((0, 0), (0, stdin), (environment, 0), (environment - 1, stdin), (1, 1)):
        (exit_code,) = struct.unpack_from("=i", talk.say(REQUEST.pack(b"CNI1", *lengths) + whole[REQUEST.size :], listen=True))
        assert exit_code in (0, 1)
    assert talk.settled()


def test_descriptors_of_anything_but_the_pods_namespace_are_refused_and_closed(host: FuzzedHost, talk: Talk) -> None:
    openers: list[Callable[[], int]] = [
        lambda: os.open("/etc/passwd", os.O_RDONLY),
        lambda: os.open("/proc/self/ns/mnt", os.O_RDONLY),
        lambda: os.open("/", os.O_PATH),
        lambda: socket.socket().detach(),
        lambda: os.eventfd(0),
        lambda: os.memfd_create("x"),
    ]
    before = host.state()
    for opener in openers:
        for count in (1, 2, 3, 100):
            descriptors = [opener() for _ in range(count)]
            answer = talk.say(question(host), descriptors, listen=True)
            for descriptor in descriptors:
                os.close(descriptor)
            assert json.loads(answer[12:])["code"] == 4
    assert talk.settled()
    assert host.state() == before
