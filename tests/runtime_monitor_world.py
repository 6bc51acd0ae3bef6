"""Things to run under a monitor: containers of one static busybox, and bare processes that a shell leaves behind as runc does."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import struct
from asyncio.subprocess import DEVNULL
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runtime.containers.monitor import LogSettings, Monitor, MonitorSettings, Stream
from runtime.linux.oci import Runc

PROGRAMS = Path(__file__).parent.parent / ".venv" / "bin"
NAMESPACES = ("mount", "ipc", "uts", "pid")
LEAVE = 'exec 3<&0; { while kill -0 $$; do :; done 2>/dev/null; exec sh -c "$1" <&3 3<&-; } & echo $! >"$2/pid"'
"""What stands for `runc run --detach`: a process, and its id in a file. It begins when the shell has ended, which might reap it."""


@dataclass
class MonitorWorld:
    """Whatever it has started ends with it."""

    top: Path
    monitors: list[Monitor] = field(default_factory=list)
    containers: list[str] = field(default_factory=list)

    @property
    def runc(self) -> Runc:
        return Runc(PROGRAMS / "runc", self.top / "state")

    def directory(self, name: str) -> Path:
        (self.top / name).mkdir(exist_ok=True)
        return self.top / name

    async def process(self, script: str, name: str = "p", **settings: Any) -> Monitor:
        """A monitor for a bare process, not started."""
        directory = self.directory(name)
        return await self.launch(directory, ["/bin/sh", "-c", LEAVE, "-", script, str(directory)], name=name, **settings)

    async def container(self, *args: str, name: str = "c", namespaces: tuple[str, ...] = NAMESPACES, **settings: Any) -> Monitor:
        """A monitor for a container, not started."""
        directory, terminal = self.directory(name), settings.get("tty", False)
        self._write_bundle(directory, name, args, namespaces, terminal=terminal)
        container_id = self._container_id(name)
        self.containers.append(container_id)
        console = directory / "console.sock" if terminal else None
        command = self.runc.run_arguments(directory, container_id, directory / "pid", console)
        return await self.launch(directory, command, name=name, **settings)

    async def exec(self, container: str, *args: str, name: str = "e", **settings: Any) -> Monitor:
        """A monitor for a process in a container that runs, not started."""
        directory = self.directory(name)
        process = directory / "process.json"
        process.write_text(json.dumps(_process(args, terminal=False)))
        command = self.runc.exec_arguments(self._container_id(container), process, directory / "pid", None)
        return await self.launch(directory, command, name=name, **settings)

    async def launch(self, directory: Path, command: list[str], **settings: Any) -> Monitor:
        monitor = await Monitor.launch(directory, MonitorSettings(**settings), command)
        self.monitors.append(monitor)
        return monitor

    def log(self, name: str = "p", **settings: Any) -> LogSettings:
        return LogSettings(self.directory(name) / "log", **settings)

    async def close(self) -> None:
        for container_id in self.containers:
            await self.runc.delete(container_id)
        for monitor in self.monitors:
            with contextlib.suppress(Exception):
                await monitor.signal(9)
            monitor.close()

    def _container_id(self, name: str) -> str:
        return f"tartan-test-{os.getpid()}-{name}"

    def _write_bundle(
        self, directory: Path, name: str, args: tuple[str, ...], namespaces: tuple[str, ...], *, terminal: bool
    ) -> None:
        for part in ("bin", "proc", "dev"):
            (directory / "rootfs" / part).mkdir(parents=True)
        shutil.copy(PROGRAMS / "busybox", directory / "rootfs/bin")
        (directory / "rootfs/bin/sh").symlink_to("busybox")
        (directory / "rootfs/bin/unfit").write_text("not executable")
        mounts = [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs"},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["newinstance", "ptmxmode=0666"]},
        ]
        linux = {"namespaces": [{"type": kind} for kind in namespaces], "cgroupsPath": f"/{self._container_id(name)}"}
        root = {"path": "rootfs"}
        document = {
            "ociVersion": "1.0.2",
            "process": _process(args, terminal=terminal),
            "root": root,
            "mounts": mounts,
            "linux": linux,
        }
        (directory / "config.json").write_text(json.dumps(document))


def _process(args: tuple[str, ...], *, terminal: bool) -> dict[str, Any]:
    return {"terminal": terminal, "user": {"uid": 0, "gid": 0}, "args": args, "env": ["PATH=/bin"], "cwd": "/"}


@contextlib.asynccontextmanager
async def monitor_world(top: Path) -> AsyncIterator[MonitorWorld]:
    world = MonitorWorld(top)
    try:
        yield world
    finally:
        await world.close()


async def everything(monitor: Monitor) -> Stream:
    return await monitor.attach(stdin=True, stdout=True, stderr=True)


async def frame(stream: Stream) -> tuple[int, bytes] | None:
    """One frame of Docker's; None: the stream has ended."""
    head = await stream.reader.read(1)
    if not head:
        return None
    head += await stream.reader.readexactly(7)
    (length,) = struct.unpack(">I", head[4:])
    return head[0], await stream.reader.readexactly(length)


async def said(stream: Stream) -> dict[int, bytes]:
    """All that comes until the end, by stream; then the stream is closed."""
    found = {1: b"", 2: b""}
    while (next_frame := await frame(stream)) is not None:
        found[next_frame[0]] += next_frame[1]
    stream.writer.close()
    return found


def entries(path: Path) -> list[dict[str, str]]:
    """A json-file log."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def logged(*paths: Path) -> str:
    return "".join(entry["log"] for path in paths for entry in entries(path))


async def engine_that_dies(program: str, *arguments: str) -> None:
    """Run a Python program to where it kills itself."""
    python = PROGRAMS / "python"
    root = str(PROGRAMS.parent.parent)
    child = await asyncio.create_subprocess_exec(python, "-c", program, *arguments, cwd=root, stdin=DEVNULL)
    assert await child.wait() == -9


def parent_of(pid: int) -> int:
    return int(process_file(pid, "stat").rpartition(") ")[2].split()[1])


def process_file(pid: int, name: str) -> str:
    return Path(f"/proc/{pid}/{name}").read_text()


def status_of(pid: int, field: str) -> str:
    return process_file(pid, "status").split(f"\n{field}:")[1].split()[0]


def socket_of(directory: Path) -> str:
    """Short enough for a socket's path."""
    return os.path.relpath(directory / "attach.sock")


def open_files(pid: int) -> set[str]:
    return {entry.name for entry in Path(f"/proc/{pid}/fd").iterdir()}


def is_alive(pid: int) -> bool:
    """False for a zombie, too."""
    return Path(f"/proc/{pid}/exe").exists()


async def until(is_so: Callable[[], object]) -> None:
    """Wait until it is, for five seconds at most."""
    for _ in range(250):
        if is_so():
            return
        await asyncio.sleep(0.02)
    raise AssertionError(f"not in five seconds: {is_so}")
