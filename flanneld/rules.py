"""The control loop of the firewall: after a flush, a reload or a timer tick, bring our rules back; must not know any firewall."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import aclosing, contextmanager

from flanneld import FlanneldError
from flanneld.log import Log, Once
from flanneld.masquerade import Firewall, RuleSet

log = Log(__name__)


class RuleLoop:
    """Keeps one rule set in one firewall, and what else is to be looked at as often."""

    def __init__(self, firewall: Firewall, rules: Sequence[RuleSet], upkeep: Callable[[], None], resync_s: float) -> None:
        self.firewall = firewall
        self.rules = rules
        self.restored = 0
        """How often the rules had to be put back."""
        self._upkeep = upkeep
        """Synchronous and repeatable; raises FlanneldError."""
        self._resync_s = resync_s
        """The firewall tells of most changes, but iptables-legacy of none."""
        self._touched = asyncio.Event()
        self._said = Once(log)

    async def run(self) -> None:
        """Apply after every change and tick, for ever; a failure is said once and tried again at the next tick."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._listen())
            tasks.create_task(self._apply_for_ever())

    async def _listen(self) -> None:
        async with aclosing(self.firewall.changes()) as changes:
            async for _ in changes:
                self._touched.set()

    async def _apply_for_ever(self) -> None:
        while True:
            try:
                async with asyncio.timeout(self._resync_s):
                    await self._touched.wait()
            except TimeoutError:
                pass
            self._touched.clear()
            await self._apply()

    async def _apply(self) -> None:
        with self._saying("rules not programmed"):
            if await _to_its_end(self.firewall.apply(self.rules)):
                self.restored += 1
                log.warning("rules restored")
        with self._saying("upkeep failed"):
            self._upkeep()

    @contextmanager
    def _saying(self, failure: str) -> Iterator[None]:
        """A failure is said once, and keeps nothing else from being done."""
        try:
            yield
        except FlanneldError as error:
            self._said.warning(failure, failure, why=error)
        else:
            self._said.over(failure)


async def _to_its_end(applying: Coroutine[None, None, bool]) -> bool:
    """Also when cancelled: a thread works on, and would put back what somebody clears after us."""
    task = asyncio.create_task(applying)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait((task,))
        raise
