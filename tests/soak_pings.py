"""Echoes between all pods all the time, from one thread: what became of each, so that outages are exact."""

from __future__ import annotations

import selectors
import socket
import struct
import threading
import time
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from flanneld.wire.checksum import checksum
from lab.pods import Pod
from traffic import address_of

INTERVAL_S = 0.02
LATE_S = 2.0
"""What has not come back by then is lost."""
ECHO = struct.Struct("!BBHHHHHI")
"""Type, code, checksum, identifier, sequence; then ours: from, to, number."""
ECHO_REQUEST, ECHO_REPLY, IDENTIFIER = 8, 0, 0x7A27
IP_HEADER = 20
SO_RCVBUFFORCE, ROOM = 33, 8 << 20
"""What comes while this thread waits for a core is late, not lost."""


@dataclass
class Pair:
    """The echoes from one pod to another."""

    source: int
    destination: int
    sent_at: array[float] = field(default_factory=lambda: array("d"))
    answered: bytearray = field(default_factory=bytearray)
    refused: dict[int, str] = field(default_factory=dict)
    """Echoes that the sender's own kernel did not send, and why."""

    def outage_s(self, begin: float, end: float) -> float:
        """The longest time without an answer among those sent between these moments; 0: none was lost."""
        longest, since = 0.0, None
        first = next((n for n in range(len(self.sent_at) - 1, -1, -1) if self.sent_at[n] < begin), 0)
        for number in range(first, len(self.answered)):  # what the other thread has completed
            sent, answered = self.sent_at[number], self.answered[number]
            if sent > end:
                break
            since = None if answered else since if since is not None else sent
            if since is not None:
                longest = max(longest, sent - since + INTERVAL_S)
        return longest


class Pinger:
    """Every pod to every other, until stopped."""

    def __init__(self, pods: dict[str, Pod]) -> None:
        self.names = list(pods)
        self._addresses = [str(address_of(pod)) for pod in pods.values()]
        self._sockets = [pod.call(socket.socket, socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) for pod in pods.values()]
        places = range(len(pods))
        self.pairs = {(a, b): Pair(a, b) for a in places for b in places if a != b}
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pinger")

    def lost_between(self, begin: float, end: float) -> dict[str, float]:
        """The pairs that lost anything in that time, and for how long; ask no sooner than LATE_S afterwards."""
        outages = {f"{self.names[a]}->{self.names[b]}": pair.outage_s(begin, end) for (a, b), pair in self.pairs.items()}
        return {pair: round(outage, 3) for pair, outage in outages.items() if outage}

    def refused_between(self, begin: float, end: float) -> dict[str, str]:
        """What senders' own kernels said in that time."""
        return {
            f"{self.names[a]}->{self.names[b]}": why
            for (a, b), pair in self.pairs.items()
            for number, why in pair.refused.items()
            if begin <= pair.sent_at[number] <= end
        }

    def _run(self) -> None:
        with selectors.DefaultSelector() as selector:
            for sock in self._sockets:
                sock.setblocking(False)
                sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, ROOM)
                selector.register(sock, selectors.EVENT_READ)
            next_at = time.monotonic()
            while not self._end.is_set():
                for key, _ in selector.select(max(0.0, next_at - time.monotonic())):
                    self._receive(key.fileobj)  # type: ignore[arg-type]  # what was registered
                if time.monotonic() >= next_at:
                    self._send_all()
                    next_at += INTERVAL_S

    def _send_all(self) -> None:
        for (source, destination), pair in self.pairs.items():
            number = len(pair.sent_at)
            echo = ECHO.pack(ECHO_REQUEST, 0, 0, IDENTIFIER, number & 0xFFFF, source, destination, number)
            echo = ECHO.pack(ECHO_REQUEST, 0, checksum(echo), IDENTIFIER, number & 0xFFFF, source, destination, number)
            pair.sent_at.append(time.monotonic())
            pair.answered.append(0)
            try:
                self._sockets[source].sendto(echo, (self._addresses[destination], 0))
            except OSError as error:
                pair.refused[number] = str(error)  # no route now, a full queue: as good as lost

    def _receive(self, sock: socket.socket) -> None:
        while True:
            try:
                packet = sock.recv(256)
            except OSError:
                return
            if len(packet) < IP_HEADER + ECHO.size:
                continue
            kind, _, _, identifier, _, source, destination, number = ECHO.unpack_from(packet, IP_HEADER)
            pair = self.pairs.get((source, destination))
            if kind != ECHO_REPLY or identifier != IDENTIFIER or pair is None or number >= len(pair.sent_at):
                continue
            if time.monotonic() - pair.sent_at[number] < LATE_S:
                pair.answered[number] = 1

    @contextmanager
    def running(self) -> Iterator[Pinger]:
        """Ping within the context."""
        self._thread.start()
        try:
            yield self
        finally:
            self._end.set()
            self._thread.join()
            for sock in self._sockets:
                sock.close()
