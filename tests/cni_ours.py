"""Our CNI plugins as sets for cni_world: alone, and with the daemon's half of them on every host; must not know what they do.

The daemon's half is a thread of this process in the host's namespaces: a hundredth of what starting flanneld would take.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from cni.install import InstallError, built_client, install
from cni_world import CniHost, PluginSet
from flanneld.cni_server import CniServer

DIRECTORY = Path("/run/cni-bin")
"""On the host's own tmpfs."""
SOCKET = Path("/run/flannel/cni.sock")
STATE = Path("/var/lib/cni/tartan/journal")
SUBNET_FILE = Path("/run/flannel/subnet.env")
START_S = 10.0


@dataclass(frozen=True)
class OurPlugins(PluginSet):
    """Executables that are installed anew on every host, where no daemon runs."""

    def absent(self) -> str:
        try:
            built_client()
        except InstallError as error:
            return str(error)
        return ""

    @contextmanager
    def prepare(self, host: CniHost) -> Iterator[None]:
        host.place.call(install, self.directory)
        yield


@dataclass(frozen=True)
class ServedPlugins(OurPlugins):
    """The same, and a daemon runs."""

    @contextmanager
    def prepare(self, host: CniHost) -> Iterator[None]:
        with super().prepare(host), self._served(host):
            yield

    @contextmanager
    def _served(self, host: CniHost) -> Iterator[None]:
        served: Future[tuple[asyncio.AbstractEventLoop, asyncio.Task[None]]] = Future()
        thread = threading.Thread(target=_live_on, args=(host, served))
        thread.start()
        try:
            loop, task = served.result(START_S)
            yield
            loop.call_soon_threadsafe(task.cancel)
        finally:
            thread.join()


def _live_on(host: CniHost, served: Future[tuple[asyncio.AbstractEventLoop, asyncio.Task[None]]]) -> None:
    """Runs in a thread of its own, whose threads are on the host with it."""
    try:
        host.place.enter()
        with suppress(asyncio.CancelledError):
            asyncio.run(_serve(served))
    except BaseException as error:
        if served.done():
            raise
        served.set_exception(error)


async def _serve(served: Future[tuple[asyncio.AbstractEventLoop, asyncio.Task[None]]]) -> None:
    task = asyncio.create_task(CniServer(SOCKET, STATE, SUBNET_FILE).run())
    while not task.done() and not await asyncio.to_thread(SOCKET.exists):  # noqa: ASYNC110  # a file raises no event
        await asyncio.sleep(0.002)
    served.set_result((asyncio.get_running_loop(), task))
    await task


OURS = ServedPlugins("ours", DIRECTORY)
OURS_ALONE = OurPlugins("ours-alone", DIRECTORY)
