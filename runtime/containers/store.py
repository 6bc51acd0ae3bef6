"""All containers of an engine and everything that may be asked of them, a line each: the rest of the engine knows this class alone.

A verb once begun is finished, whether or not its caller waits: a client that hangs up leaves no container in between.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec

from runtime.config import CreateRequest, EndpointSettings, Resources, RestartPolicy
from runtime.containers.changing import Changer
from runtime.containers.container import Container
from runtime.containers.create import Creator
from runtime.containers.exec_output import ExecResult
from runtime.containers.execs import ExecConfig, Execs
from runtime.containers.health import Checkups
from runtime.containers.index import Index
from runtime.containers.jobs import Jobs
from runtime.containers.launching import Launcher
from runtime.containers.lifecycle import Lifecycle
from runtime.containers.monitor import NotRunning, Stream
from runtime.containers.origin import Created, Origin
from runtime.containers.parts import Parts
from runtime.containers.recovery import Recovery
from runtime.containers.removing import Remover
from runtime.containers.stopping import Stopper
from runtime.containers.transitions import Verb, check
from runtime.containers.waiting import Condition
from runtime.prune import Pruned, parse_prune

if TYPE_CHECKING:
    import asyncio

    from runtime.containers.waiting import WaitResult
    from runtime.images.remove import Use
    from runtime.networks.network import Network


class Containers:
    """One engine's; `load` comes before all else, `close` leaves everything running."""

    def __init__(self, parts: Parts) -> None:
        self._index = Index()
        self._jobs = Jobs()
        self.execs = Execs(parts, self._jobs)
        checkups = Checkups(self._probe, self._jobs, parts.events)
        self._launcher = Launcher(parts, self._index)
        self._lifecycle = Lifecycle(self._launcher, checkups, self._jobs, parts.events)
        self._creator = Creator(parts, self._index)
        self._stopper = Stopper(self._lifecycle, checkups, parts.runc)
        self._remover = Remover(parts, self._index, self._lifecycle, self._stopper)
        self._changer = Changer(parts, self._index, self._lifecycle)
        self._recovery = Recovery(parts, self._index, self._lifecycle, self._remover, self._jobs)
        self._lifecycle.gone = self._remover.gone

    async def load(self) -> None:
        """Take over what an engine before this one left, running or not; raises OSError."""
        await self._recovery.load()

    async def close(self) -> None:
        """Let go of everything; what runs goes on."""
        await self._jobs.close()
        for container in self._index.all():
            if container.monitor is not None:
                container.monitor.close()

    def find(self, reference: str) -> Container:
        """By id, name or the unique beginning of an id; raises NotFound, InvalidParameter."""
        return self._index.find(reference)

    def all(self) -> list[Container]:
        """Newest first."""
        return self._index.all()

    def of_image(self, image_id: str) -> list[Use]:
        """The containers that need that image, those being made included."""
        return self._index.of_image(image_id)

    def of_volume(self, name: str) -> list[str]:
        """Ids of the containers that need that volume, those being made included."""
        return self._index.of_volume(name)

    async def create(self, name: str, request: CreateRequest, origin: Origin | None = None, *, platform: str = "") -> Created:
        """A container that does not run yet, name "": any; raises NotFound, InvalidParameter, Conflict, OSError."""
        return await self._jobs.finish(self._creator.create(name, request, origin or Origin(platform=platform)))

    async def start(self, container: Container) -> None:
        """Run it; raises NotModified, Conflict, InvalidParameter (the program cannot be run), EngineError."""
        self.execs.forget(container)
        await self._jobs.finish(self._lifecycle.start(container))

    async def stop(self, container: Container, timeout_s: int | None = None, signal: str | None = None) -> None:
        """End it, after so many seconds by force (None: its own patience, -1: never); raises NotModified, InvalidParameter."""
        await self._jobs.finish(self._stopper.stop(container, timeout_s, signal))

    async def restart(self, container: Container, timeout_s: int | None = None, signal: str | None = None) -> None:
        """End it if it runs, and run it; raises what `start` does but NotModified."""
        await self._jobs.finish(self._stopper.restart(container, timeout_s, signal))

    async def kill(self, container: Container, signal: str = "SIGKILL") -> None:
        """Send its first process a signal; raises Conflict, InvalidParameter."""
        await self._jobs.finish(self._stopper.kill(container, signal))

    async def pause(self, container: Container) -> None:
        """Freeze it; raises Conflict, EngineError."""
        await self._jobs.finish(self._stopper.pause(container))

    async def unpause(self, container: Container) -> None:
        """Let it go on; raises Conflict, EngineError."""
        await self._jobs.finish(self._stopper.unpause(container))

    async def rename(self, container: Container, name: str) -> None:
        """Call it something else; raises InvalidParameter, Conflict."""
        await self._jobs.finish(self._changer.rename(container, name))

    async def update(self, container: Container, asked: Resources, policy: RestartPolicy | None = None) -> Sequence[str]:
        """Change its limits and its restart policy; returns warnings. Raises Conflict, InvalidParameter, EngineError."""
        return await self._jobs.finish(self._changer.update(container, asked, policy))

    async def connect(self, container: Container, network: Network, asked: EndpointSettings) -> None:
        """Bring it into a network; raises InvalidParameter, Conflict, Forbidden, EngineError."""
        await self._jobs.finish(self._changer.connect(container, network, asked))

    async def disconnect(self, container: Container, network: Network, force: bool = False) -> None:
        """Take it out of a network; raises NotFound, Forbidden, Conflict, EngineError."""
        await self._jobs.finish(self._changer.disconnect(container, network, force))

    async def remove(self, container: Container, force: bool = False, volumes: bool = False) -> None:
        """Remove it, with its anonymous volumes if asked; `force`: end it first. Raises Conflict, NotFound, EngineError."""
        await self._jobs.finish(self._remover.remove(container, force, volumes))

    async def prune(self, filters: Mapping[str, Sequence[str]]) -> Pruned:
        """Remove all that do not run and that the filters take (until, label, label!); raises InvalidParameter."""
        return await self._jobs.finish(self._remover.prune(parse_prune(filters)))

    def wait(self, container: Container, condition: Condition) -> asyncio.Future[WaitResult]:
        """Its end of that kind; registered now, before it is awaited."""
        return container.wait(condition)

    async def attach(self, container: Container, stdin: bool, stdout: bool, stderr: bool) -> Stream:
        """Its streams from now on; before its start from its first byte on. The caller closes the writer. Raises Conflict."""
        async with container.lock:
            check(Verb.ATTACH, container.record)
            monitor = await self._launcher.monitor(container)
            return await monitor.attach(stdin=stdin, stdout=stdout, stderr=stderr)

    async def resize(self, container: Container, height: int, width: int) -> None:
        """Tell its terminal how large the user's is; raises Conflict, EngineError."""
        check(Verb.RESIZE, container.record)
        if container.monitor is None:
            raise NotRunning(f"container {container.id} is not running")
        await container.monitor.resize(height, width)

    async def reopen_log(self, container: Container) -> None:
        """Go on in a new file of the log's name: somebody has moved the old one away. Raises Conflict, EngineError."""
        check(Verb.RESIZE, container.record)
        if container.monitor is None:
            raise NotRunning(f"container {container.id} is not running")
        await container.monitor.reopen_log()

    async def _probe(self, container: Container, command: tuple[str, ...], timeout_s: float, limit_bytes: int) -> ExecResult:
        config = msgspec.structs.replace(ExecConfig(), cmd=command)
        return await self.execs.run(container, config, timeout_s, limit_bytes)
