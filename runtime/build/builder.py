"""Builds: a context comes in, steps are carried out one build at a time or many, an image and its tags come out, and all that was
needed meanwhile is gone; must not know HTTP.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from flanneld.log import Log
from runtime.build.cache import BuildCache
from runtime.build.commit import commit
from runtime.build.context import read_text, receive
from runtime.build.copying import Copying
from runtime.build.dockerfile import Dockerfile, parse_dockerfile
from runtime.build.ignore import Ignored, parse_ignore
from runtime.build.options import BuildOptions, CommitOptions, Pruned
from runtime.build.running import CommandFailed, Runner
from runtime.build.steps import Means, Steps, short
from runtime.errors import EngineError, InvalidParameter, NotFound
from runtime.images.progress import Progress
from runtime.images.pull import pull
from runtime.images.reference import parse_reference
from runtime.linux.trees import discard_tree

if TYPE_CHECKING:
    from runtime.containers.container import Container
    from runtime.containers.store import Containers
    from runtime.events import Events
    from runtime.images.layers import Layers
    from runtime.images.registry.registries import Registries
    from runtime.images.store import Images
    from runtime.layout import Layout

log = Log(__name__)

IGNORE_FILE = ".dockerignore"
BEHIND = 1000
"""Lines of progress that a client may be behind before a command's output waits for it."""


@dataclass(frozen=True, slots=True)
class Tools:
    """The parts of the engine that builds are made with."""

    layout: Layout
    images: Images
    layers: Layers
    containers: Containers
    registries: Registries
    events: Events


class Lines:
    """What a build says, on its way to the client."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._queue: asyncio.Queue[Progress | None] = asyncio.Queue()
        self._held: list[Progress] | None = [] if quiet else None
        """What a quiet build says only if it fails."""
        self._room = asyncio.Event()
        self._room.set()

    def say(self, text: str) -> None:
        """A text for people."""
        self.tell(Progress(stream=text))

    def tell(self, line: Progress) -> None:
        """A line of any kind."""
        if self._held is not None and not line.error:
            self._held.append(line)
            return
        for held in self._held or ():
            self._put(held)
        self._put(line)

    def built(self, image: str) -> None:
        """It has succeeded: this is the image."""
        if self._held is not None:
            self._held = []
            self._put(Progress(stream=f"{image}\n"))
        self.tell(Progress(aux={"ID": image}))
        self.say(f"Successfully built {short(image)}\n")

    def end(self) -> None:
        """There are no more."""
        self._put(None)

    def _put(self, line: Progress | None) -> None:
        self._queue.put_nowait(line)
        if self._queue.qsize() >= BEHIND:
            self._room.clear()

    async def room(self) -> None:
        """Wait while the client is too far behind."""
        await self._room.wait()

    async def next(self) -> Progress | None:
        line = await self._queue.get()
        if self._queue.qsize() < BEHIND:
            self._room.set()
        return line


class Builder:
    """The engine's one."""

    def __init__(self, tools: Tools) -> None:
        self._tools = tools
        self.cache = BuildCache(tools.layout.root / "build-cache.json")

    async def build(self, context: AsyncIterator[bytes], options: BuildOptions) -> AsyncIterator[Progress]:
        """Build; what happens, line by line. Closing the iterator ends the build.

        Raises EngineError for a context or Dockerfile that makes no sense; what fails later is the last line.
        """
        directory = Path(await asyncio.to_thread(tempfile.mkdtemp, prefix="context-", dir=self._tools.layout.temporary))
        building = None
        try:
            await receive(context, directory)
            lines = Lines(quiet=options.quiet)
            dockerfile, ignored = await asyncio.to_thread(read_build, directory, options.dockerfile)
            steps = Steps(dockerfile, options, self._means(Copying(self._tools.layers, directory, ignored), options, lines))
            building = asyncio.create_task(self._carry_out(steps, options, lines))
            while (line := await lines.next()) is not None:
                yield line
        finally:
            if building is not None:
                building.cancel()
                await asyncio.wait([building])
            await asyncio.to_thread(discard_tree, directory)

    async def commit(self, container: Container, options: CommitOptions) -> str:
        """Make an image of a container; returns its id. Raises EngineError."""
        tools = self._tools
        image = await commit(container, options, tools.containers, tools.images, tools.layers)
        attributes = {
            "comment": options.comment,
            "imageID": image.id,
            "imageRef": options.reference.familiar if options.reference else "",
        }
        tools.events.tell("container", "commit", container.id, container.facts(**attributes))
        return image.id

    async def prune(self, filters: Mapping[str, Sequence[str]], *, everything: bool) -> Pruned:
        """Forget which steps made what; their images stay until they are pruned. Filters select nothing: no step has a name."""
        if filters and not everything:
            return Pruned()
        return Pruned(tuple(self.cache.clear()))

    def _means(self, copying: Copying, options: BuildOptions, lines: Lines) -> Means:
        tools = self._tools

        async def base(name: str) -> str:
            return await self._base(name, options, lines)

        return Means(tools.images, self.cache, Runner(tools.containers, tools.layers, lines), copying, base, lines.say)

    async def _carry_out(self, steps: Steps, options: BuildOptions, lines: Lines) -> None:
        """All steps and what is said at their end, whatever that is."""
        try:
            with self._tools.images.lease():
                stage = await steps.run()
                lines.built(stage.image)
                for tag in options.tags:
                    await asyncio.to_thread(self._tools.images.tag, stage.image, tag)
                    lines.say(f"Successfully tagged {tag.familiar}\n")
        except CommandFailed as error:
            lines.tell(Progress(error=str(error), code=error.code))
        except EngineError as error:
            lines.tell(Progress(error=str(error)))
        except Exception as error:
            log.exception("a build failed")
            lines.tell(Progress(error=f"{type(error).__name__}: {error}"))
        finally:
            lines.end()

    async def _base(self, name: str, options: BuildOptions, lines: Lines) -> str:
        """The id of an image that is here, or is pulled; raises EngineError."""
        images = self._tools.images
        if not options.pull:
            with suppress(NotFound):
                return images.find(name).id
        reference = parse_reference(name).with_default_tag()
        credentials = options.credentials.get(reference.host)
        async for line in pull(images, self._tools.registries, reference, options.platform, credentials):
            lines.tell(line)
        return images.find(name).id


def read_build(directory: Path, path: str) -> tuple[Dockerfile, Ignored]:
    """A context's Dockerfile, and what it leaves out; raises InvalidParameter."""
    text = read_text(directory, path)
    if text is None:
        raise InvalidParameter(f"Cannot locate specified Dockerfile: {path}")
    return parse_dockerfile(text), parse_ignore(read_text(directory, IGNORE_FILE) or "")
