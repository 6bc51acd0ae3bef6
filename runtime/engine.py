"""The engine: puts its parts together, starts and ends them in order; must not know any client's protocol."""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import uuid
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from flanneld.linux.netns import unmount
from flanneld.log import Log
from runtime.build.builder import Builder, Tools
from runtime.containers.parts import Parts
from runtime.containers.store import Containers
from runtime.docker_api.server import serve as serve_docker
from runtime.errors import Unavailable
from runtime.events import Events
from runtime.images.content import Content
from runtime.images.layers import Layers
from runtime.images.registry.registries import Registries
from runtime.images.registry.settings import RegistrySettings
from runtime.images.store import Images
from runtime.linux.mountinfo import mounts_of
from runtime.linux.nesting import make_room
from runtime.linux.oci import Runc
from runtime.linux.trees import discard_tree
from runtime.networks.store import Networks
from runtime.settings import Settings
from runtime.volumes import Volumes

log = Log(__name__)

THREADS = 32
"""For what blocks: disks, mounts, network plumbing, hashing."""


class Engine:
    """What clients' servers are given. Its root directory is its own: `opened` sees to that."""

    def __init__(self, settings: Settings) -> None:
        """The parts, none of them at work yet; raises EngineError, OSError."""
        layout = settings.layout
        self.settings = settings
        self.events = Events()
        self.content = Content(layout)
        self.layers = Layers(layout, self.content)
        self.images = Images(layout, self.content, self.layers, self.events)
        self.registries = Registries(RegistrySettings(settings.registry_mirrors, settings.insecure_registries))
        self.networks = Networks(layout, self.events, settings)
        self.volumes = Volumes(layout, self.events)
        self.runc = Runc(Path(settings.runc_program), layout.run / "runc")
        parts = Parts(layout, self.images, self.layers, self.networks, self.volumes, self.events, self.runc, settings)
        self.containers = Containers(parts)
        self.execs = self.containers.execs
        self.builder = Builder(Tools(layout, self.images, self.layers, self.containers, self.registries, self.events))
        self._runc_version = ""
        self._id = _identity(layout.root / "engine-id")

    async def open(self) -> None:
        """Take over what an engine before this one left; raises EngineError (there is no runc), OSError."""
        self._runc_version = await self.runc.version()
        await asyncio.to_thread(make_room)
        await asyncio.to_thread(_sweep, self.settings.layout.temporary)
        await self.volumes.load()
        await self.networks.load()
        await self.containers.load()

    async def close(self) -> None:
        """Leave everything as it is; containers go on."""
        await self.containers.close()
        await self.networks.close()
        await self.registries.aclose()

    def info(self) -> dict[str, Any]:
        """What only the engine knows of /info, by the API's keys."""
        return {"ID": self._id, "RuncCommit": {"ID": self._runc_version, "Expected": self._runc_version}}


@asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[Engine]:
    """An engine at work within the context; at its end containers go on, and the next engine finds them.

    Raises Unavailable when another engine has the root directory, EngineError, OSError.
    """
    with _owned(settings.layout.root):
        engine = Engine(settings)
        try:
            await engine.open()
            yield engine
        finally:
            await engine.close()


async def serve(settings: Settings) -> None:
    """Serve every protocol until SIGTERM or SIGINT."""
    loop = asyncio.get_running_loop()
    # Python's own number is small, and a few long pulls or removals would keep containers from starting.
    loop.set_default_executor(ThreadPoolExecutor(THREADS, thread_name_prefix="engine"))
    leave = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, leave.set)
    async with opened(settings) as engine, serve_docker(settings.socket, engine, settings.group), _serving_cri(settings, engine):
        log.info("ready", socket=settings.socket, containers=len(engine.containers.all()), images=len(engine.images.list()))
        await leave.wait()
    log.info("stopped")


@asynccontextmanager
async def _serving_cri(settings: Settings, engine: Engine) -> AsyncIterator[None]:
    """Serve CRI within the context, if it is to be: what it needs of gRPC is not loaded else."""
    if settings.cri_socket is None:
        yield
        return
    from runtime.cri.server import serve as serve_cri

    async with serve_cri(settings.cri_socket, engine):
        yield


@contextmanager
def _owned(root: Path) -> Iterator[None]:
    """Hold the root directory; raises Unavailable when another engine does. The kernel lets go when we die, however we die."""
    root.mkdir(mode=0o711, parents=True, exist_ok=True)
    descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise Unavailable(f"another engine works in {root}") from None
    finally:
        os.close(descriptor)


def _sweep(temporary: Path) -> None:
    """Remove what an engine that was killed had half made, or half removed: a build's mounts, layers, downloads."""
    for mounted in reversed(mounts_of()):
        if Path(mounted.target).is_relative_to(temporary.resolve()):
            unmount(mounted.target)
    temporary.mkdir(mode=0o700, exist_ok=True)
    for path in temporary.iterdir():
        discard_tree(path)


def _identity(file: Path) -> str:
    """What `docker info` calls this engine, the same for the life of its root directory."""
    if not file.exists():
        file.write_text(str(uuid.uuid4()))
    return file.read_text()
