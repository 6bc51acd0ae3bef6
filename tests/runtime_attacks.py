"""What attackers of an engine have: its socket with raw requests, a program that runs as root in containers, images that are not
what they say; must not know the engine's insides.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from runtime_docker import DockerWorld
from runtime_images import Directory, Files, Link, busybox_files, image_tar

PATIENCE_S = 20.0
SOURCE = Path(__file__).parent / "attacks.c"


class _OverSocket(http.client.HTTPConnection):
    """HTTP over a Unix socket, whose targets may be anything."""

    def __init__(self, path: Path) -> None:
        super().__init__("engine", timeout=PATIENCE_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(PATIENCE_S)
        self.sock.connect(str(self._path))

    def _validate_path(self, url: str) -> None:
        """Any will do."""


@dataclass(frozen=True)
class Api:
    """An engine, as whoever may open its socket reaches it."""

    path: Path

    def ask(self, method: str, target: str, body: object = None, content_type: str = "application/json") -> tuple[int, bytes]:
        """Status and beginning of the body; a body that is not of bytes is sent as JSON."""
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        connection = _OverSocket(self.path)
        try:
            connection.request(method, target, data, {"Content-Type": content_type} if data is not None else {})
            answer = connection.getresponse()
            return answer.status, answer.read(1 << 20)
        finally:
            connection.close()

    def raw(self, data: bytes) -> bytes:
        """What is said to that, up to the end of the answer's head or of the connection."""
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(PATIENCE_S)
            client.connect(str(self.path))
            said = b""
            with suppress(BrokenPipeError, ConnectionResetError):  # it had heard enough
                client.sendall(data)
            with suppress(ConnectionResetError):
                while b"\r\n\r\n" not in said and (part := client.recv(1 << 16)):
                    said += part
            return said

    def is_well(self) -> bool:
        """Whether it still answers."""
        return self.ask("GET", "/_ping") == (200, b"OK")


def attack_program(directory: Path) -> bytes:
    """`attacks.c` as a program that needs nothing."""
    made = directory / "attacks"
    subprocess.run(["gcc", "-static", "-s", "-O1", "-Wall", "-Wextra", "-Werror", "-o", made, SOURCE], check=True)
    return made.read_bytes()


def with_libraries(program: Path) -> dict[str, bytes]:
    """What a program of the host's needs in an image to be run there: its loader and libraries. The program is not among them."""
    said = subprocess.run(["ldd", program], check=True, capture_output=True, text=True).stdout
    paths = [word for word in said.split() if word.startswith("/")]
    return {path.lstrip("/"): Path(path).read_bytes() for path in paths}


def load_image(world: DockerWorld, name: str, files: Files, **config: object) -> None:
    """An image of busybox and these files, which win; with this config."""
    below = {path: what for path, what in busybox_files().items() if not _is_below(path, files)}
    world.ok("load", data=image_tar([below, files], [f"{name}:latest"], config=config))


def _is_below(path: str, files: Mapping[str, bytes | Link | Directory]) -> bool:
    return any(path == other or path.startswith(f"{other}/") for other in files if not isinstance(files[other], Directory))


def snapshot(directory: Path) -> dict[str, tuple[object, ...]]:
    """All that can be seen of a directory."""
    found: dict[str, tuple[object, ...]] = {}
    for place, names, files in os.walk(directory):
        for name in (".", *names, *files):
            path = Path(place, name)
            seen = path.lstat()
            content = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
            found[str(path)] = (seen.st_mode, seen.st_ino, seen.st_uid, seen.st_nlink, seen.st_mtime_ns, content)
    return found


def until_empty(directory: Path) -> None:
    """Wait for a directory's files to be gone, which they have to be at last."""
    deadline = time.monotonic() + PATIENCE_S
    while left := os.listdir(directory):
        assert time.monotonic() < deadline, f"left in {directory}: {left}"
        time.sleep(0.01)
