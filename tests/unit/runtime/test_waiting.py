import asyncio

from runtime.containers.waiting import Condition, WaitResult, Waits


async def test_a_wait_counts_from_its_registration() -> None:
    waits = Waits()
    next_exit = waits.register(Condition.NEXT_EXIT)
    waits.ended(WaitResult(3))
    assert await next_exit == WaitResult(3)
    assert not waits.register(Condition.NEXT_EXIT).done()


async def test_a_condition_that_is_met_answers_at_once() -> None:
    assert await Waits().register(Condition.NOT_RUNNING, WaitResult(7)) == WaitResult(7)


async def test_an_end_does_not_wake_who_waits_for_the_removal() -> None:
    waits = Waits()
    removed, stopped = waits.register(Condition.REMOVED), waits.register(Condition.NOT_RUNNING)
    waits.ended(WaitResult(1))
    assert stopped.done()
    assert not removed.done()
    waits.removed(WaitResult(1))
    assert await removed == WaitResult(1)


async def test_a_removal_leaves_nobody_waiting() -> None:
    waits = Waits()
    waiting = [waits.register(condition) for condition in Condition]
    waits.removed(WaitResult(0))
    assert all(wait.done() for wait in waiting)


async def test_who_gave_up_waiting_is_forgotten() -> None:
    waits = Waits()
    wait = waits.register(Condition.NEXT_EXIT)
    wait.cancel()
    await asyncio.sleep(0)
    waits.ended(WaitResult(0))
