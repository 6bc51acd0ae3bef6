"""Hosts with a BGP speaker each, on one segment, in network namespaces of their own.

a 10.99.0.1 fd99::1, b 10.99.0.2 fd99::2, .. -- a bridge in a namespace of its own
"""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from bgp.events import Announced, Event, Up
from bgp.path import Asn
from bgp.path import Path as BgpPath
from bgp.session import Session
from bgp.speaker.child import LAUNCHER
from bgp.speaker.commands import Announcement
from bgp.speaker.launcher.settings import Settings
from bgp.speaker.news import News, Synced
from bgp.speaker.speaker import Speaker
from flanneld.lease import IPAddress
from flanneld.linux.netns import run_in, setns
from flanneld_world import eventually

P = ParamSpec("P")
T = TypeVar("T")

ASN = Asn(64512)
PREFIX = ip_network("10.244.1.0/24")
PREFIX6 = ip_network("fd00:1::/64")
WITHIN_S = 20.0


class Node:
    """A host, and its speaker while one runs: in a thread with its own event loop, as in a daemon."""

    def __init__(self, name: str, number: int, namespace: str, directory: Path) -> None:
        self.name, self.namespace, self.directory = name, namespace, directory
        self.ip, self.ip6 = ip_address(f"10.99.0.{number}"), ip_address(f"fd99::{number}")
        self.news: list[News] = []
        self.speaker: Speaker

    @contextmanager
    def running(self, port: int = 179, **settings: Any) -> Iterator[Node]:
        """A daemon's life; exabgp outlives it."""
        listen = settings.pop("listen", (self.ip, self.ip6))
        with ThreadPoolExecutor(1) as thread:
            started = threading.Event()
            end = thread.submit(self._main, lambda: Speaker(self.directory, listen, port, **settings), started)
            end.add_done_callback(lambda _: started.set())
            started.wait(WITHIN_S)
            try:
                yield self
            finally:
                self._end(end)

    def _end(self, end: Future[None]) -> None:
        if not end.done():
            self._loop.call_soon_threadsafe(self._task.cancel)
        end.result(WITHIN_S)

    def _main(self, make: Callable[[], Speaker], started: threading.Event) -> None:
        setns(self.namespace)
        with suppress(asyncio.CancelledError):
            asyncio.run(self._serve(make, started))

    async def _serve(self, make: Callable[[], Speaker], started: threading.Event) -> None:
        self._loop = asyncio.get_running_loop()
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self.news = []
        async with make() as self.speaker:
            started.set()
            async for news in self.speaker.events():
                self.news.append(news)
            await asyncio.Event().wait()

    def call(self, coroutine: Coroutine[None, None, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(WITHIN_S)

    def hears(self, look: Callable[[News], bool], what: str, since: int = 0, within_s: float = WITHIN_S) -> News:
        """The first news of that kind since so many."""
        try:
            return eventually(lambda: [news for news in self.news[since:] if look(news)], what, within_s)[0]
        except AssertionError as error:
            log = self.settings.log.read_text() if self.settings.log.exists() else ""
            raise AssertionError(f"{error}: {self.name} heard {self.news[since:]}, its exabgp said {log}") from None

    def synced(self, since: int = 0) -> Synced:
        news = self.hears(lambda news: isinstance(news, Synced), "synced", since)
        assert isinstance(news, Synced)
        return news

    def up(self, peer: IPAddress, since: int = 0) -> None:
        self.hears(lambda news: news == Up(peer), f"up with {peer}", since)

    def path(self, prefix: IPv4Network | IPv6Network, since: int = 0) -> BgpPath:
        """How it can be reached, as was announced first since so many news."""

        def paths(news: News) -> list[BgpPath]:
            return [path for path in news.paths if path.prefix == prefix] if isinstance(news, Announced) else []

        return paths(self.hears(lambda news: bool(paths(news)), f"a path to {prefix}", since))[0]

    def events(self, kind: type[Event]) -> list[News]:
        return [news for news in self.news if isinstance(news, kind)]

    def says(self, peer: IPAddress, *prefixes: IPv4Network | IPv6Network) -> None:
        """Announce, by ourselves."""
        self.call(self.speaker.announce(peer, [Announcement(prefix) for prefix in prefixes]))

    @property
    def settings(self) -> Settings:
        return Settings(self.directory, (), 0, "", 0.0, "")

    @property
    def exabgp(self) -> int:
        """Its process id."""
        (pid,) = (pid for pid in self.processes if LAUNCHER.encode() in Path(f"/proc/{pid}/cmdline").read_bytes())
        return pid

    @property
    def processes(self) -> list[int]:
        """All in the namespace that are not ours."""
        pids = subprocess.run(["ip", "netns", "pids", Path(self.namespace).name], check=True, capture_output=True, text=True).stdout
        return [int(pid) for pid in pids.split() if int(pid) != os.getpid()]

    def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return run_in(self.namespace, function, *args, **kwargs)

    def ip_command(self, line: str) -> None:
        _ip(f"-n {Path(self.namespace).name} {line}")


def session(ours: Node, peer: Node, *, v6: bool = False, **changes: Any) -> Session:
    """Our end of a session with a peer in the same AS: of two the first opens it."""
    ends = (peer.ip6, ours.ip6) if v6 else (peer.ip, ours.ip)
    usual: dict[str, Any] = {"peer_as": ASN, "local_as": ASN, "passive": ours.name > peer.name}
    return Session(*ends, router_id=f"10.99.0.{ord(ours.name)}", **usual | changes)


def meet(one: Node, other: Node, **changes: Any) -> None:
    """Have a session, and wait until it is established."""
    for node in (one, other):
        node.synced()
    since = {node: len(node.news) for node in (one, other)}
    for ours, peer in ((other, one), (one, other)):
        ours.call(ours.speaker.add(session(ours, peer, **changes)))
    for ours, peer in ((other, one), (one, other)):
        ours.up(peer.ip6 if changes.get("v6") else peer.ip, since[ours])


@contextmanager
def nodes(*names: str) -> Iterator[list[Node]]:
    """Hosts without a speaker; what runs on them is ended with them."""
    tag = f"bgp{secrets.token_hex(3)}"
    with ExitStack() as stack:
        _netns(stack, f"{tag}-sw")
        _ip(f"-n {tag}-sw link add br0 type bridge")
        _ip(f"-n {tag}-sw link set br0 up")
        made = []
        for number, name in enumerate(names, 1):
            directory = Path(stack.enter_context(_directory()))
            _netns(stack, f"{tag}-{name}")
            node = Node(name, number, f"/run/netns/{tag}-{name}", directory)
            _cable(node, number, f"{tag}-sw")
            made.append(node)
        yield made


@contextmanager
def speakers(*names: str, **settings: Any) -> Iterator[list[Node]]:
    """Hosts with a speaker each, all synced."""
    with nodes(*names) as made, ExitStack() as stack:
        for node in made:
            stack.enter_context(node.running(**settings))
        for node in made:
            node.synced()
        yield made


@contextmanager
def _directory() -> Iterator[str]:
    """One that only its owner may enter, and whose name is short enough for a socket in it."""
    path = tempfile.mkdtemp(prefix="bgp")
    try:
        yield path
    finally:
        shutil.rmtree(path)


def _cable(node: Node, number: int, switch: str) -> None:
    name = Path(node.namespace).name
    _ip(f"-n {name} link set lo up")
    _ip(f"-n {name} link add eth0 type veth peer name p{number} netns {switch}")
    _ip(f"-n {switch} link set p{number} master br0 up")
    _ip(f"-n {name} addr add {node.ip}/24 dev eth0")
    _ip(f"-n {name} addr add {node.ip6}/64 dev eth0 nodad")
    _ip(f"-n {name} link set eth0 up")


def _netns(stack: ExitStack, name: str) -> None:
    _ip(f"netns add {name}")
    stack.callback(_ip, f"netns delete {name}")
    stack.callback(_end_all, name)


def _end_all(name: str) -> None:
    pids = subprocess.run(["ip", "netns", "pids", name], check=True, capture_output=True, text=True).stdout.split()
    for pid in {int(pid) for pid in pids} - {os.getpid()}:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _ip(line: str) -> None:
    subprocess.run(["ip", *line.split()], check=True, timeout=30)
