"""Open descriptors that outlive the daemon, so that its next run goes on where this one stopped; must not know what they are.

Under a service manager it keeps them (sd_notify(3): FDSTORE, needs FileDescriptorStoreMax=), until we say otherwise. Without one a
small process does (`holder`), which is found by a name in the network namespace.
"""

from __future__ import annotations

import errno
import hashlib
import os
import socket
import subprocess
import sys
from collections.abc import MutableMapping
from pathlib import Path
from typing import Protocol

from flanneld import notify
from flanneld.linux.holder import DONE, MOST_BYTES, MOST_DESCRIPTORS, peer_uid
from flanneld.log import Log

log = Log(__name__)

PATIENCE_S = 2.0
"""For an answer of the holder; it has nothing else to do."""
ATTEMPTS = 3
"""A holder with nothing left to keep may be about to end: then its name is free, and the next attempt starts another."""
STORED = "flanneld-"
"""What the names of ours begin with, among all that a service manager may hand to us."""


class Safe(Protocol):
    """A place for descriptors, by name."""

    def take(self, key: str) -> int | None:
        """The descriptor that an earlier run put here, now the caller's; None: there is none, or it was taken."""

    def put(self, key: str, descriptor: int) -> None:
        """Keep a copy of it, in the place of what has that name."""

    def drop(self, key: str) -> None:
        """Let go of what has that name; nothing happens when nothing has."""

    def close(self) -> None:
        """Leave what is kept to our next run."""


def open_safe(name: str, environ: MutableMapping[str, str] = os.environ) -> Safe | None:
    """The safe of that name; None, with a line in the log, when there can be none: then the next run starts anew."""
    if environ.get("NOTIFY_SOCKET"):
        return ManagersSafe(name, environ)
    try:
        return HoldersSafe(name)
    except OSError as error:
        log.warning("descriptors are not kept for the next run", name=name, why=error)
        return None


def let_go_unclaimed(environ: MutableMapping[str, str] = os.environ) -> None:
    """Let go of what an earlier run had the service manager keep and this one has not taken: it was for another config."""
    for name in notify.stored(environ):
        if name.startswith(STORED):
            notify.forget(name, environ)
            while (descriptor := notify.take(name, environ)) is not None:
                os.close(descriptor)


class ManagersSafe:
    """The service manager's file descriptor store."""

    def __init__(self, name: str, environ: MutableMapping[str, str]) -> None:
        self._environ = environ
        self._prefix = f"{STORED}{name}-"

    def take(self, key: str) -> int | None:
        return notify.take(self._prefix + key, self._environ)

    def put(self, key: str, descriptor: int) -> None:
        self.drop(key)  # or there would be two of that name
        notify.store(self._prefix + key, descriptor, self._environ)

    def drop(self, key: str) -> None:
        notify.forget(self._prefix + key, self._environ)
        if (left := self.take(key)) is not None:
            os.close(left)

    def close(self) -> None:
        """What has not been taken stays to be taken."""


class HoldersSafe:
    """A connection to the holder of that name, which is started if there is none."""

    def __init__(self, name: str) -> None:
        """Raises OSError: it cannot be started, another daemon is connected, or another user's process has its name."""
        address = f"\0flanneld holder {hashlib.sha256(name.encode()).hexdigest()}"
        for attempt in range(ATTEMPTS):
            try:
                self._connection, self._found = _greeted(address)
                return
            except ConnectionError:
                if attempt == ATTEMPTS - 1:
                    raise

    def take(self, key: str) -> int | None:
        return self._found.pop(key, None)

    def put(self, key: str, descriptor: int) -> None:
        self._say(f"+{key}", descriptor)

    def drop(self, key: str) -> None:
        self._say(f"-{key}")

    def close(self) -> None:
        self._connection.close()
        _close_all(self._found)

    def _say(self, message: str, *descriptors: int) -> None:
        """Returns when it is done: what was let go is free for others then, a port for example."""
        try:
            socket.send_fds(self._connection, [message.encode()], descriptors)
            if self._connection.recv(len(DONE)) != DONE:
                raise _hung_up()
        except OSError as error:
            log.warning("descriptors are not kept for the next run", message=message, why=error)


def _hung_up() -> ConnectionResetError:
    return ConnectionResetError(errno.ECONNRESET, "the holder hung up")


def _close_all(found: dict[str, int]) -> None:
    for descriptor in found.values():
        os.close(descriptor)
    found.clear()


def _greeted(address: str) -> tuple[socket.socket, dict[str, int]]:
    """A connection to the holder, and all that it keeps; raises OSError."""
    connection, found = _connect(address), dict[str, int]()
    try:
        if (uid := peer_uid(connection)) != os.geteuid():  # anybody may take a free name, and would be given the pods' packets
            raise PermissionError(errno.EPERM, f"user id {uid} has taken the holder's name, expected {os.geteuid()}")
        while True:
            message, descriptors, _, _ = socket.recv_fds(connection, MOST_BYTES, MOST_DESCRIPTORS)
            if message == DONE:
                return connection, found
            if not descriptors:
                raise _hung_up()
            os.set_inheritable(descriptors[0], False)  # as Python does wherever it opens something, but not here
            found[message.decode()] = descriptors[0]
    except BaseException:
        connection.close()
        _close_all(found)
        raise


def _connect(address: str) -> socket.socket:
    """A connection to the holder, one that we start if need be; raises OSError."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        try:
            listener.bind(address)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
        else:
            listener.listen(4)
            _start_holder(listener)
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        connection.settimeout(PATIENCE_S)
        connection.connect(address)
    except OSError:
        connection.close()
        raise
    return connection


def _start_holder(listener: socket.socket) -> None:
    """It lives on when we do not, and has nothing of ours but the listener."""
    program = Path(__file__).with_name("holder.py")
    quiet = subprocess.DEVNULL
    subprocess.run(
        [sys.executable, "-I", "-S", str(program), str(listener.fileno())],
        stdin=quiet,
        stdout=quiet,
        stderr=quiet,
        cwd="/",
        env={},
        pass_fds=(listener.fileno(),),
        start_new_session=True,
        check=False,  # a connection will show
    )
