# ruff: noqa: SLF001  # what exabgp's listener itself uses
"""Who may connect: TTL security (RFC 5082) and passwords (RFC 2385) of sessions that the neighbour opens; must not know routes."""

from __future__ import annotations

import socket
from typing import Any

from bgp.speaker.launcher import stock

TTL = 255
"""What a neighbour that checks it wants to see on the link."""
_IP_MINTTL, _IPV6_MINHOPCOUNT = 21, 73  # linux/in.h, linux/in6.h

_set_accepted_ttl = stock.listening.set_accepted_ttl


def mend() -> None:
    """Put it in place; it may be repeated."""
    stock.listening.set_accepted_ttl = set_accepted_ttl


def set_accepted_ttl(connection: Any, neighbor: Any) -> None:
    """Set what an accepted connection is sent with, and with how little it may be received.

    The stock one does the former only, and `incoming-ttl` holds for connections that we open. See whether it sets IP_MINTTL.
    """
    _set_accepted_ttl(connection, neighbor)
    stock.tcp.set_minimum_ttl(connection.io, connection.afi, connection.peer, neighbor["incoming-ttl"])


def answer_from_nearby(listener: socket.socket) -> None:
    """Let connections be accepted with the highest TTL; raises OSError.

    exabgp sets the TTL of an accepted connection when the SYN-ACK is gone already, which a neighbour that checks drops. See whether
    `Listener._new_socket` sets IP_TTL.
    """
    if listener.family == socket.AF_INET6:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, TTL)
    else:
        listener.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, TTL)


def guard(reactor: Any) -> None:
    """Have the kernel refuse connections from farther away than any neighbour is; to be repeated when neighbours come or go.

    One socket listens for all, so a single neighbour without TTL security opens it; each accepted connection is guarded on its own.
    """
    for listener in reactor.listener._sockets:
        ipv6 = listener.family == socket.AF_INET6
        neighbors = [neighbor for neighbor in reactor.configuration.neighbors.values() if neighbor["peer-address"].ipv6() is ipv6]
        least = min((neighbor["incoming-ttl"] or 0 for neighbor in neighbors), default=0)
        if ipv6:
            listener.setsockopt(socket.IPPROTO_IPV6, _IPV6_MINHOPCOUNT, least)
        else:
            listener.setsockopt(socket.IPPROTO_IP, _IP_MINTTL, least)


def set_password(reactor: Any, neighbor: Any, *, known: bool) -> bool:
    """Have the kernel know the neighbour's password on all that listens, or, unless it is `known`, forget it; false: it refuses."""
    password = neighbor["md5-password"] if known else None
    peer = neighbor["peer-address"]
    return all(
        reactor.listener.listen_on(ip, peer, reactor._port, password, neighbor["md5-base64"] if known else False, None)
        for ip in reactor._ips
        if ip.afi == peer.afi
    )
