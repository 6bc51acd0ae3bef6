"""Installation: every plugin's name, by rename, and nothing when there is nothing to do; the C client itself."""

from __future__ import annotations

import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cni import install as module
from cni.install import CLIENT, FALLBACK, InstallError, compile_client, install
from cni.plugin import PLUGINS

pytestmark = pytest.mark.skipif(not shutil.which("cc"), reason="needs a C compiler (cc)")


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("client") / "arch" / CLIENT
    compile_client(made, ("cc",))
    return made


@pytest.fixture
def directory(client: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(module, "built_client", lambda: client)
    return tmp_path / "bin"


def state(directory: Path) -> dict[str, tuple[int, int, int]]:
    return {path.name: (path.lstat().st_ino, path.lstat().st_mtime_ns, path.lstat().st_mode) for path in directory.iterdir()}


def test_every_plugin_has_a_name_for_one_program(directory: Path, client: Path) -> None:
    installed = install(directory)
    assert {path.name for path in installed} == {CLIENT, FALLBACK, *PLUGINS} == set(os.listdir(directory))
    assert all((directory / name).read_bytes() == client.read_bytes() for name in PLUGINS)
    assert all(os.access(path, os.X_OK) for path in installed)


def test_again_it_changes_nothing(directory: Path) -> None:
    install(directory)
    before = state(directory)
    install(directory)
    assert state(directory) == before


def test_what_differs_is_replaced_by_rename_even_while_it_runs(directory: Path) -> None:
    directory.mkdir()
    for name in (CLIENT, "bridge"):
        shutil.copy("/bin/sleep", directory / name)
    with subprocess.Popen([directory / CLIENT, "60"]) as running:
        old = (directory / CLIENT).stat().st_ino
        install(directory)
        running.terminate()
    assert (directory / CLIENT).stat().st_ino != old
    assert os.readlink(directory / "bridge") == CLIENT


def test_foreign_plugins_stay_and_nothing_half_written_is_left(directory: Path) -> None:
    directory.mkdir()
    (directory / "calico").write_text("x")
    (directory / "vlan").mkdir()
    with pytest.raises(InstallError, match=rf"cannot install into {directory}: is a directory"):
        install(directory)
    assert (directory / "calico").read_text() == "x"
    assert [name for name in os.listdir(directory) if name.startswith(".")] == []


def test_a_place_that_cannot_be_is_named(directory: Path) -> None:
    directory.write_text("")
    with pytest.raises(InstallError, match=rf"cannot install into {directory}: file exists"):
        install(directory)


def test_without_a_compiler_that_can_the_reasons_are_told(tmp_path: Path) -> None:
    with pytest.raises(InstallError, match="there is no C compiler, expected musl-gcc, cc or gcc"):
        compile_client(tmp_path / CLIENT)
    with pytest.raises(InstallError, match=r"cannot be compiled: .*no-such-flag"):
        compile_client(tmp_path / CLIENT, ("cc", "-no-such-flag"))
    (tmp_path / "file").touch()
    with pytest.raises(InstallError, match=r"cannot compile into .*: (file exists|not a directory)"):
        compile_client(tmp_path / "file" / CLIENT, ("cc",))
    assert os.listdir(tmp_path) == ["file"]


def test_the_stand_in_is_a_program_of_this_installation(directory: Path) -> None:
    install(directory)
    ended = subprocess.run([directory / FALLBACK, "bridge"], env={}, capture_output=True, text=True, check=True)
    assert (directory / FALLBACK).read_text().startswith(f"#!{sys.executable} -I\n")
    assert ended.stderr.startswith("CNI bridge plugin of Tartan\n")


class Server:
    """Hears one client, and answers with what it is given."""

    def __init__(self, path: Path, answer: bytes) -> None:
        self.path = path
        self.heard: dict[str, Any] = {}
        self._answer = answer
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        client, _ = self._listener.accept()
        with client, client.makefile("rb") as stream:
            head, descriptors, _, _ = socket.recv_fds(client, 12, 4)
            magic, environ, stdin = struct.unpack("=4sII", head)
            self.heard = {"magic": magic, "said": stream.read(environ).split(b"\0"), "stdin": stream.read(stdin)}
            self.heard["netns"] = [os.readlink(f"/proc/self/fd/{descriptor}") for descriptor in descriptors]
            for descriptor in descriptors:
                os.close(descriptor)
            client.sendall(self._answer)
            if len(self._answer) >= 12:
                self.heard["ack"] = stream.read(1)

    def close(self) -> None:
        self._thread.join(10)
        self._listener.close()


@pytest.fixture
def call(client: Path, tmp_path: Path) -> Iterator[Any]:
    servers: list[Server] = []

    def run(answer: bytes | None, stdin: bytes = b"", **environ: str) -> tuple[subprocess.CompletedProcess[bytes], Server | None]:
        path = tmp_path / f"s{len(servers)}"
        if answer is not None:
            servers.append(Server(path, answer))
        program = tmp_path / "bridge"
        program.unlink(missing_ok=True)
        program.symlink_to(client)
        about = {"TARTAN_CNI_SOCKET": str(path), "OTHER": "x", **environ}
        ended = subprocess.run([program], input=stdin, env=about, capture_output=True, check=False, timeout=20)
        if answer is None:
            return ended, None
        servers[-1].close()
        return ended, servers[-1]

    yield run
    for server in servers:
        server.close()


def response(exit_code: int, stdout: bytes, stderr: bytes = b"") -> bytes:
    return struct.pack("=iII", exit_code, len(stdout), len(stderr)) + stdout + stderr


def test_the_client_hands_over_environment_input_and_namespace(call: Any) -> None:
    stdin = json.dumps({"x": "y" * 300_000}).encode()
    ended, server = call(response(3, b"out", b"err"), stdin, CNI_COMMAND="ADD", CNI_NETNS="/proc/self/ns/net", CNI_X="\nü")
    assert (ended.returncode, ended.stdout, ended.stderr) == (3, b"out", b"err")
    said = {b"CNI_COMMAND=ADD", b"CNI_NETNS=/proc/self/ns/net", "CNI_X=\nü".encode()}
    assert (server.heard["said"][0], set(server.heard["said"][1:-1])) == (b"bridge", said)
    assert (server.heard["magic"], server.heard["stdin"], server.heard["ack"]) == (b"CNI1", stdin, b"k")
    assert server.heard["netns"] == [os.readlink("/proc/self/ns/net")]


def test_the_client_goes_on_without_a_namespace_that_cannot_be_opened(call: Any) -> None:
    ended, server = call(response(0, b""), b"{}", CNI_COMMAND="DEL", CNI_NETNS="/no/such")
    assert (ended.returncode, server.heard["netns"]) == (0, [])


def test_without_a_command_the_client_does_not_wait_for_input(call: Any) -> None:
    ended, server = call(response(0, b"", b"about"), b"never read")
    assert (ended.stderr, server.heard["stdin"]) == (b"about", b"")


@pytest.mark.parametrize("answer", [None, b"", b"\0" * 5])
def test_status_says_by_itself_that_flanneld_is_away(call: Any, answer: bytes | None) -> None:
    ended, _ = call(answer, b"{}", CNI_COMMAND="STATUS")
    assert (ended.returncode, json.loads(ended.stdout)["code"]) == (1, 50)


@pytest.mark.parametrize("answer", [None, b""])
def test_another_call_becomes_the_stand_in_with_all_it_had(call: Any, client: Path, answer: bytes | None) -> None:
    stand_in = client.with_name(FALLBACK)
    stand_in.write_text('#!/bin/sh\necho "$1 $CNI_COMMAND $(cat)"\n')
    stand_in.chmod(0o755)
    ended, _ = call(answer, b"{conf}", CNI_COMMAND="ADD")
    stand_in.unlink()
    assert ended.stdout == b"bridge ADD {conf}\n"


def test_without_the_stand_in_it_is_to_be_tried_later(call: Any) -> None:
    ended, _ = call(None, b"{}", CNI_COMMAND="ADD")
    assert (ended.returncode, json.loads(ended.stdout)["code"]) == (1, 11)
