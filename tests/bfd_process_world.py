"""A host whose BFD runs in a process of its own, and a daemon that comes and goes: a thread with a loop in the namespace."""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from bfd_world import A_WHILE_S, V4, BfdWorld, Looped, address, eventually, settings
from bgp.bfd.client import BfdSpeaker
from bgp.bfd.packet import State
from bgp.bfd.service import BfdSettings
from bgp.bfd.settings import MODULE
from bgp.process import running_here
from flanneld.lease import IPAddress
from flanneld.linux.netns import run_in, setns

T = TypeVar("T")


class BfdDaemon(Looped):
    """Stands for host a's daemon."""

    def __init__(self, namespace: str, directory: Path) -> None:
        self.namespace, self.directory = namespace, directory
        self.told: list[tuple[IPAddress, bool, str]] = []
        """All that the speaker said since it runs."""
        self.speaker: BfdSpeaker

    @contextmanager
    def running(self, orphan_s: float = 120.0) -> Iterator[None]:
        """Its life, and not the process's."""
        ready = threading.Event()
        with ThreadPoolExecutor(1) as thread:
            end = thread.submit(self._main, ready, orphan_s)
            end.add_done_callback(lambda _: ready.set())
            ready.wait(A_WHILE_S)
            try:
                yield
            finally:
                if not end.done():
                    self.loop.call_soon_threadsafe(self._task.cancel)
                end.result(A_WHILE_S)

    def _main(self, ready: threading.Event, orphan_s: float) -> None:
        setns(self.namespace)
        with suppress(asyncio.CancelledError):
            asyncio.run(self._serve(ready, orphan_s))

    async def _serve(self, ready: threading.Event, orphan_s: float) -> None:
        self.loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None
        self._task, self.told = task, []
        self.speaker = BfdSpeaker(self.directory, orphan_s=orphan_s)
        self.speaker.changed = lambda *told: self.told.append(told)
        ready.set()
        await self.speaker.run()

    def follow(self, wanted: Mapping[IPAddress, BfdSettings]) -> None:
        self.call(lambda: self.speaker.follow(wanted))

    def state(self, peer: IPAddress) -> State | None:
        return self.call(lambda: self.speaker.states.get(peer))

    @property
    def processes(self) -> list[int]:
        """Of BFD on its host; one that has ended may wait for whoever became its parent."""
        return run_in(self.namespace, lambda: [found.pid for found in running_here(MODULE)])

    @property
    def process(self) -> int:
        (pid,) = self.processes
        return pid

    def end_all(self) -> None:
        for pid in self.processes:
            os.kill(pid, signal.SIGKILL)


class BfdProcessWorld(BfdWorld):
    """Host a has a process, host b the service itself."""

    @contextmanager
    def meeting(self) -> Iterator[None]:
        """All of it; host a's daemon does not run yet."""
        with tempfile.TemporaryDirectory(prefix="bfd") as directory, self.up("b"):
            self.daemon = BfdDaemon(self.path("a"), Path(directory, "bgp"))
            try:
                yield
            finally:
                self.daemon.end_all()

    def meet(self, network: str = V4, multiplier: int = 10) -> None:
        """Both watch each other, and are up."""
        ours, theirs = address(network, "a"), address(network, "b")
        self.daemon.follow({theirs: settings(network, "a", multiplier=multiplier)})
        self.b.follow({ours: settings(network, "b", multiplier=multiplier)})
        eventually(lambda: self.daemon.state(theirs) is self.b.state(ours) is State.UP)
