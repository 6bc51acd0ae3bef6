"""An engine as users have it, `tartan runtime serve` in a process of its own, and the real docker command that drives it.

with served_engine() as served:
    assert served.docker("run --rm busybox echo hi") == "hi"
    served.kill()                               # as the kernel's OOM killer would
    served.start()

Everything of it is on a host of its own (`runtime_nets.engine_host`): the engine may be killed and started again there, and what
it mounts and plumbs goes with the host. Must not know what is tested.
"""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import shlex
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from docker_client import DOCKER, require_docker
from runtime_images import busybox_files, image_tar
from runtime_nets import EngineHost, engine_host

PROGRAMS = Path(sys.executable).parent
PATIENCE_S = 40.0
BUSYBOX = {"Cmd": ["sh"], "Env": ["PATH=/bin"]}
_BLUNDERS = ("Traceback", "a request failed", "a task of the engine failed", "a build failed")
"""What an engine's log must not say: it means that nobody had thought of it."""


@dataclass(frozen=True)
class Said:
    """What a command came to."""

    code: int
    out: str
    err: str


@dataclass(frozen=True)
class Docker:
    """The docker command, set on one engine and on nothing of the user's own configuration."""

    socket: Path
    more: Mapping[str, str] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        """Of any client of this engine."""
        home = self.socket.parent
        own = {"HOME": str(home), "DOCKER_HOST": f"unix://{self.socket}", "DOCKER_CONFIG": str(home / "client")}
        return {"PATH": os.environ["PATH"], "DOCKER_BUILDKIT": "0", **own, **self.more}

    def said(self, line: str, *more: str, stdin: bytes = b"", program: Sequence[str] = (DOCKER,)) -> Said:
        """Run a command to its end: `line` in words as a shell splits them, `more` as they are."""
        words = [*program, *shlex.split(line), *more]
        done = subprocess.run(words, input=stdin, capture_output=True, timeout=PATIENCE_S, env=self.environment, check=False)
        return Said(done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace"))

    def __call__(self, line: str, *more: str, stdin: bytes = b"", program: Sequence[str] = (DOCKER,)) -> str:
        """What it prints, without the last newline; it has to succeed."""
        said = self.said(line, *more, stdin=stdin, program=program)
        assert said.code == 0, f"{line} {shlex.join(more)} ended with {said.code}: {said.err}{said.out}"
        return said.out.rstrip("\n")

    def refused(self, line: str, *more: str, code: int = 1, stdin: bytes = b"") -> str:
        """What it complains about, with that exit code."""
        said = self.said(line, *more, stdin=stdin)
        assert said.code == code, f"{line} {shlex.join(more)} ended with {said.code}: {said.err}{said.out}"
        return said.err.partition("\n\nRun 'docker")[0].rstrip("\n")

    def until(self, line: str, *more: str, says: str) -> None:
        """Wait until it prints something that matches."""
        deadline = time.monotonic() + PATIENCE_S
        while not re.search(says, (said := self.said(line, *more)).out):
            assert time.monotonic() < deadline, f"{line} {shlex.join(more)} never says {says!r}: {said}"
            time.sleep(0.05)

    @contextmanager
    def beside(self, line: str, *more: str) -> Iterator[subprocess.Popen[str]]:
        """A command that goes on while the context lasts."""
        words = [DOCKER, *shlex.split(line), *more]
        pipe = subprocess.PIPE
        with subprocess.Popen(words, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=self.environment) as running:
            try:
                yield running
            finally:
                running.kill()

    @contextmanager
    def terminal(self, line: str, *more: str, rows: int = 24, columns: int = 80) -> Iterator[Terminal]:
        """A command at a terminal of its own, ended with the context if it has not ended by then."""
        ours, theirs = pty.openpty()
        _set_size(theirs, rows, columns)
        words = ["setsid", "--ctty", DOCKER, *shlex.split(line), *more]
        running = subprocess.Popen(words, stdin=theirs, stdout=theirs, stderr=theirs, env=self.environment)
        os.close(theirs)
        try:
            yield Terminal(ours, running)
        finally:
            running.kill()
            running.wait()
            os.close(ours)


@dataclass
class Terminal:
    """What a user sees and types; `Docker.terminal` makes it."""

    descriptor: int
    running: subprocess.Popen[bytes]
    screen: str = ""
    _seen: int = 0

    def type(self, keys: str) -> None:
        os.write(self.descriptor, keys.encode())

    def sees(self, pattern: str) -> str:
        """Wait for it to appear, after what was waited for before; returns what matched."""
        deadline = time.monotonic() + PATIENCE_S
        while not (found := re.compile(pattern).search(self.screen, self._seen)):
            assert self._read(deadline), f"{pattern!r} does not come: {self.screen[self._seen :]!r}"
        self._seen = found.end()
        return found[0]

    def resize(self, rows: int, columns: int) -> None:
        """The kernel tells the command in the foreground."""
        _set_size(self.descriptor, rows, columns)

    def ends(self) -> int:
        """The command's exit code, once it has ended."""
        deadline = time.monotonic() + PATIENCE_S
        while self._read(deadline):
            pass
        return self.running.wait(PATIENCE_S)

    def _read(self, deadline: float) -> bool:
        """Whether more may come."""
        while time.monotonic() < deadline:
            if select.select([self.descriptor], [], [], 0.2)[0]:
                try:
                    data = os.read(self.descriptor, 1 << 16)
                except OSError:  # EIO: nobody has the other end any more
                    return False
                self.screen += data.decode(errors="replace")
                return bool(data)
            if self.running.poll() is not None and not select.select([self.descriptor], [], [], 0)[0]:
                return False
        return False


def _set_size(descriptor: int, rows: int, columns: int) -> None:
    fcntl.ioctl(descriptor, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


Spawn = Callable[[Sequence[str], Path], "subprocess.Popen[str]"]
"""Starts a command on a host, its output in a file."""


@dataclass
class Served:
    """An engine's process, its socket, and the docker command for it."""

    spawn: Spawn
    directory: Path
    options: tuple[str, ...] = ()
    process: subprocess.Popen[str] | None = None

    @property
    def docker(self) -> Docker:
        return Docker(self.directory / "docker.sock")

    @property
    def log(self) -> Path:
        return self.directory / "log"

    @property
    def command(self) -> list[str]:
        own = ("--root", str(self.directory / "root"), "--run", "/run/tartan", "--socket", str(self.docker.socket))
        return [str(PROGRAMS / "tartan"), "runtime", "serve", "--no-cri", *own, *self.options]

    def start(self) -> None:
        """Start it, and wait until it answers."""
        self.process = self.spawn(self.command, self.log)
        await_answer(self.docker, self.process, self.log)

    def stop(self) -> None:
        """As an administrator does."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Without a farewell."""
        self._end(signal.SIGKILL)

    def _end(self, number: int) -> None:
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait(PATIENCE_S)
            self.process = None

    def clear(self) -> None:
        """Remove all that a test has left, be it without an engine; busybox stays."""
        if self.process is None:
            self.start()
        remove_all(self.docker)

    def close(self) -> None:
        """Remove everything and stop; what went wrong unnoticed fails here."""
        try:
            self.clear()
        finally:
            self.stop()
        said = self.log.read_text()
        assert not any(blunder in said for blunder in _BLUNDERS), said


def await_answer(docker: Docker, process: subprocess.Popen[str], log: Path) -> None:
    """Wait until an engine answers."""
    deadline = time.monotonic() + PATIENCE_S
    while docker.said("version --format {{.Server.APIVersion}}").code:
        assert process.poll() is None and time.monotonic() < deadline, log.read_text()  # noqa: PT018 - one reason
        time.sleep(0.05)


def remove_all(docker: Docker) -> None:
    """Containers, networks, volumes, and images but busybox."""
    if ids := docker("ps -aq").split():
        docker("rm -fv", *ids)
    if ids := docker("network ls -qf type=custom -f driver=bridge").split():
        docker("network rm", *ids)
    if names := docker("volume ls -q").split():
        docker("volume rm", *names)
    remove_images(docker)


def remove_images(docker: Docker) -> None:
    """All but busybox; newest first: children before their parents."""
    busybox = docker("images -q --no-trunc busybox:latest")
    if others := [image for image in dict.fromkeys(docker("images -q --no-trunc").split()) if image != busybox]:
        docker("rmi -f", *others)


@contextmanager
def served_engine(*options: str) -> Iterator[Served]:
    """An engine with busybox on a host of its own, until the end of the context."""
    with engine_host() as host, served_on(host_spawn(host), *options) as served:
        yield served


def host_spawn(host: EngineHost) -> Spawn:
    """Starts commands on a host."""

    def spawn(command: Sequence[str], log: Path) -> subprocess.Popen[str]:
        def start() -> subprocess.Popen[str]:
            with log.open("a") as output:
                return subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, text=True, start_new_session=True
                )

        return host.call(start)

    return spawn


@contextmanager
def served_on(spawn: Spawn, *options: str) -> Iterator[Served]:
    """The same on a host that is there."""
    require_docker()
    with ExitStack() as stack:
        directory = Path(stack.enter_context(scratch_directory()))  # a socket's path has to be short
        served = Served(spawn, directory, options)
        stack.callback(served.close)
        served.start()
        served.docker("load", stdin=busybox_tar())
        yield served


@contextmanager
def scratch_directory() -> Iterator[str]:
    """One with a short name."""
    path = tempfile.mkdtemp(prefix="tartan-")
    try:
        yield path
    finally:
        with suppress(FileNotFoundError):
            shutil.rmtree(path)


def busybox_tar() -> bytes:
    """`busybox:latest`, as `docker load` takes it."""
    return image_tar([busybox_files()], ["busybox:latest"], config=BUSYBOX, created="2024-01-02T03:04:05Z")
