import asyncio

import pytest

from runtime.containers.jobs import Jobs


async def test_what_is_begun_is_finished_though_its_caller_hangs_up() -> None:
    jobs, done = Jobs(), []

    async def work() -> None:
        await asyncio.sleep(0.02)
        done.append(True)

    caller = asyncio.create_task(jobs.finish(work()))
    await asyncio.sleep(0)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    await jobs.close()
    assert done == [True]


async def test_a_caller_hears_what_goes_wrong() -> None:
    async def work() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await Jobs().finish(work())


async def test_what_goes_on_for_ever_ends_with_the_engine() -> None:
    jobs = Jobs()
    task = jobs.begin(asyncio.sleep(1000))
    await jobs.close()
    assert task.cancelled()
