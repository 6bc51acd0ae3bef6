"""A store of images that is fed archives, in this process or in one that is killed in the middle; must not know the tests."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path

from runtime.events import Events
from runtime.images.content import Content
from runtime.images.layers import Layers
from runtime.images.load import load
from runtime.images.store import Images
from runtime.layout import Layout
from runtime_images import Files, image_tar


def store(directory: Path) -> Images:
    """The directory's; a second one has what the first had."""
    layout = Layout(directory / "root", directory / "run")
    content = Content(layout)
    return Images(layout, content, Layers(layout, content), Events())


async def stream(data: bytes, piece: int = 10_000) -> AsyncIterator[bytes]:
    """As it comes from a client."""
    for at in range(0, len(data), piece):
        yield data[at : at + piece]


async def loaded(images: Images, data: bytes) -> list[str]:
    """What `docker load` prints."""
    return [step.stream.rstrip("\n") async for step in load(images, stream(data)) if step.stream]


async def _endlessly(images: Images) -> None:
    number = 0
    while True:
        number += 1
        files: Files = {f"file{count}": b"x" * 999 for count in range(number % 7 * 30)}
        await loaded(images, image_tar([{"base": b"b"}, files], [f"a:{number % 5}", "b:1"]))
        if number % 3 == 0:
            await images.remove("b:1", True, True, lambda _: [])
        print(number, flush=True)


if __name__ == "__main__":
    asyncio.run(_endlessly(store(Path(sys.argv[1]))))
