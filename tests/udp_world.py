"""Two hosts with the udp backend and a pod each, a router between them, all in network namespaces of their own.

pod1 10.5.1.2 -- 10.5.1.1 host1 192.0.2.1 -- router -- 198.51.100.1 host2 10.5.2.1 -- 10.5.2.2 pod2
"""

from __future__ import annotations

import asyncio
import json
import secrets
import socket
import subprocess
import threading
from collections.abc import Callable, Collection, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path
from typing import ParamSpec, TypeVar

from flanneld.backend import Refusal, Uplink
from flanneld.backends.udp.backend import UdpBackend, UdpNetwork
from flanneld.config import NetworkConfig, parse_network
from flanneld.lease import Lease, LeaseAttrs
from flanneld.linux.kernel import LinuxKernel
from flanneld.linux.links import link
from flanneld.linux.netlink import Netlink
from flanneld.linux.netns import run_in, setns
from peers_of import apply
from traffic import leave_no_checksum

P = ParamSpec("P")
T = TypeVar("T")


def network(**backend: object) -> NetworkConfig:
    """The pod network, with more in its `Backend`."""
    return parse_network(json.dumps({"Network": "10.5.0.0/16", "Backend": {"Type": "udp", **backend}}))


NETWORK = network()
UPLINKS = {1: "192.0.2.1", 2: "198.51.100.1"}
LEASES = {host: Lease((ip_network(f"10.5.{host}.0/24"),), LeaseAttrs((ip_address(uplink),))) for host, uplink in UPLINKS.items()}
ETH_P_ALL = 3


class Namespaces:
    """Namespaces by short names, unique on the machine."""

    def __init__(self) -> None:
        self._tag = f"udp{secrets.token_hex(3)}"

    def path(self, name: str) -> str:
        return f"/run/netns/{self._tag}-{name}"

    def run(self, name: str, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return run_in(self.path(name), function, *args, **kwargs)

    def ip(self, name: str, *commands: str) -> str:
        """Run `ip` commands inside, in one batch."""
        return _tool("ip", "-n", f"{self._tag}-{name}", "-batch", "-", text="\n".join(commands))

    def execute(self, name: str, *command: str) -> str:
        return _tool("ip", "netns", "exec", f"{self._tag}-{name}", *command)

    @contextmanager
    def made(self, *names: str) -> Iterator[None]:
        with ExitStack() as stack:
            for name in names:
                _tool("ip", "netns", "add", f"{self._tag}-{name}")
                stack.callback(_tool, "ip", "netns", "delete", f"{self._tag}-{name}")
                self.ip(name, "link set lo up")
            yield

    def cable(self, name: str, device: str, other: str, other_device: str) -> None:
        """Join two namespaces by a veth pair whose frames carry finished checksums, as they would on a real wire."""
        self.ip(name, f"link add {device} type veth peer name {other_device} netns {self._tag}-{other}")
        for where, what in ((name, device), (other, other_device)):
            self.ip(where, f"link set {what} up")
            self.run(where, leave_no_checksum, what)

    def forward(self, name: str) -> None:
        self.run(name, Path("/proc/sys/net/ipv4/ip_forward").write_text, "1")


class Host:
    """A daemon's part in a namespace: the backend attached and its data plane running, in a thread with its own event loop."""

    def __init__(self, namespace: str, number: int, network: NetworkConfig) -> None:
        self._namespace = namespace
        self._network = network
        self._number = number
        self._ready = threading.Event()
        self.network: UdpNetwork

    @contextmanager
    def running(self) -> Iterator[None]:
        with ThreadPoolExecutor(1) as thread:
            end = thread.submit(self._main)
            end.add_done_callback(lambda _: self._ready.set())
            self._ready.wait(20)
            if end.done():
                end.result()
            try:
                yield
            finally:
                if not end.done():
                    self._loop.call_soon_threadsafe(self._task.cancel)
                end.result(20)

    def call(self, coroutine: Coroutine[None, None, T]) -> T:
        """Run on the host's loop, as the daemon's own task would."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(20)

    async def apply(self, peers: Collection[Lease]) -> tuple[Refusal, ...]:
        """Reach exactly these peers."""
        return await apply(self.network, self._kernel, peers)

    def _main(self) -> None:
        setns(self._namespace)
        with suppress(asyncio.CancelledError):
            asyncio.run(self._serve())

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        with Netlink() as netlink:
            backend = UdpBackend.parse(self._network.backend)
            async with backend.attach(uplink(netlink, self._number), self._network, LinuxKernel(netlink)) as network:
                assert isinstance(network, UdpNetwork)
                self.network = network
                await network.adopt(LEASES[self._number])
                self._kernel = LinuxKernel(netlink)
                await self.apply([lease for number, lease in LEASES.items() if number != self._number])
                self._ready.set()
                try:
                    await network.run()
                finally:
                    network.remove()


def uplink(netlink: Netlink, number: int) -> Uplink:
    found = link(netlink, "eth0")
    assert found is not None
    return Uplink("eth0", found.index, found.mtu, (ip_interface(f"{UPLINKS[number]}/24"),), (ip_address(UPLINKS[number]),))


class World(Namespaces):
    """The picture above, running."""

    def __init__(self, network: NetworkConfig = NETWORK) -> None:
        super().__init__()
        self.data_path = network.backend.get("datapath", "tun")
        self.hosts = {number: Host(self.path(f"host{number}"), number, network) for number in UPLINKS}

    @contextmanager
    def up(self) -> Iterator[None]:
        with ExitStack() as stack:
            stack.enter_context(self.made("router", *(f"{kind}{number}" for number in UPLINKS for kind in ("host", "pod"))))
            self.forward("router")
            for number in UPLINKS:
                self._lay_cables(number)
            for host in self.hosts.values():
                stack.enter_context(host.running())
            yield

    def _lay_cables(self, number: int) -> None:
        host, gateway = f"host{number}", UPLINKS[number].rpartition(".")[0] + ".254"
        self.cable(host, "eth0", "router", host)
        self.ip("router", f"addr add {gateway}/24 dev {host}")
        self.ip(host, f"addr add {UPLINKS[number]}/24 dev eth0", f"route add default via {gateway}")
        self.cable(host, "pod", f"pod{number}", "eth0")
        self.ip(host, f"addr add 10.5.{number}.1/24 dev pod")
        self.ip(f"pod{number}", f"addr add 10.5.{number}.2/24 dev eth0", f"route add default via 10.5.{number}.1")
        self.forward(host)

    @contextmanager
    def tap(self, name: str, device: str) -> Iterator[socket.socket]:
        """Every frame of a device as it passes, from now on; (frame, address) by `recvfrom`, which does not wait."""
        with self.run(name, socket.socket, socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0) as tap:
            tap.setsockopt(socket.SOL_SOCKET, 33, 32 << 20)  # SO_RCVBUFFORCE
            tap.bind((device, ETH_P_ALL))
            yield tap


def drained(tap: socket.socket) -> Iterator[tuple[bytes, bool]]:
    """The frames that a tap holds, each with whether the host was sending it."""
    with suppress(BlockingIOError):
        while True:
            frame, address = tap.recvfrom(65535)
            yield frame, address[2] == socket.PACKET_OUTGOING


def _tool(*command: str, text: str | None = None) -> str:
    done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stdout}{done.stderr} {text or ''}"
    return done.stdout
