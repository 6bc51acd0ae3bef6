"""A container's root file system, mounted as long as somebody needs it, whenever its holders are cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.containers.rootfs import Place, RootFs
from runtime.images.content import Content
from runtime.images.layers import Layers
from runtime.layout import Layout
from runtime_cli import scratch_directory
from runtime_nets import EngineHost, engine_host


@pytest.fixture
def host() -> Iterator[EngineHost]:
    with engine_host() as host:
        yield host


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
def test_a_holder_that_is_cancelled_at_any_moment_leaves_it_as_it_is_counted(host: EngineHost, turns: int) -> None:
    with scratch_directory() as directory:
        place = Place(Path(directory), Path(directory, "mounted"), "", volatile=True)
        layout = Layout(Path(directory, "root"), Path("/run/tartan"))
        root = RootFs(Layers(layout, Content(layout)), place)
        host.call(root.make, lambda mounted: (mounted / "below").touch())

        async def hold_until_cancelled() -> None:
            async with root.mounted():
                await asyncio.sleep(60)

        async def story() -> bool:
            holder = asyncio.create_task(hold_until_cancelled())
            for _ in range(turns):
                await asyncio.sleep(0)
            holder.cancel()
            await asyncio.sleep(0)
            holder.cancel()
            await asyncio.gather(holder, return_exceptions=True)
            async with root.mounted() as path:
                seen = (path / "below").exists()
            return seen and not (path / "below").exists()

        assert host.run(story())
