"""Containers on a host of their own, with real images, networks, volumes and runc, of which nothing may be left at the end.

    with runtime_world(tmp_path) as world:
        web = world.new("sh", "-c", "echo hi", name="web")
        world.start(web)

`world.kill_engine(story)` runs a coroutine of a test in an engine that is a process of its own and is killed when that returns.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from runtime.config import CreateRequest, HostConfig
from runtime.containers.container import Container
from runtime.containers.execs import ExecConfig
from runtime.containers.origin import Origin
from runtime.containers.record import State
from runtime.containers.store import Containers
from runtime.engine import Engine
from runtime.images.image import OCI_LAYER, Descriptor
from runtime.images.reference import parse_reference
from runtime.images.store import Images
from runtime.layout import Layout
from runtime.linux.cgroups import hierarchies
from runtime.linux.mountinfo import mounts_of, parse_mountinfo
from runtime.settings import Settings
from runtime_images import busybox_files, image_config, layer_tar
from runtime_nets import EngineHost, engine_host

T = TypeVar("T")
PATIENCE_S = 20.0
IMAGE = "busybox"


class WorldEngine(Engine):
    """An engine, and what tests do with one again and again."""

    def __init__(self, layout: Layout) -> None:
        for directory in (layout.root, layout.run, layout.temporary):
            directory.mkdir(parents=True, exist_ok=True)
        super().__init__(Settings(layout=layout, cni_conf_dir=layout.root / "net.d"))
        self.layout = layout

    async def new(
        self, *command: str, name: str = "", network: str = "none", origin: Origin | None = None, **given: Any
    ) -> Container:
        """A container of busybox; `given`: fields of its config, or of its HostConfig."""
        host = {key: given.pop(key) for key in tuple(given) if key in HostConfig.__struct_fields__}
        wanted = CreateRequest(image=IMAGE, cmd=command, host_config=HostConfig(network_mode=network, **host), **given)
        made = await self.containers.create(name, wanted, origin)
        return self.containers.find(made.id)

    async def started(self, *command: str, **given: Any) -> Container:
        """The same, running."""
        container = await self.new(*command, **given)
        await self.containers.start(container)
        return container

    def told(self, container: Container) -> list[str]:
        """Events of a container, by their actions."""
        return [event.action for event in self.events.past(0, time.time_ns()) if event.actor == container.id]


Story = Callable[[WorldEngine], Coroutine[Any, Any, None]]


@dataclass
class RuntimeWorld:
    """An engine on a host."""

    host: EngineHost
    engine: WorldEngine
    ids: set[str] = field(default_factory=set)
    """Of all containers that ever were."""
    before: list[str] = field(default_factory=list)
    """Mounts of others', below where ours are, that the host's mount namespace began with: a lab of another test's."""

    @property
    def containers(self) -> Containers:
        return self.engine.containers

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self.host.run(coroutine)

    def new(self, *command: str, **given: Any) -> Container:
        return self._known(self.run(self.engine.new(*command, **given)))

    def start(self, container: Container) -> None:
        self.run(self.containers.start(container))

    def started(self, *command: str, **given: Any) -> Container:
        return self._known(self.run(self.engine.started(*command, **given)))

    def output(self, container: Container) -> bytes:
        """Start it, and what it says until its end; with a terminal bare, else of both streams together."""
        return self.run(self._output(container))

    async def _output(self, container: Container) -> bytes:
        stream = await self.containers.attach(container, False, True, True)
        try:
            await self.containers.start(container)
            said = await stream.reader.read()
        finally:
            stream.writer.close()
        return said if container.record.config.tty else unframed(said)

    def exec(self, container: Container, *command: str, timeout_s: float = 10, **given: Any) -> tuple[int, bytes]:
        """Exit code and output of a command in a running container."""
        config = ExecConfig(cmd=command, **given)
        result = self.run(self.containers.execs.run(container, config, timeout_s, 1 << 16))
        return result.code, result.both

    def until(self, condition: Callable[[], bool], what: str) -> None:
        """Wait for something to become so, which it has to."""
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < deadline, f"never so: {what}"
            time.sleep(0.01)

    def until_state(self, container: Container, state: State) -> None:
        """Wait for that state, and for all that belongs to it to be done."""
        self.until(lambda: container.state is state, f"{container.name} {state}, it is {container.record.life}")
        self.run(_settled(container))

    def restart_engine(self) -> None:
        """Another engine takes over from this one."""
        self.run(self.engine.close())
        self._open()

    def kill_engine(self, story: Story) -> None:
        """Let an engine of its own do something, kill it, and take over; the story is a function of a module."""
        self.run(self.engine.close())
        layout, program = self.engine.layout, [sys.executable, __file__]
        where = [str(layout.root), str(layout.run), story.__module__, story.__qualname__]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        child = self.host.call(lambda: subprocess.Popen([*program, *where], env=environment, stdout=subprocess.PIPE, text=True))
        with child:
            assert child.stdout is not None
            told = child.stdout.readline()
            child.send_signal(signal.SIGKILL)
        assert told == "done\n"
        self._open()

    def _open(self) -> None:
        self.engine = self.host.call(WorldEngine, self.engine.layout)
        self.run(self.engine.open())
        for container in self.containers.all():
            self._known(container)

    def _known(self, container: Container) -> Container:
        self.ids.add(container.id)
        return container

    def remove_all(self) -> None:
        for container in self.containers.all():
            self.run(self.containers.remove(container, True, True))

    def left(self) -> list[str]:
        """What there is of containers on the host, though there are none any more."""
        files = [path for path in self.host.call(_leftovers, self.engine.layout) if path not in self.before]
        groups = [str(where / "tartan" / each) for where in hierarchies(mounts_of()).values() for each in self.ids]
        return [*files, *(path for path in groups if Path(path).exists()), *_processes_of(self.ids)]


async def _settled(container: Container) -> None:
    async with container.lock:
        pass


def _leftovers(layout: Layout) -> list[str]:
    """Mounts and files of containers, as the host sees them."""
    mounts = parse_mountinfo(Path("/proc/thread-self/mountinfo").read_text())
    places = (layout.containers, layout.bundles, layout.netns, layout.temporary)
    files = [str(path) for place in places if place.exists() for path in place.iterdir()]
    return files + [mount.target for mount in mounts if mount.target.startswith((f"{layout.root}/", f"{layout.run}/"))]


def _processes_of(ids: set[str]) -> list[str]:
    """Command lines that name one of these containers: monitors and runtimes."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            line = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        found += [f"{process.name} {line}"] if any(each in line for each in ids) else []
    return found


def unframed(data: bytes) -> bytes:
    """The payloads of Docker's frames."""
    said = b""
    while data:
        length = int.from_bytes(data[4:8], "big")
        said, data = said + data[8 : 8 + length], data[8 + length :]
    return said


@contextmanager
def runtime_world(directory: Path) -> Iterator[RuntimeWorld]:
    """An engine with busybox, until the end of the context; then every container is removed, and nothing may be left of them."""
    layout = Layout(directory / "root", Path("/run/tartan"))
    with engine_host() as host:
        before = host.call(_leftovers, layout)
        world = RuntimeWorld(host, host.call(WorldEngine, layout), before=before)
        host.call(add_busybox, world.engine.images)
        host.run(world.engine.open())
        try:
            yield world
        finally:
            try:
                world.remove_all()
            finally:
                host.run(world.engine.close())
        world.until(lambda: not world.left(), f"nothing left, but {world.left()}")


def add_busybox(images: Images) -> None:
    """`busybox`, with Debian's PATH."""
    tar = layer_tar(busybox_files())
    with images.lease():
        blob = Descriptor(media_type=OCI_LAYER, digest=images.content.put(tar), size=len(tar))
        images.layers.unpack(images.content.path(blob.digest), OCI_LAYER, blob.digest, "")
        images.add(image_config([tar], config={"Cmd": ["sh"]}), None, [blob], parse_reference(IMAGE))


async def _live(root: str, run: str, module: str, story: str) -> None:
    engine = WorldEngine(Layout(Path(root), Path(run)))
    await engine.open()
    tell: Story = getattr(importlib.import_module(module), story)
    await tell(engine)
    print("done", flush=True)
    await asyncio.sleep(PATIENCE_S)


if __name__ == "__main__":
    asyncio.run(_live(*sys.argv[1:]))
