"""More than a pipe holds, said on standard error before a start is over: by a runtime that fails, or by a container already."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from runtime.containers.monitor import StartFailed
from runtime_monitor_world import MonitorWorld, everything, logged, monitor_world, said

MUCH = "head -c 300000 /dev/zero | tr '\\0' x >&2"


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[MonitorWorld]:
    async with monitor_world(tmp_path) as made:
        yield made


async def test_a_runtime_that_has_much_to_say_fails_all_the_same(world: MonitorWorld) -> None:
    """What a container's image names reaches the runtime's errors, however long it is: else that would be a start without end."""
    monitor = await world.launch(
        world.directory("p"), ["/bin/sh", "-c", f"{MUCH}; echo the end >&2; exit 1"], name="p", log=world.log()
    )
    client = await everything(monitor)
    async with asyncio.timeout(5):
        with pytest.raises(StartFailed, match=r"xxx.*the end"):
            await monitor.start()
        assert await said(client) == {1: b"", 2: b""}
    assert (world.top / "p/log").read_text() == ""


async def test_what_a_container_says_before_its_start_is_over_is_not_lost(world: MonitorWorld) -> None:
    directory = world.directory("p")
    inside = f"{MUCH}; echo >&2; echo ready >{directory}/ready; sleep 0.3; echo later >&2; exit 4"
    begun = f"sh -c '{inside.replace(chr(39), chr(34))}' & echo $! >{directory}/pid; while [ ! -e {directory}/ready ]; do :; done"
    monitor = await world.launch(directory, ["/bin/sh", "-c", begun], name="p", log=world.log())
    client = await everything(monitor)
    async with asyncio.timeout(5):
        await monitor.start()
        assert await said(client) == {1: b"", 2: b"x" * 300_000 + b"\nlater\n"}
        assert (await monitor.exited()).code == 4
    assert logged(directory / "log") == "x" * 300_000 + "\nlater\n"
