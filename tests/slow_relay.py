"""A TCP relay that hands on what the server says some time later: a slow server, with a network that is as fast as ever."""

from __future__ import annotations

import socket
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from lab.place import Place

CHUNK = 1 << 16


@contextmanager
def slow_relay(place: Place, port: int, to: int, delay_s: float) -> Iterator[None]:
    """Listen on a port of the place and relay to another of its loopback, all answers late by that much."""
    open_now: list[socket.socket] = []
    listener = place.call(socket.create_server, ("0.0.0.0", port))  # noqa: S104  # of a lab

    def accept() -> None:
        with suppress(OSError):  # closed
            while True:
                near, _ = listener.accept()
                far = place.call(socket.create_connection, ("127.0.0.1", to))
                open_now.extend((near, far))
                threading.Thread(target=_copy, args=(near, far), daemon=True).start()
                threading.Thread(target=_copy_late, args=(far, near, delay_s), daemon=True).start()

    accepting = threading.Thread(target=accept)
    accepting.start()
    try:
        yield
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        accepting.join()
        for sock in (listener, *open_now):
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()


def _copy(source: socket.socket, destination: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(CHUNK):
            destination.sendall(data)
        destination.shutdown(socket.SHUT_WR)


def _copy_late(source: socket.socket, destination: socket.socket, delay_s: float) -> None:
    """Each piece at its own time: they do not wait for one another."""
    late: deque[tuple[float, bytes]] = deque()
    more = threading.Condition()

    def deliver() -> None:
        with suppress(OSError):
            while True:
                with more:
                    more.wait_for(lambda: bool(late))
                    at, data = late.popleft()
                time.sleep(max(0.0, at - time.monotonic()))
                if not data:
                    break
                destination.sendall(data)
            destination.shutdown(socket.SHUT_WR)

    threading.Thread(target=deliver, daemon=True).start()
    data = b"?"
    while data:
        try:
            data = source.recv(CHUNK)
        except OSError:
            data = b""
        with more:
            late.append((time.monotonic() + delay_s, data))
            more.notify()
