"""The sockets of BFD for one hop: RFC 5881 §4 and §5; must not know sessions.

Packets go out with a TTL of 255, and only those that come in with 255 were sent on this link (GTSM, RFC 5082). The kernel refuses
others for TCP alone (IP_MINTTL, IPV6_MINHOPCOUNT): for datagrams it is for the receiver to look.
"""

from __future__ import annotations

import errno
import secrets
import socket
import sys
from collections.abc import Container
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv6Address
from typing import TypeAlias

from flanneld.lease import IPAddress

PORT = 3784
TTL = 255

_FIRST_SOURCE_PORT, _SOURCE_PORTS = 49152, 1 << 14
_PORT_TRIES = 32
_INTERNETWORK_CONTROL = 0xC0  # class selector 6: routers, and our own queues, let it pass before what fills the link
_DATAGRAM_SIZE = 256  # more than a control packet can say that it has
_ANCILLARY_SIZE = socket.CMSG_SPACE(4)  # the TTL, an int
_BUFFER_SIZE = 1 << 20
MOST_WAITING = _BUFFER_SIZE // 256
"""More datagrams than this do not fit in a receive buffer, however small they are."""

_SO_RCVBUFFORCE = 33  # asm-generic/socket.h; over net.core.rmem_max, for CAP_NET_ADMIN
_IP_RECVTTL = 12  # linux/in.h

SocketAddress: TypeAlias = tuple[str, int] | tuple[str, int, int, int]


@dataclass(frozen=True, slots=True)
class Place:
    """Where sessions end on this host."""

    local: IPAddress
    device: str = ""
    """Nothing else is listened to or sent by; empty: as the routes say. IPv6's link-local addresses want one."""
    index: int = 0
    """The device's: one that was made anew has the same name, and sockets are still bound to the one that was."""


@dataclass(frozen=True, slots=True)
class Datagram:
    """What came in."""

    payload: bytes
    """At most 256 bytes of it."""
    ttl: int
    """That it arrived with; -1: the kernel did not say."""
    source: str
    """The sender's address, as `address_text` has it."""


def address_text(address: IPAddress) -> str:
    """The address as the socket library writes it, without a scope."""
    return socket.inet_ntop(_family(address), address.packed)


def open_receiver(place: Place) -> socket.socket:
    """Open the non-blocking socket that receives what is sent to the address's BFD port; raises OSError."""
    receiver = _open(place)
    try:
        _enlarge(receiver)
        if receiver.family == socket.AF_INET:
            receiver.setsockopt(socket.IPPROTO_IP, _IP_RECVTTL, 1)
        else:
            receiver.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVHOPLIMIT, 1)
        receiver.bind(socket_address(place, place.local, PORT))
    except OSError:
        receiver.close()
        raise
    return receiver


def open_sender(place: Place, taken: Container[int]) -> socket.socket:
    """Open the non-blocking socket that one session sends by, from a port that is not `taken` by another; raises OSError.

    Whatever is sent to that port is thrown away: answers come to the receiver.
    """
    sender = _open(place)
    try:
        if sender.family == socket.AF_INET:
            sender.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, TTL)
            sender.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, _INTERNETWORK_CONTROL)
        else:
            sender.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, TTL)
            sender.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, _INTERNETWORK_CONTROL)
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 0)
        _bind_source(sender, place, taken)
    except OSError:
        sender.close()
        raise
    return sender


def receive(receiver: socket.socket) -> Datagram | None:
    """Take the next datagram; None: there is none now."""
    try:
        payload, ancillary, _, address = receiver.recvmsg(_DATAGRAM_SIZE, _ANCILLARY_SIZE)
    except OSError:
        return None  # as a rule EAGAIN; else what the kernel had kept for the socket, which is readable still
    ttl = next((int.from_bytes(data, sys.byteorder) for _, _, data in ancillary), -1)
    return Datagram(payload, ttl, address[0])


def socket_address(place: Place, address: IPAddress, port: int) -> SocketAddress:
    """The address as the socket library takes it."""
    if isinstance(address, IPv6Address):
        return address_text(address), port, 0, place.index if address.is_link_local else 0
    return address_text(address), port


def _open(place: Place) -> socket.socket:
    opened = socket.socket(_family(place.local), socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    try:
        if place.device:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, place.device.encode())
    except OSError:
        opened.close()
        raise
    return opened


def _enlarge(receiver: socket.socket) -> None:
    """Have room for what comes while others have the processor; without CAP_NET_ADMIN as much as net.core.rmem_max lets us."""
    for option in (_SO_RCVBUFFORCE, socket.SO_RCVBUF):
        with suppress(PermissionError):
            receiver.setsockopt(socket.SOL_SOCKET, option, _BUFFER_SIZE)
            break


def _bind_source(sender: socket.socket, place: Place, taken: Container[int]) -> None:
    for _ in range(_PORT_TRIES):
        port = _FIRST_SOURCE_PORT + secrets.randbelow(_SOURCE_PORTS)
        if port in taken:
            continue
        try:
            return sender.bind(socket_address(place, place.local, port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
    raise OSError(errno.EADDRINUSE, f"no free source port found in {_PORT_TRIES} tries")


def _family(address: IPAddress) -> socket.AddressFamily:
    return socket.AF_INET if address.version == 4 else socket.AF_INET6
