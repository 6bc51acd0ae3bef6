"""Reads what comes to one local address, and hands it to the session that it is for; must not know what sessions make of it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable

from bgp.bfd import sockets
from bgp.bfd.packet import BfdError, ControlPacket, Drop, decode_control

AT_ONCE = 64
"""Datagrams that are read before others have their turn in the loop: a flood of them must not keep it for itself."""


class Listener:
    """One socket, read in the running event loop from its making on, until `close`."""

    def __init__(self, place: sockets.Place, dropped: Counter[Drop]) -> None:
        """Raises OSError when the address is not there, or somebody else listens."""
        self.takers: dict[str, Callable[[ControlPacket], None]] = {}
        """By the neighbour's address as text: take a packet, or raise BfdError."""
        self._dropped = dropped
        self._socket = sockets.open_receiver(place)
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._socket, self.read, AT_ONCE)

    def read(self, most: int = sockets.MOST_WAITING) -> None:
        """Take what is waiting, at most so many datagrams."""
        for _ in range(most):
            datagram = sockets.receive(self._socket)
            if datagram is None:
                return
            try:
                self._take(datagram)
            except BfdError as error:
                self._dropped[error.drop] += 1

    def close(self) -> None:
        """Listen no more."""
        self._loop.remove_reader(self._socket)
        self._socket.close()

    def _take(self, datagram: sockets.Datagram) -> None:
        if datagram.ttl != sockets.TTL:
            raise BfdError(Drop.TTL, f"ttl {datagram.ttl}, expected {sockets.TTL}")
        taker = self.takers.get(datagram.source)
        if taker is None:
            raise BfdError(Drop.STRANGER, f"sender {datagram.source}, with whom no session is wanted")
        taker(decode_control(datagram.payload))
