"""The whole engine on a host of its own, behind its Docker socket, for the clients that users have.

with docker_world(directory) as world:
    assert world.docker("run", "--rm", "busybox", "echo", "hi").stdout == "hi\n"
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import pty
import select
import struct
import subprocess
import termios
import time
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from docker_client import DOCKER, require_docker
from runtime.docker_api.server import serve
from runtime.engine import Engine, opened
from runtime.layout import Layout
from runtime.settings import Settings
from runtime_nets import EngineHost, engine_host
from runtime_world import add_busybox

PATIENCE_S = 30.0


@dataclass(frozen=True)
class Said:
    """What a client's command came to."""

    code: int
    stdout: str
    stderr: str


@dataclass
class DockerWorld:
    """An engine and its socket; on the host alone containers' networks are seen."""

    host: EngineHost
    engine: Engine
    socket: Path

    @property
    def environment(self) -> dict[str, str]:
        """For clients: this engine's socket, and nothing of the user's own configuration."""
        directory = self.socket.parent
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(directory),
            "DOCKER_HOST": f"unix://{self.socket}",
            "DOCKER_CONFIG": str(directory / "client"),
        }

    def docker(self, *arguments: str, data: bytes = b"", **environment: str) -> Said:
        """Run the docker command to its end."""
        done = subprocess.run(
            [DOCKER, *arguments],
            input=data,
            capture_output=True,
            timeout=PATIENCE_S,
            env=self.environment | environment,
            check=False,
        )
        return Said(done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace"))

    def ok(self, *arguments: str, data: bytes = b"", **environment: str) -> str:
        """What it prints when it succeeds, which it has to."""
        said = self.docker(*arguments, data=data, **environment)
        assert said.code == 0, f"docker {' '.join(arguments)}: {said.stderr}"
        return said.stdout.rstrip("\n")

    def refused(self, *arguments: str, data: bytes = b"") -> str:
        """What it says on failing, which it has to."""
        said = self.docker(*arguments, data=data)
        assert said.code != 0, f"docker {' '.join(arguments)} succeeded: {said.stdout}"
        return said.stderr.rstrip("\n")

    @contextmanager
    def beside(self, *arguments: str) -> Iterator[subprocess.Popen[str]]:
        """The docker command while the context lasts."""
        command = [DOCKER, *arguments]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True, env=self.environment) as running:
            try:
                yield running
            finally:
                running.kill()

    def at_terminal(self, *arguments: str, typed: Sequence[tuple[str, str]]) -> tuple[int, str]:
        """Exit code and screen of the docker command at a terminal of 33 by 99; `typed`: on seeing the one, type the other."""
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 99, 0, 0))
        running = subprocess.Popen(
            [DOCKER, *arguments], stdin=theirs, stdout=theirs, stderr=theirs, env=self.environment, start_new_session=True
        )
        os.close(theirs)
        try:
            return _typing(running, ours, list(typed))
        finally:
            running.kill()
            running.wait()
            os.close(ours)

    def until(self, wanted: str, *arguments: str) -> None:
        """Wait until the docker command prints this, which it has to at last."""
        deadline = time.monotonic() + PATIENCE_S
        while (said := self.docker(*arguments)).stdout.strip() != wanted:
            assert time.monotonic() < deadline, f"docker {' '.join(arguments)} never says {wanted!r}, but {said}"
            time.sleep(0.05)

    def clean(self) -> None:
        """Remove what a test has left; busybox stays."""
        self.host.run(self._clean())

    async def _clean(self) -> None:
        engine = self.engine
        for container in engine.containers.all():
            await engine.containers.remove(container, True, True)
        for network in engine.networks.list({}):
            if not network.is_predefined:
                await engine.networks.remove(network)
        for volume in engine.volumes.list({}, engine.containers.of_volume):
            await engine.volumes.remove(volume.name, True, engine.containers.of_volume)
        while others := [image.id for image in engine.images.list() if "busybox:latest" not in image.tags]:
            last = next(image for image in others if not engine.images.children(image))
            await engine.images.remove(last, True, True, engine.containers.of_image)


def _typing(running: subprocess.Popen[bytes], terminal: int, typed: list[tuple[str, str]]) -> tuple[int, str]:
    screen, seen = "", 0
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        if select.select([terminal], [], [], 0.05)[0]:
            try:
                data = os.read(terminal, 4096)
            except OSError:  # the other end is closed
                break
            screen += data.decode(errors="replace")
        if typed and typed[0][0] in screen[seen:]:
            _, keys = typed.pop(0)
            seen = len(screen)
            os.write(terminal, keys.encode())
    assert not typed, f"{typed[0][0]!r} never came: {screen}"
    return running.wait(PATIENCE_S), screen


@contextmanager
def docker_world(directory: Path, **given: Any) -> Iterator[DockerWorld]:
    """An engine with busybox, until the end of the context; `given`: fields of its settings."""
    require_docker()
    settings = Settings(
        layout=Layout(directory / "root", Path("/run/tartan")),
        socket=directory / "s",
        cni_conf_dir=directory / "net.d",
        cri_socket=None,
        **given,
    )
    stack = AsyncExitStack()

    async def open_all() -> Engine:
        engine = await stack.enter_async_context(opened(settings))
        await asyncio.to_thread(add_busybox, engine.images)
        await stack.enter_async_context(serve(settings.socket, engine, settings.group))
        return engine

    with engine_host() as host:
        try:
            world = DockerWorld(host, host.run(open_all()), settings.socket)
            yield world
            world.clean()
        finally:
            host.run(stack.aclose())
