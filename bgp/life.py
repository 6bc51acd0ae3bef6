"""How a method that speaks BGP runs and ends, whatever it makes of what it hears; must not know methods."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Coroutine
from pathlib import Path

from bgp import control
from bgp.questions import Questions
from bgp.router import Router
from bgp.speaker.speaker import Speaker


async def live(
    directory: Path,
    speaker: Speaker,
    router: Router,
    questions: Questions,
    *others: Callable[[], Coroutine[None, None, None]],
    retired: Callable[[], bool],
) -> None:
    """Run all of it until cancelled.

    exabgp and BFD, or those that run already, outlive it for a while; not if it is `retired`: then neighbours forget us.
    """
    async with speaker:
        try:
            async with control.serving(directory, questions.answer), asyncio.TaskGroup() as tasks:
                tasks.create_task(router.run())
                for other in others:
                    tasks.create_task(other())
        finally:
            if retired():
                await router.take_leave()
                await speaker.leave()
                await router.bfd.end()
                await asyncio.to_thread(shutil.rmtree, directory, ignore_errors=True)
