"""A host of its own for an engine, or for a part of one, inside the test's process: how to run what touches networks.

    with engine_host() as host:
        engine = host.run(opened())         # coroutines run on the host's loop
        host.inside(path, function)         # in a container's namespace, which only the host sees

    there = EngineThread()
    with engine_thread(there, lab.host("h1").enter):        # the same on a lab's host, beside its flanneld
        engine = there.run(opened())

The loop runs in a thread that has entered a network and a mount namespace of its own, with empty /run and /var/lib. Threads and
child processes that are started from there (`asyncio.to_thread`, `create_subprocess_exec`) are on that host too, so that an engine
needs to know nothing of it. What names a path of the machine is the same there; what is mounted there is not seen from outside, and
goes with the host. `host.neighbour` is another host on its wire, 192.0.2.2; the engine's host is 192.0.2.1.
"""

from __future__ import annotations

import asyncio
import socket
import subprocess
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import msgspec

from flanneld.linux import netns
from flanneld.linux.netns import Clone, Mount, mount, setns, unshare
from runtime.config import ContainerConfig, EndpointSettings, HostConfig
from runtime.containers.record import Record
from runtime.events import Events
from runtime.layout import Layout
from runtime.networks.network import Joined, NetworkRequest
from runtime.networks.store import Networks
from runtime.settings import Settings
from scratch_netns import ScratchNetns, scratch_netns

P = ParamSpec("P")
T = TypeVar("T")

HOST_ADDRESS, NEIGHBOUR_ADDRESS = "192.0.2.1", "192.0.2.2"
PATIENCE_S = 30.0
HIDDEN = ("/run", "/var/lib")
"""Where engines, daemons and CNI plugins keep what belongs to one host."""


@dataclass
class EngineThread:
    """Where an engine lives: an event loop in a thread that has moved elsewhere; `engine_thread` makes it."""

    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.new_event_loop)

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run on the loop to its end."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(PATIENCE_S)

    def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call there, in a thread beside the loop."""
        return self.run(asyncio.to_thread(function, *args, **kwargs))

    def inside(self, path: str, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call in the namespace of a container."""
        return self.call(lambda: netns.run_in(path, lambda: function(*args, **kwargs)))

    def sh(self, command: str, path: str = "") -> str:
        """What a command says, there or in a container's namespace."""
        enter = ["nsenter", f"--net={path}"] if path else []
        return self.call(lambda: subprocess.run([*enter, *command.split()], check=True, capture_output=True, text=True).stdout)


@contextmanager
def engine_thread(there: EngineThread, enter: Callable[[], None]) -> Iterator[None]:
    """Runs its loop in a thread that has called `enter` first: `LabHost.enter`, say."""
    ready: Future[None] = Future()
    thread = threading.Thread(target=_live, args=(there.loop, enter, ready), name="engine")
    thread.start()
    try:
        ready.result(PATIENCE_S)
        yield
    finally:
        with suppress(RuntimeError):  # it has never run
            there.loop.call_soon_threadsafe(there.loop.stop)
        thread.join(PATIENCE_S)


def _live(loop: asyncio.AbstractEventLoop, enter: Callable[[], None], ready: Future[None]) -> None:
    try:
        enter()
        asyncio.set_event_loop(loop)
    except BaseException as error:
        loop.close()
        ready.set_exception(error)
        return
    loop.call_soon(ready.set_result, None)
    try:
        loop.run_forever()
        loop.run_until_complete(loop.shutdown_default_executor())
    finally:
        loop.close()
        asyncio.set_event_loop(None)


@dataclass
class EngineHost(EngineThread):
    """A host with a neighbour; `engine_host` makes it."""

    netns: ScratchNetns = field(kw_only=True)
    neighbour: ScratchNetns = field(kw_only=True)

    def links(self) -> set[str]:
        """Names of the host's interfaces."""
        return {link["ifname"] for link in self.netns.read("ip link show")}


@contextmanager
def engine_host() -> Iterator[EngineHost]:
    """A host until the end of the context; whoever opens an engine on it closes it first."""
    with scratch_netns() as own, scratch_netns() as neighbour:
        subprocess.run(
            ["ip", "-n", own.name, "link", "add", "lan", "type", "veth", "peer", "lan", "netns", neighbour.name], check=True
        )
        for scratch, address in ((own, HOST_ADDRESS), (neighbour, NEIGHBOUR_ADDRESS)):
            for line in ("link set lo up", f"addr add {address}/24 dev lan", "link set lan up"):
                scratch.ip(line)

        def enter() -> None:
            setns(own.path)
            unshare(Clone.NEWNS)
            mount("", "/", flags=Mount.PRIVATE | Mount.REC)
            for path in HIDDEN:
                mount("tmpfs", path, "tmpfs", options="mode=0755")

        host = EngineHost(netns=own, neighbour=neighbour)
        with engine_thread(host, enter):
            yield host


@dataclass
class NetworksWorld:
    """An engine's networks on a host, with containers that are namespaces alone."""

    host: EngineThread
    networks: Networks
    layout: Layout
    settings: Settings
    records: dict[str, Record] = field(default_factory=dict)
    joined: dict[str, Joined] = field(default_factory=dict)

    def start(self, name: str, mode: str = "bridge", *more: str, **given: Any) -> Joined:
        """Plumb a container; `more`: other networks. Named: `asked`, settings by network; `config`; fields of its HostConfig."""
        asked: dict[str, EndpointSettings] = given.pop("asked", {})
        config: ContainerConfig = given.pop("config", ContainerConfig())
        names = () if mode.startswith("container:") else (mode, *more)
        endpoints = {each: asked.get(each, EndpointSettings()) for each in names}
        host = HostConfig(network_mode=mode, **given)
        identity = name.encode().hex().ljust(64, "0")
        record = Record(id=identity, name=name, created="", image_id="", config=config, host=host, endpoints=endpoints)
        self.records[name] = record
        self.joined[name] = self.host.run(self.networks.prepare(record))
        return self.joined[name]

    @property
    def machine(self) -> EngineHost:
        """The host, which has a neighbour."""
        assert isinstance(self.host, EngineHost)
        return self.host

    def stop(self, name: str) -> None:
        self.host.run(self.networks.release(self.records[name]))

    def address(self, name: str, network: str = "bridge") -> str:
        """What the container got there."""
        return self.joined[name].endpoints[network].ip_address

    def path(self, name: str) -> str:
        return self.joined[name].netns

    def create(self, name: str, **more: Any) -> str:
        """A network's id."""
        return self.host.run(self.networks.create(NetworkRequest(name=name, **more))).id

    def connect(self, name: str, network: str, asked: EndpointSettings | None = None) -> Joined:
        found = self.networks.find(network)
        self.joined[name] = self.host.run(self.networks.connect(self.records[name], found, asked or EndpointSettings()))
        return self.joined[name]

    def disconnect(self, name: str, network: str) -> Joined:
        told = self.host.run(self.networks.disconnect(self.records[name], self.networks.find(network)))
        assert told is not None
        self.joined[name] = told
        return told

    def serve(self, name: str, port: int, text: str = "") -> socket.socket:
        """A TCP server in a container, or with name "" on the host, that says its name to whoever comes, until it is closed."""
        told = (text or name).encode()

        def listen() -> socket.socket:
            return socket.create_server(("0.0.0.0", port))  # noqa: S104  # in a namespace of the test's

        server = self.host.inside(self.path(name), listen) if name else self.host.call(listen)

        def answer() -> None:
            with suppress(OSError):
                while True:
                    client, _ = server.accept()
                    with client:
                        client.sendall(told)

        threading.Thread(target=answer, daemon=True).start()
        return server

    def ask(self, source: str, address: str, port: int) -> str:
        """What a TCP server says to a container, to the host (""), or to its neighbour ("neighbour"); raises OSError."""
        if source == "neighbour":
            return netns.run_in(self.machine.neighbour.path, ask, address, port)
        return self.host.inside(self.path(source), ask, address, port) if source else self.host.call(ask, address, port)

    def reaches(self, source: str, address: str, port: int) -> bool:
        """Whether a TCP server answers at all."""
        try:
            return bool(self.ask(source, address, port))
        except OSError:
            return False

    def restart(self, running: tuple[str, ...]) -> None:
        """Another engine takes over without a farewell; of the containers these still run."""
        self.host.run(self.networks.close())
        self.networks = self.host.run(opened(self.layout, self.settings, *(self.records[name] for name in running)))

    def rename(self, name: str, new: str) -> None:
        self.records[new] = msgspec.structs.replace(self.records.pop(name), name=new)
        self.joined[new] = self.joined.pop(name)
        self.host.loop.call_soon_threadsafe(self.networks.renamed, self.records[new].id, new)


def ask(address: str, port: int) -> str:
    """What a TCP server says at once; raises OSError."""
    with socket.create_connection((address, port), timeout=1) as client:
        client.settimeout(2)
        said = client.recv(100)
    return said.decode()


async def opened(layout: Layout, settings: Settings, *running: Record) -> Networks:
    """An engine's networks after its start; these containers still run."""
    networks = Networks(layout, Events(), settings)
    await networks.load()
    await networks.restore(running)
    return networks


@contextmanager
def networks_on(there: EngineThread, settings: Settings) -> Iterator[NetworksWorld]:
    """An engine's networks somewhere; at the end every container is stopped."""
    world = NetworksWorld(there, there.run(opened(settings.layout, settings)), settings.layout, settings)
    try:
        yield world
        for name in world.records:
            world.stop(name)
    finally:
        there.run(world.networks.close())
    left = there.call(lambda: list(settings.layout.netns.iterdir()) if settings.layout.netns.is_dir() else [])
    assert not left, "a namespace is left"


@contextmanager
def networks_world(directory: Path, **settings: Any) -> Iterator[NetworksWorld]:
    """The same on a host of their own; at the end nothing may be left of containers."""
    layout = Layout(directory / "root", Path("/run/tartan"))
    with engine_host() as host:
        with networks_on(host, Settings(layout=layout, cni_conf_dir=directory / "net.d", **settings)) as world:
            yield world
        assert not [link for link in host.links() if link.startswith("veth")], "a container's link is left"
