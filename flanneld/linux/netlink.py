"""Netlink sockets: batches of changes, dumps, and the kernel's notifications; must not know what is asked for, or why.

A socket belongs for good to the network namespace in which it was opened. Source: linux/netlink.h, net/netlink/af_netlink.c.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import struct
from collections.abc import Collection, Container, Iterator, Sequence
from enum import IntEnum
from typing import Self

from flanneld.kernel import KernelError
from flanneld.linux.events import Event, Overrun, decode_event
from flanneld.linux.message import (
    NLM_F_ACK,
    NLM_F_DUMP,
    NLM_F_DUMP_INTR,
    MalformedMessage,
    Message,
    attributes,
    split_messages,
    string,
)
from flanneld.linux.rtnetlink import DEVICE_KINDS, ROUTE_KINDS, RTPROT_KERNEL
from flanneld.linux.socket_filter import MOST_DEVICES, about_devices, attach

SOL_NETLINK = 270
NETLINK_ADD_MEMBERSHIP, NETLINK_CAP_ACK, NETLINK_EXT_ACK, NETLINK_GET_STRICT_CHK = 1, 10, 11, 12
NLMSG_ERROR, NLMSG_DONE = 2, 3
NLMSGERR_SIZE = 20
"""struct nlmsgerr: i32 error, and the header of the request (NETLINK_CAP_ACK leaves its body out)."""
NLMSGERR_ATTR_MSG = 1
NLM_F_ACK_TLVS = 0x200
SO_RCVBUFFORCE = 33
"""asm-generic/socket.h; Python's socket module does not name it."""

BATCH = 500
"""Messages in a send. The kernel answers all of them inside the send, so the answers must fit the receive buffer: if each
message is refused, each answer takes about 1 KB of it."""
BATCH_BYTES = 48 << 10
RECEIVE_BUFFER = 1 << 20
"""Bytes; the kernel doubles them for its bookkeeping."""
DATAGRAM = 64 << 10
"""More than the largest datagram of a dump (32 KB)."""
DUMP_TRIES = 10
EVENT_READS = 64
"""Receives whose events are handed over together, at most."""


class Errno(int):
    """What became of a message: 0 when it was done, else the errno, with the kernel's own words if it had some."""

    why: str

    def __new__(cls, code: int, why: str = "") -> Self:
        self = super().__new__(cls, code)
        self.why = why or os.strerror(code).lower()
        return self


DONE = Errno(0)


class Netlink:
    """A blocking netlink socket in the network namespace of the calling thread. Not for two threads at once."""

    def __init__(self, family: int = socket.NETLINK_ROUTE) -> None:
        self._sequence = 0
        self._socket = _open(family)
        # Without strict checking the kernel ignores the filters of dumps.
        self._socket.setsockopt(SOL_NETLINK, NETLINK_GET_STRICT_CHK, 1)
        self._socket.bind((0, 0))

    def fileno(self) -> int:
        """The socket's descriptor."""
        return self._socket.fileno()

    @property
    def portid(self) -> int:
        """Our address, which notifications of our own changes carry."""
        port: int = self._socket.getsockname()[0]
        return port

    def transact(self, requests: Sequence[Message]) -> list[Errno]:
        """Send requests in as few sends as fit; returns what became of each, in their order. A refusal stops none of the rest."""
        outcomes: list[Errno] = []
        for batch in _batches(requests):
            outcomes += self._exchange(batch)
        return outcomes

    def change(self, what: object, *requests: Message) -> None:
        """Send requests that belong together; raises KernelError about `what` for the first that is refused."""
        for outcome in self.transact(requests):
            if outcome:
                raise KernelError(int(outcome), what, outcome.why)

    def get(self, what: object, message: Message) -> Message:
        """Ask for one object; raises KernelError about `what`."""
        reply = next(self._replies(self._send([message], last_flags=0)))
        if reply.kind == NLMSG_ERROR:
            outcome = decode_outcome(reply)
            raise KernelError(int(outcome), what, outcome.why)
        return reply

    def dump(self, message: Message) -> list[Message]:
        """Ask for all objects that match, as of one moment; raises KernelError."""
        for _ in range(DUMP_TRIES):
            found = self._dump(message)
            if found is not None:
                return found
        raise KernelError(errno.EINTR, f"a dump (message {message.kind})", f"the table changed during each of {DUMP_TRIES} reads")

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _exchange(self, batch: Sequence[Message]) -> list[Errno]:
        """Only the last message asks for an acknowledgement: the kernel works in order, and a refusal comes unasked."""
        outcomes = [DONE] * len(batch)
        first = self._send(batch, last_flags=NLM_F_ACK)
        for reply in self._replies(first, len(batch)):
            if reply.kind == NLMSG_ERROR:
                outcomes[reply.sequence - first] = decode_outcome(reply)
                if reply.sequence == first + len(batch) - 1:
                    break
        return outcomes

    def _dump(self, message: Message) -> list[Message] | None:
        found = []
        interrupted = False
        for reply in self._replies(self._send([message], last_flags=NLM_F_DUMP)):
            interrupted |= bool(reply.flags & NLM_F_DUMP_INTR)
            if reply.kind in (NLMSG_DONE, NLMSG_ERROR):
                if outcome := decode_outcome(reply):
                    raise KernelError(int(outcome), f"a dump (message {message.kind})", outcome.why)
                break
            found.append(reply)
        return None if interrupted else found

    def _send(self, batch: Sequence[Message], last_flags: int) -> int:
        """Returns the sequence number of the first."""
        if self._sequence + len(batch) >= 1 << 32:
            self._sequence = 0
        first = self._sequence + 1
        self._sequence += len(batch)
        parts = [message.encode(first + place) for place, message in enumerate(batch[:-1])]
        try:
            self._socket.send(b"".join((*parts, batch[-1].encode(self._sequence, last_flags))))
        except OSError as error:
            raise _socket_error(error) from error
        return first

    def _replies(self, first: int, count: int = 1) -> Iterator[Message]:
        """Replies to requests `first` onwards, without end; what an interrupted call left behind is passed over."""
        while True:
            try:
                data = self._socket.recv(DATAGRAM)
            except OSError as error:
                raise _socket_error(error) from error
            yield from (reply for reply in split_messages(data) if first <= reply.sequence < first + count)


class Group(IntEnum):
    """What can be listened to (RTNLGRP_* of linux/rtnetlink.h)."""

    LINKS = 1
    NEIGHBOURS = 3
    """With the FDB."""
    IPV4_ADDRESSES = 5
    IPV4_ROUTES = 7
    IPV6_ADDRESSES = 9
    IPV6_ROUTES = 11


class Monitor:
    """The kernel's notifications in one network namespace, in batches as they come: `async for events in monitor`.

    Listening begins at once. `ours` holds the `portid` of Netlink sockets whose changes are no news. The kernel signs changes of
    routes, neighbours and addresses so, but not of links and FDB entries, whose events come anyway. Cancel a waiting reader
    before `close`.
    """

    def __init__(self, *groups: Group, ours: Container[int] = ()) -> None:
        self._ours = ours
        self._chosen: frozenset[int] | None = None
        self._socket = _open(socket.NETLINK_ROUTE)
        self._socket.setblocking(False)
        self._socket.bind((0, 0))
        for group in groups or Group:
            self._socket.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, group)

    def only(self, devices: Collection[int]) -> bool:
        """Hear from now on of no interfaces, addresses and neighbours but of these, and of no routes that the kernel itself makes.

        True if that is another choice than before: what happened to a device until then may not have been heard.
        """
        chosen = frozenset(devices)
        if chosen == self._chosen or len(chosen) > MOST_DEVICES:
            return False
        attach(self._socket, about_devices(DEVICE_KINDS, sorted(chosen), ROUTE_KINDS, RTPROT_KERNEL))
        self._chosen = chosen
        return True

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> list[Event]:
        """Wait for events and return all that are there."""
        while True:
            events: list[Event] = []
            try:
                events += self._decode(await asyncio.get_running_loop().sock_recv(self._socket, DATAGRAM))
                for _ in range(EVENT_READS - 1):
                    events += self._decode(self._socket.recv(DATAGRAM))
            except BlockingIOError:
                pass
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise _socket_error(error) from error
                events.append(Overrun())
            if events:
                return events

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _decode(self, data: bytes) -> list[Event]:
        try:
            news = [decode_event(message) for message in split_messages(data) if not message.port or message.port not in self._ours]
        except MalformedMessage:  # of a kernel newer than we are: as good as lost
            return [Overrun()]
        return [event for event in news if event is not None]


def _open(family: int) -> socket.socket:
    opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, family)
    opened.setsockopt(SOL_NETLINK, NETLINK_EXT_ACK, 1)
    opened.setsockopt(SOL_NETLINK, NETLINK_CAP_ACK, 1)
    try:  # root may pass net.core.rmem_max, which is less; others only look
        opened.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BUFFER)
    except PermissionError:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
    return opened


def _socket_error(error: OSError) -> KernelError:
    return KernelError(error.errno or errno.EIO, "use of a netlink socket", str(error.strerror).lower())


def _batches(requests: Sequence[Message]) -> Iterator[Sequence[Message]]:
    start = size = 0
    for place, request in enumerate(requests):
        if place - start == BATCH or size + len(request.body) > BATCH_BYTES:
            yield requests[start:place]
            start, size = place, 0
        size += len(request.body)
    if start < len(requests):
        yield requests[start:]


def decode_outcome(reply: Message) -> Errno:
    """What an NLMSG_ERROR or NLMSG_DONE says."""
    code = -int(struct.unpack_from("=i", reply.body)[0]) if reply.body else 0
    if not code:
        return DONE
    said = attributes(reply.body, NLMSGERR_SIZE if reply.kind == NLMSG_ERROR else 4) if reply.flags & NLM_F_ACK_TLVS else {}
    return Errno(code, string(said.get(NLMSGERR_ATTR_MSG)))
