"""Hosts on one switch, each a network namespace with a BFD service of its own in a thread.

a 192.0.2.1, 2001:db8::1, fe80::1 -- switch -- b 192.0.2.2, 2001:db8::2, fe80::2
"""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from ipaddress import ip_address
from typing import TypeVar

from bgp.bfd.packet import State
from bgp.bfd.service import BfdService, BfdSettings
from flanneld.lease import IPAddress
from flanneld.linux.netns import setns
from udp_world import Namespaces

T = TypeVar("T")

A_WHILE_S = 30.0
DEVICE = "eth0"
HOSTS = {"a": 1, "b": 2}
NETWORKS = ("192.0.2.", "2001:db8::", "fe80::")
V4, V6, LINK_LOCAL = NETWORKS


def address(network: str, host: str) -> IPAddress:
    """A host's address in one of the networks."""
    return ip_address(f"{network}{HOSTS[host]}")


def settings(network: str, host: str, interval_ms: int = 100, multiplier: int = 10) -> BfdSettings:
    """What a host asks of the other one: patience, since all of this shares few processors."""
    return BfdSettings(address(network, host), interval_ms, multiplier, DEVICE if network == LINK_LOCAL else "")


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + A_WHILE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


class Looped:
    """Who has an event loop of its own, in another thread."""

    loop: asyncio.AbstractEventLoop

    def call(self, function: Callable[[], T]) -> T:
        """Call in that loop."""
        answer: Future[T] = Future()
        self.loop.call_soon_threadsafe(lambda: answer.set_result(function()))
        return answer.result(A_WHILE_S)


class BfdHost(Looped):
    """A daemon's part: the service, in a thread with its own event loop inside the namespace."""

    def __init__(self, namespace: str) -> None:
        self._namespace = namespace
        self.told: list[tuple[IPAddress, bool, str]] = []
        """All that the service said."""
        self.service: BfdService

    @contextmanager
    def running(self) -> Iterator[None]:
        ready = threading.Event()
        with ThreadPoolExecutor(1) as thread:
            end = thread.submit(self._main, ready)
            end.add_done_callback(lambda _: ready.set())
            ready.wait(A_WHILE_S)
            try:
                yield
            finally:
                if not end.done():
                    self.loop.call_soon_threadsafe(self._stop.set)
                end.result(A_WHILE_S)

    def follow(self, wanted: Mapping[IPAddress, BfdSettings]) -> None:
        self.call(lambda: self.service.follow(wanted))

    def state(self, peer: IPAddress) -> State | None:
        return self.call(lambda: self.service.states.get(peer))

    def _main(self, ready: threading.Event) -> None:
        setns(self._namespace)
        asyncio.run(self._serve(ready))

    async def _serve(self, ready: threading.Event) -> None:
        self.loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        self.service = BfdService(lambda *told: self.told.append(told))
        ready.set()
        try:
            await self._stop.wait()
        finally:
            self.service.close()


class BfdWorld(Namespaces):
    """The picture above."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = (BfdHost(self.path(name)) for name in HOSTS)

    @contextmanager
    def up(self, *running: str) -> Iterator[None]:
        """The network, with the service running on these hosts; on all if none is named."""
        with ExitStack() as stack:
            stack.enter_context(self.made("switch", *HOSTS))
            self.ip("switch", "link add bridge0 type bridge", "link set bridge0 up")
            for name in HOSTS:
                self.plug(name)
            for name in running or HOSTS:
                stack.enter_context(getattr(self, name).running())
            yield

    def plug(self, name: str) -> None:
        """Give a host its device, and join it to the switch."""
        self.cable(name, DEVICE, "switch", f"to-{name}")
        self.mend(name)
        addresses = [f"addr add {address(V4, name)}/24 dev {DEVICE}"]
        addresses += [f"addr add {address(network, name)}/64 dev {DEVICE} nodad" for network in (V6, LINK_LOCAL)]
        self.ip(name, *addresses)

    def cut(self, name: str) -> None:
        """Nothing passes any more, and neither end's link is down."""
        self.ip("switch", f"link set to-{name} nomaster")

    def mend(self, name: str) -> None:
        self.ip("switch", f"link set to-{name} master bridge0")

    def follow(self, network: str) -> None:
        """Both watch each other, and are up."""
        self.a.follow({address(network, "b"): settings(network, "a")})
        self.b.follow({address(network, "a"): settings(network, "b")})
        self.wait_until_up(network)

    def wait_until_up(self, network: str) -> None:
        eventually(lambda: self.a.state(address(network, "b")) is self.b.state(address(network, "a")) is State.UP)

    def socket(self, name: str, network: str, ttl: int = 255) -> socket.socket:
        """A stranger's socket on a host, that waits for nothing for ever."""
        v4 = network == V4
        opened = self.run(name, socket.socket, socket.AF_INET if v4 else socket.AF_INET6, socket.SOCK_DGRAM)
        level, option = (socket.IPPROTO_IP, socket.IP_TTL) if v4 else (socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS)
        opened.setsockopt(level, option, ttl)
        opened.settimeout(A_WHILE_S)
        return opened
