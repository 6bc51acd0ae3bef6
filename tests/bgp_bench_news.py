"""What the kernels of many hosts tell of flanneld's routes, and when: the eyes of `./dev bench bgp`; must not know BGP."""

from __future__ import annotations

import selectors
import socket
import struct
import time
from collections.abc import Collection, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from ipaddress import IPv4Network
from threading import Event, Thread
from typing import TypeAlias

from flanneld_world import WAIT_S
from lab.place import Place

Key: TypeAlias = tuple[str, IPv4Network]
"""A host's name, and where to its route leads."""

ROUTES = 0x40
"""RTMGRP_IPV4_ROUTE (linux/rtnetlink.h)."""
NEW, DELETED = 24, 25
"""RTM_NEWROUTE, RTM_DELROUTE."""
OURS, UNICAST = 84, 1
"""rtm_protocol of flanneld's, rtm_type of those that lead elsewhere."""
RTA_DST = 1
HEADER = struct.Struct("=IHHII")
"""struct nlmsghdr: length, type, flags, sequence number, port."""
ROUTE = struct.Struct("=BBBBBBBBI")
"""struct rtmsg: family, lengths of destination and source, TOS, table, protocol, scope, type, flags."""
ATTRIBUTE = struct.Struct("=HH")
"""struct rtattr: length, type."""
ROOM_BYTES = 64 << 20
SO_RCVBUFFORCE = 33
LOOK_S = 0.01


class RouteNews:
    """Routes that came and went since `clear`, with the times at which the kernel said so, as `time.time` has them."""

    def __init__(self, selector: selectors.BaseSelector) -> None:
        self._selector = selector
        self._heard: list[tuple[float, str, bytes]] = []
        """By one thread, and not looked into there: thousands of them come at once."""
        self._read = 0
        self.there: dict[Key, float] = {}
        """Since when."""
        self.gone: dict[Key, float] = {}

    def listen(self, end: Event) -> None:
        """Hear until the end."""
        while not end.is_set():
            for key, _ in self._selector.select(LOOK_S * 10):
                assert isinstance(key.fileobj, socket.socket)
                data = key.fileobj.recv(1 << 17)
                self._heard.append((time.time(), key.data, data))

    def clear(self) -> None:
        """Forget all; what comes from now on counts."""
        self.look()
        self.there.clear()
        self.gone.clear()

    def look(self) -> None:
        """Take in what has been heard."""
        while self._read < len(self._heard):
            at, host, data = self._heard[self._read]
            self._read += 1
            for prefix, deleted in changes(data):
                self._take((host, prefix), at, deleted=deleted)

    def _take(self, key: Key, at: float, *, deleted: bool) -> None:
        if deleted:
            self.there.pop(key, None)
            self.gone.setdefault(key, at)
        else:
            self.gone.pop(key, None)
            self.there.setdefault(key, at)

    def came(self, keys: Collection[Key], within_s: float = WAIT_S) -> list[float]:
        """When each of them came, once all are there."""
        return self._awaited(self.there, keys, within_s)

    def went(self, keys: Collection[Key], within_s: float = WAIT_S) -> list[float]:
        """When each of them went, once all have gone."""
        return self._awaited(self.gone, keys, within_s)

    def _awaited(self, seen: dict[Key, float], keys: Collection[Key], within_s: float) -> list[float]:
        until = time.monotonic() + within_s
        missing = set(keys)
        while missing:
            self.look()
            missing = {key for key in missing if key not in seen}
            assert time.monotonic() < until, (
                f"not within {within_s:g} s: {len(missing)} of {len(keys)}, {next(iter(missing), None)}"
            )
            time.sleep(LOOK_S if missing else 0)
        return [seen[key] for key in keys]


def changes(data: bytes) -> Iterator[tuple[IPv4Network, bool]]:
    """Flanneld's routes to elsewhere in what a netlink socket has received; true: it has been deleted."""
    offset = 0
    while offset + HEADER.size + ROUTE.size <= len(data):
        length, kind, *_ = HEADER.unpack_from(data, offset)
        _, bits, _, _, _, protocol, _, route_type, _ = ROUTE.unpack_from(data, offset + HEADER.size)
        if kind in (NEW, DELETED) and (protocol, route_type) == (OURS, UNICAST):
            attributes = data[offset + HEADER.size + ROUTE.size : offset + length]
            yield IPv4Network((_destination(attributes), bits)), kind == DELETED
        offset += (length + 3) & ~3


def _destination(attributes: bytes) -> bytes:
    offset = 0
    while offset < len(attributes):
        length, kind = ATTRIBUTE.unpack_from(attributes, offset)
        if kind == RTA_DST:
            return attributes[offset + ATTRIBUTE.size : offset + length]
        offset += (length + 3) & ~3
    return bytes(4)


@contextmanager
def route_news(hosts: Iterable[Place]) -> Iterator[RouteNews]:
    """Listen in these hosts' namespaces."""
    end = Event()
    with ExitStack() as stack:
        selector = stack.enter_context(selectors.DefaultSelector())
        for host in hosts:
            news = stack.enter_context(host.call(socket.socket, socket.AF_NETLINK, socket.SOCK_RAW, 0))
            news.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, ROOM_BYTES)
            news.bind((0, ROUTES))
            selector.register(news, selectors.EVENT_READ, host.name)
        heard = RouteNews(selector)
        listening = Thread(target=heard.listen, args=(end,))
        listening.start()
        try:
            yield heard
        finally:
            end.set()
            listening.join()
