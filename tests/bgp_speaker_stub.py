"""A BGP neighbour made of bytes, that says what no router would: for tests of who has to listen to it; must not know who that is.

with Stub(place, ours, asn).connected(theirs) as session:
    session.send(update([ip_network("10.244.7.0/24")], ours, [asn]))
"""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network

from bgp.session import BGP_PORT
from lab.place import Place

MARKER = b"\xff" * 16
OPEN, UPDATE, NOTIFICATION, KEEPALIVE, ROUTE_REFRESH = 1, 2, 3, 4, 5
HEADER = struct.Struct("!16sHB")
"""Marker, length of the whole message, type (RFC 4271 §4.1)."""
AS_TRANS = 23456
END_OF_RIB = bytes(4)
"""The body of an UPDATE that says nothing (RFC 4724 §2)."""
KEEPALIVE_S = 2.0
PATIENCE_S = 10.0
LONGEST_NLRI = 3800
"""Bytes of prefixes in one message, which has 4,096 at most."""
GTSM_TTL = 255


class Ended(Exception):
    """The other end has had enough: why, if it says so."""


def message(kind: int, body: bytes = b"") -> bytes:
    return HEADER.pack(MARKER, HEADER.size + len(body), kind) + body


def open_message(asn: int, router_id: IPv4Address, hold_time_s: int = 90) -> bytes:
    """With IPv4 and IPv6 unicast, ROUTE-REFRESH and AS numbers of four bytes."""
    families = b"".join(struct.pack("!BBHBB", 1, 4, afi, 0, 1) for afi in (1, 2))
    capabilities = families + struct.pack("!BB", 2, 0) + struct.pack("!BBI", 65, 4, asn)
    parameter = struct.pack("!BB", 2, len(capabilities)) + capabilities
    short = asn if asn < 1 << 16 else AS_TRANS
    return message(OPEN, struct.pack("!BHH4sB", 4, short, hold_time_s, router_id.packed, len(parameter)) + parameter)


def update(
    prefixes: Iterable[IPv4Network], next_hop: IPv4Address, as_path: Sequence[int] = (), *others: tuple[int, bytes]
) -> list[bytes]:
    """Announce prefixes, in as many messages as that takes; `others` are more attributes, by type: value."""
    segment = struct.pack("!BB", 2, len(as_path)) + struct.pack(f"!{len(as_path)}I", *as_path) if as_path else b""
    attributes = b"".join(attribute(*each) for each in ((1, b"\0"), (2, segment), (3, next_hop.packed), *others))
    head = struct.pack("!HH", 0, len(attributes)) + attributes
    return [message(UPDATE, head + block) for block in _blocks(map(nlri, prefixes))]


def withdrawal(prefixes: Iterable[IPv4Network]) -> list[bytes]:
    """In as many messages as that takes."""
    return [message(UPDATE, struct.pack("!H", len(block)) + block + b"\0\0") for block in _blocks(map(nlri, prefixes))]


def attribute(kind: int, value: bytes) -> bytes:
    """With the flags that are right for its type (RFC 4271 §4.3)."""
    flags = {4: 0x80, 8: 0xC0, 9: 0x80, 10: 0x80}.get(kind, 0x40)
    return struct.pack("!BBB", flags, kind, len(value)) + value


def nlri(prefix: IPv4Network) -> bytes:
    return bytes([prefix.prefixlen]) + prefix.network_address.packed[: (prefix.prefixlen + 7) // 8]


def _blocks(parts: Iterable[bytes]) -> Iterator[bytes]:
    block = bytearray()
    for part in parts:
        block += part
        if len(block) > LONGEST_NLRI:
            yield bytes(block)
            block.clear()
    if block:
        yield bytes(block)


@dataclass
class StubSession:
    """An established session; in a thread it is kept alive, and read from."""

    connection: socket.socket
    received: list[tuple[int, bytes]] = field(default_factory=list)
    """Types and bodies, without keepalives."""
    ended: threading.Event = field(default_factory=threading.Event)
    _sending: threading.Lock = field(default_factory=threading.Lock)

    def send(self, messages: Iterable[bytes]) -> None:
        """Raises Ended when the other end does not listen any more."""
        for each in messages:
            try:
                with self._sending:
                    self.connection.sendall(each)
            except OSError as error:
                raise Ended(self.last_word) from error

    def has_heard_all(self) -> bool:
        """Wait for the end of the other end's RIB of IPv4; false: the session has ended. Raises TimeoutError."""
        return self._waited(lambda: (UPDATE, END_OF_RIB) in self.received, "no end of RIB")

    def is_heard(self) -> bool:
        """Wait until all that was sent is dealt with, as the answer to a ROUTE-REFRESH shows; false: the session has ended.

        The other end must have announced something of IPv4, and all that it has (`has_heard_all`). Raises TimeoutError.
        """
        before = self._announcements
        with suppress(Ended):
            self.send([message(ROUTE_REFRESH, struct.pack("!HBB", 1, 0, 1))])
        return self._waited(lambda: self._announcements > before, "no answer to a ROUTE-REFRESH")

    @property
    def _announcements(self) -> int:
        return sum(kind == UPDATE and body != END_OF_RIB for kind, body in self.received)

    def _waited(self, is_so: Callable[[], bool], otherwise: str) -> bool:
        until = time.monotonic() + PATIENCE_S
        while not self.ended.is_set() and not is_so():
            if time.monotonic() > until:
                raise TimeoutError(f"{otherwise} within {PATIENCE_S:g} s")
            time.sleep(0.001)
        return not self.ended.is_set()

    @property
    def last_word(self) -> str:
        """Code and subcode of the NOTIFICATION, if there was one."""
        said = [body for kind, body in self.received if kind == NOTIFICATION]
        return f"{said[0][0]}/{said[0][1]}" if said else ""

    def attend(self) -> None:
        """Read, and be heard of, until the end."""
        said_at = time.monotonic()
        try:
            while True:
                self.connection.settimeout(KEEPALIVE_S)
                with suppress(TimeoutError):
                    kind, body = read_message(self.connection)
                    if kind != KEEPALIVE:
                        self.received.append((kind, body))
                if time.monotonic() - said_at > KEEPALIVE_S:
                    said_at = time.monotonic()
                    with self._sending:
                        self.connection.sendall(message(KEEPALIVE))
        except (OSError, Ended):
            self.ended.set()


@dataclass(frozen=True)
class Stub:
    """Who the neighbour is."""

    place: Place
    address: IPv4Address
    asn: int

    @contextmanager
    def connected(self, peer: IPv4Address, within_s: float = PATIENCE_S) -> Iterator[StubSession]:
        """A session that we open, tried until it is established; raises Ended when it never is."""
        session = StubSession(self._established(peer, time.monotonic() + within_s))
        attending = threading.Thread(target=session.attend)
        attending.start()
        try:
            yield session
        finally:
            with suppress(OSError):
                session.connection.shutdown(socket.SHUT_RDWR)
            attending.join()
            session.connection.close()

    def _established(self, peer: IPv4Address, until: float) -> socket.socket:
        while True:
            connection = self.place.call(socket.socket)
            try:
                self._open(connection, peer)
            except (OSError, Ended) as error:
                connection.close()
                if time.monotonic() > until:
                    raise Ended(f"no session with {peer}: {error}") from error
                time.sleep(0.02)
            else:
                return connection

    def _open(self, connection: socket.socket, peer: IPv4Address) -> None:
        connection.settimeout(PATIENCE_S)
        connection.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, GTSM_TTL)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.bind((str(self.address), 0))
        connection.connect((str(peer), BGP_PORT))
        connection.sendall(open_message(self.asn, self.address))
        for wanted in (OPEN, KEEPALIVE):
            kind, body = read_message(connection)
            if kind != wanted:
                raise Ended(f"type {kind}: {body.hex()}")
            connection.sendall(message(KEEPALIVE))


def read_message(connection: socket.socket) -> tuple[int, bytes]:
    """Type and body; raises Ended at the end, TimeoutError when none has begun."""
    header = connection.recv(HEADER.size, socket.MSG_PEEK)
    if not header:
        raise Ended
    connection.settimeout(PATIENCE_S)
    _, length, kind = HEADER.unpack(_exactly(connection, HEADER.size))
    return kind, _exactly(connection, length - HEADER.size)


def _exactly(connection: socket.socket, count: int) -> bytes:
    found = bytearray()
    while len(found) < count:
        chunk = connection.recv(count - len(found))
        if not chunk:
            raise Ended
        found += chunk
    return bytes(found)
