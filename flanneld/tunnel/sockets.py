"""The engine's sockets: to the underlay, for ICMP errors, and to ask for a path's MTU; must not know packets."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from ipaddress import IPv4Address

from flanneld.backend import BackendError
from flanneld.tunnel.switch import Endpoint

_BUFFER_SIZE = 8 << 20
"""Bytes; with the kernel's default, bursts that come while Python is scheduled out are lost."""

_SO_SNDBUFFORCE, _SO_RCVBUFFORCE = 32, 33  # asm-generic/socket.h; over net.core.[rw]mem_max, for CAP_NET_ADMIN
_IP_MTU_DISCOVER, _IP_PMTUDISC_DONT, _IP_PMTUDISC_DO, _IP_MTU = 10, 0, 2, 14  # linux/in.h
SOL_UDP, UDP_SEGMENT, _UDP_GRO = 17, 103, 104  # linux/udp.h; since 4.18 and 5.0


@dataclass(frozen=True, slots=True)
class Offloads:
    """What the kernel does for the underlay socket."""

    segmentation: bool
    """Cuts what is sent at once into datagrams."""
    merging: bool
    """Hands over datagrams of one length and sender at once."""


def open_underlay(address: IPv4Address, port: int, *, fragments: bool = False) -> socket.socket:
    """Open the non-blocking socket that carries datagrams to and from peers.

    It is not connected and asks for no error queue (IP_RECVERR), so a peer that answers with ICMP errors disturbs no other peer.
    Unless `fragments`, what it sends is never fragmented: EMSGSIZE says that the kernel knows a path MTU too small for it.
    """
    underlay = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    try:
        _set_up(underlay, fragments)
        underlay.bind((str(address), port))
    except OSError as error:
        underlay.close()
        raise BackendError(f"cannot use udp port {port} of {address}: {str(error.strerror).lower()}") from error
    return underlay


def recover_underlay(fd: int, address: IPv4Address, port: int, *, fragments: bool = False) -> socket.socket | None:
    """The socket that another process, maybe another version, opened for this address and port, set up as ours are.

    None when it is no such socket; then `fd` is closed.
    """
    try:
        underlay = socket.socket(fileno=fd)
    except OSError:
        os.close(fd)
        return None
    try:
        if underlay.family == socket.AF_INET and underlay.getsockname() == (str(address), port):
            underlay.setblocking(False)
            _set_up(underlay, fragments)
            return underlay
    except OSError:
        pass  # as unfit as one of another port
    underlay.close()
    return None


def _set_up(underlay: socket.socket, fragments: bool) -> None:
    underlay.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _IP_PMTUDISC_DONT if fragments else _IP_PMTUDISC_DO)
    underlay.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, _BUFFER_SIZE)
    underlay.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER_SIZE)


def offload(underlay: socket.socket, *, merging: bool = True) -> Offloads:
    """Ask the kernel for all that it can do; not `merging`: datagrams are to come one by one."""
    return Offloads(_accepts(underlay, UDP_SEGMENT, 0), _accepts(underlay, _UDP_GRO, int(merging)) and merging)


def _accepts(underlay: socket.socket, option: int, value: int) -> bool:
    try:
        underlay.setsockopt(SOL_UDP, option, value)
    except OSError:
        return False
    return True


def open_icmp() -> socket.socket:
    """Open the non-blocking socket that sends whole IPv4 packets and receives none (raw(7), IPPROTO_RAW).

    Errors go out through it as the kernel's own do, not back into the TUN: their source is our own address, which the kernel takes
    for a forgery (a martian) in a packet that comes from a device.
    """
    try:
        return socket.socket(socket.AF_INET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.IPPROTO_RAW)
    except OSError as error:
        raise BackendError(f"cannot open a raw socket for icmp errors: {str(error.strerror).lower()}") from error


def path_mtu(address: IPv4Address, peer: Endpoint) -> int:
    """The MTU in bytes that the kernel knows now for packets from `address` to the peer; raises OSError when there is no route."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind((str(address), 0))
        probe.connect(peer)  # sends nothing, looks the route up
        return probe.getsockopt(socket.IPPROTO_IP, _IP_MTU)
