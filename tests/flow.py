"""A TCP connection over which something flows without a pause, and whose far end reads it all at once."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Event

from flanneld_world import eventually

STALL_S = 60.0
"""An end that can neither send nor receive for so long fails: a retransmission may come late, a black hole never ends."""


class Flow:
    """How much has come through."""

    def __init__(self) -> None:
        self.received = 0

    def await_more(self, count: int) -> None:
        """Wait until so many bytes more have come through, counted from now."""
        until = self.received + count
        eventually(lambda: self.received >= until, f"{count} bytes more than {self.received}", STALL_S)


@contextmanager
def flowing(near: socket.socket, far: socket.socket) -> Iterator[Flow]:
    """The near end sends for as long as this context lasts; all that it has sent arrives."""
    flow, ended = Flow(), Event()
    near.settimeout(STALL_S)
    far.settimeout(STALL_S)

    def send() -> int:
        sent = 0
        while not ended.is_set():
            near.sendall(bytes(1 << 16))
            sent += 1 << 16
        near.shutdown(socket.SHUT_WR)
        return sent

    def receive() -> None:
        while got := len(far.recv(1 << 18)):
            flow.received += got

    with ThreadPoolExecutor(2) as threads:
        receiving, sending = threads.submit(receive), threads.submit(send)
        try:
            yield flow
        finally:
            ended.set()
            sent = sending.result()
            receiving.result()
    assert flow.received == sent
