"""An engine's images, with all that pulls and pushes need, in a temporary directory; must not know what is tested with them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from runtime.events import Events
from runtime.images.content import Content
from runtime.images.image import Image
from runtime.images.layers import Layers
from runtime.images.progress import Progress
from runtime.images.pull import pull
from runtime.images.push import push
from runtime.images.reference import parse_reference
from runtime.images.registry import Credentials, Registries, RegistrySettings
from runtime.images.store import Images
from runtime.layout import Layout


@dataclass(frozen=True)
class Store:
    """The images of one engine."""

    layout: Layout
    images: Images
    registries: Registries

    async def pull(self, name: str, platform: str = "", credentials: Credentials | None = None) -> list[Progress]:
        """Pull, and return all that was told."""
        async with aclosing(pull(self.images, self.registries, parse_reference(name), platform, credentials)) as told:
            return [progress async for progress in told]

    async def push(self, name: str, credentials: Credentials | None = None) -> list[Progress]:
        """Push, and return all that was told."""
        async with aclosing(push(self.images, self.registries, parse_reference(name), credentials)) as told:
            return [progress async for progress in told]

    def tag(self, image: str, name: str) -> Image:
        """Give an image another name."""
        found = self.images.find(image)
        self.images.tag(found.id, parse_reference(name))
        return found

    def read(self, image: str, path: str) -> bytes:
        """A file of an image's, as its topmost layer that has it says."""
        for directory in self.images.layers.lower_dirs(self.images.find(image).layer):
            if (directory / path).exists():
                return (directory / path).read_bytes()
        raise FileNotFoundError(path)

    def left_behind(self) -> list[str]:
        """What is in the directories for things half made."""
        partial = self.layout.content / "partial"
        return [str(path) for directory in (self.layout.temporary, partial) for path in directory.iterdir()]


@asynccontextmanager
async def image_store(directory: Path, settings: RegistrySettings | None = None) -> AsyncIterator[Store]:
    """A store within the context; the directory's second store has what its first had."""
    layout = Layout(directory / "root", directory / "run")
    content = Content(layout)
    layers = Layers(layout, content)
    registries = Registries(settings or RegistrySettings())
    try:
        yield Store(layout, Images(layout, content, layers, Events()), registries)
    finally:
        await registries.aclose()


def lines(told: list[Progress]) -> list[str]:
    """What was told, as text, without bars."""
    return [
        f"{progress.id}: {progress.status}" if progress.id else progress.status
        for progress in told
        if progress.status and not progress.total
    ]
