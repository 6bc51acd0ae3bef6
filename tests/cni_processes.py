"""The CNI server as a process on a host of cni_world, to be killed and started again as often as need be.

Run as a program, this file is the nursery: it has imported all that a server needs, and forks one off in milliseconds, where a
start of flanneld takes half a second. It says nothing of plugins; what it serves is what flanneld serves.
"""

from __future__ import annotations

import asyncio
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TextIO

from cni.plugin import PLUGINS
from cni_ours import DIRECTORY, SOCKET, STATE, SUBNET_FILE, OurPlugins
from cni_world import CniHost, cni_host
from flanneld import log
from flanneld.__main__ import TURN_S
from flanneld.cni_server import THREADS, CniServer
from lab.place import Place

START_S = 10.0
OTHER_THREADS = 12
"""Journal, undertaker, loop, and what asyncio keeps for blocking calls."""
ALONE = OurPlugins("ours-alone", DIRECTORY)


@dataclass
class Nursery:
    """The process that forks servers; they end with it."""

    process: subprocess.Popen[str]

    def fork(self, place: Place, journal: Path) -> int:
        """The process id of a new server there, which has begun to start."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        here = f"/proc/{os.getpid()}/fd/"
        namespaces = [str(path).replace("/proc/self/fd/", here) for path in place.namespaces]
        self.process.stdin.write("\t".join([str(journal), *namespaces]) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())


@contextmanager
def nursery() -> Iterator[Nursery]:
    program = [sys.executable, __file__]
    with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        try:
            yield Nursery(process)
        finally:
            assert process.stdin is not None
            process.stdin.close()


@dataclass
class ServedHost:
    """A host, and the server on it while there is one."""

    host: CniHost
    nursery: Nursery
    log: Path
    pid: int = 0
    _pidfd: int = field(default=-1, repr=False)

    def start(self) -> None:
        """Return when it serves."""
        self.pid = self.nursery.fork(self.host.place, self.log)
        self._pidfd = os.pidfd_open(self.pid)
        give_up_at = time.monotonic() + START_S
        while not self.host.place.call(_is_served):
            assert time.monotonic() < give_up_at, f"not served within {START_S:g} s: {self.log.read_text()}"
            assert not self._ended(0), self.log.read_text()
            time.sleep(0.003)

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Return when it is no more; nothing happens when there is none."""
        if self.pid:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)
            assert self._ended(START_S), f"alive after signal {number}: {self.log.read_text()}"
            os.close(self._pidfd)
            self.pid = 0

    def _ended(self, within_s: float) -> bool:
        return bool(select.select([self._pidfd], [], [], within_s)[0])

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def threads(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/task"))

    def leaks(self, descriptors: int) -> bool:
        """More than it had, and what its threads open when they are first used; there are no threads but those of its start."""
        return self.threads() > THREADS + OTHER_THREADS or self.descriptors() > descriptors + 2 * THREADS

    def faults(self) -> str:
        """What the server says that it should never have to say."""
        said = self.log.read_text() if self.log.exists() else ""
        return said if "Traceback" in said or "level=error" in said else ""


def _is_served() -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(str(SOCKET)) == 0


@contextmanager
def served_host(nursery: Nursery, directory: Path) -> Iterator[ServedHost]:
    """A new host on which no server runs yet; none does any more afterwards."""
    with cni_host(ALONE) as host:
        served = ServedHost(host, nursery, directory / "server.log")
        served.log.unlink(missing_ok=True)
        try:
            yield served
        finally:
            served.kill()


def _nursery(orders: TextIO) -> None:
    """Fork a server for each order, until there are no more; then end those that live."""
    for module in PLUGINS.values():
        import_module(module)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the dead
    servers = []
    for order in orders:
        journal, *namespaces = order.rstrip("\n").split("\t")
        if (pid := os.fork()) == 0:
            _live(Path(journal), tuple(map(Path, namespaces)))
        servers.append(os.pidfd_open(pid))
        print(pid, flush=True)
    for server in servers:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(server, signal.SIGKILL)


def _live(said: Path, namespaces: tuple[Path, ...]) -> None:
    """Be the server, to the end of the process."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for descriptor, flags in ((0, os.O_RDONLY), (1, os.O_WRONLY)):
        os.dup2(os.open(os.devnull, flags), descriptor)
    os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644), 2)
    status = 1
    try:
        log.set_up("text")
        sys.setswitchinterval(TURN_S)
        Place("server", namespaces, {}).enter()
        os.chdir("/run")
        asyncio.run(_serve())
        status = 0
    except BaseException:
        log.Log(__name__).exception("server failed")
    finally:
        os._exit(status)


async def _serve() -> None:
    serving = asyncio.create_task(CniServer(SOCKET, STATE, SUBNET_FILE).run())
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, serving.cancel)
    with suppress(asyncio.CancelledError):
        await serving


if __name__ == "__main__":
    _nursery(sys.stdin)
