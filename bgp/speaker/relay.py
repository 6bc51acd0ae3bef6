"""Stands between exabgp, which waits for whoever reads it, and the daemon, which may be slow or away; must not know BGP.

    python3 -I -S relay.py LISTENER ORPHAN_S UID SETTINGS

Its standard input is always read at once: while nobody reads, exabgp would let every session's hold time run out. Lines from there
go to the client of the unix socket that LISTENER is the number of, lines from the client to standard output, nothing is kept. There
is one client at a time, of user root or UID, and a new one takes the place of the old: of two daemons the later is right. Each is
greeted with a line that names exabgp's process and SETTINGS. When there has been no client for ORPHAN_S, exabgp is told to leave.

It needs nothing but the standard library, and no file that its user must be able to read.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import struct
import sys
import time
from dataclasses import dataclass, field

NAME = "relay"
"""What exabgp calls it."""
CHUNK = 1 << 16
MOST_UNREAD = 64 << 20
"""Bytes that a client may leave unread: then it is dropped, and will ask for everything anew when it is back."""
MOST_COMMANDS = 4 << 20
"""Bytes of commands that wait for exabgp; a client with more is not read meanwhile."""
LEAVE_S = 10.0
"""For exabgp to leave when it is told to; then it is stuck, and killed: nobody else would ever do it."""
LAST_WORDS_S = 1.0
UCRED = struct.Struct("=iII")
"""struct ucred: pid, uid, gid."""


@dataclass
class Client:
    """Who is connected, and what is on the way."""

    socket: socket.socket
    outgoing: bytearray = field(default_factory=bytearray)
    incoming: bytearray = field(default_factory=bytearray)
    """The beginning of a line."""


class Relay:
    """Two pipes and one client."""

    def __init__(self, listener: socket.socket, orphan_s: float, uid: int, greeting: bytes) -> None:
        """`greeting` is a line."""
        listener.setblocking(False)
        self._listener, self._orphan_s, self._uid, self._greeting = listener, orphan_s, uid, greeting
        self._client: Client | None = None
        self._started = bytearray()
        """The beginning of a line of exabgp's: a client that comes in its middle hears from the next on."""
        self._commands = bytearray()
        self._exabgp = os.getppid()
        self._deadline = time.monotonic() + orphan_s
        self._leaving = False

    def run(self) -> None:
        """Relay until exabgp has ended."""
        os.set_blocking(0, False)
        os.set_blocking(1, False)
        while self._turn():
            if self._client is None and time.monotonic() >= self._deadline:
                self._give_up()

    def _turn(self) -> bool:
        """Wait, and serve whatever is ready; false when exabgp has hung up."""
        ready = dict(self._poll())
        if 0 in ready and not self._hear():
            return False
        if 1 in ready:
            self._command()
        if (client := self._client) is not None and (events := ready.get(client.socket.fileno(), 0)):
            try:
                self._serve(client, events)
            except OSError:
                self._drop()
        if self._listener.fileno() in ready:
            self._accept()
        return True

    def _poll(self) -> list[tuple[int, int]]:
        poll = select.poll()
        poll.register(0, select.POLLIN)
        poll.register(self._listener, select.POLLIN)
        if self._commands:
            poll.register(1, select.POLLOUT)
        if self._client is None:
            return poll.poll(max(0.0, self._deadline - time.monotonic()) * 1000 + 1)
        reading = select.POLLIN if len(self._commands) < MOST_COMMANDS else 0
        poll.register(self._client.socket, reading | (select.POLLOUT if self._client.outgoing else 0))
        return poll.poll()

    def _hear(self) -> bool:
        """Take what exabgp says; false when it has hung up."""
        try:
            data = os.read(0, CHUNK)
        except BlockingIOError:
            return True
        if not data:
            self._last_words()
            return False
        self._started += data
        end = self._started.rfind(b"\n") + 1
        if self._client is not None:
            self._client.outgoing += self._started[:end]
            if len(self._client.outgoing) > MOST_UNREAD:
                self._drop()
        del self._started[:end]
        return True

    def _last_words(self) -> None:
        """Let the client hear all that exabgp has said."""
        if self._client is not None:
            with contextlib.suppress(OSError):
                self._client.socket.settimeout(LAST_WORDS_S)
                self._client.socket.sendall(self._client.outgoing)

    def _command(self) -> None:
        with contextlib.suppress(OSError):  # when it has gone, standard input ends too
            del self._commands[: os.write(1, self._commands[:CHUNK])]

    def _serve(self, client: Client, events: int) -> None:
        """Send and receive; raises OSError when the client has gone."""
        if events & select.POLLOUT:
            with contextlib.suppress(BlockingIOError):
                del client.outgoing[: client.socket.send(client.outgoing[:CHUNK])]
        if events & ~select.POLLOUT:
            try:
                data = client.socket.recv(CHUNK)
            except BlockingIOError:
                return
            client.incoming += data
            if not data or len(client.incoming) > MOST_COMMANDS:
                raise ConnectionResetError
            end = client.incoming.rfind(b"\n") + 1
            self._commands += client.incoming[:end]
            del client.incoming[:end]

    def _accept(self) -> None:
        try:
            accepted, _ = self._listener.accept()
        except OSError:
            return  # it has gone already
        if peer_uid(accepted) not in (0, self._uid):
            accepted.close()
            return
        self._drop()
        accepted.setblocking(False)
        self._client = Client(accepted, bytearray(self._greeting))

    def _drop(self) -> None:
        if self._client is not None:
            self._client.socket.close()
            self._client = None
        self._deadline = time.monotonic() + self._orphan_s

    def _give_up(self) -> None:
        """Nobody has come: exabgp's neighbours are to forget what it announced, and it is to end."""
        if self._leaving and os.getppid() == self._exabgp:
            os.kill(self._exabgp, signal.SIGKILL)
        self._commands += b"leave\n"
        self._leaving = True
        self._deadline = time.monotonic() + LEAVE_S


def peer_uid(peer: socket.socket) -> int:
    """Whose process is at the other end."""
    return int(UCRED.unpack(peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, UCRED.size))[1])


def greeting(settings: str) -> bytes:
    """The line that a client hears first."""
    return b'{"speaker": "hello", "pid": %d, "settings": "%s"}\n' % (os.getppid(), settings.encode())


def main() -> None:
    """Relay for the process that started this one."""
    number, orphan_s, uid, settings = sys.argv[1:]
    with socket.socket(fileno=int(number)) as listener:
        Relay(listener, float(orphan_s), int(uid), greeting(settings)).run()


if __name__ == "__main__":
    main()
