"""Open descriptors that outlive the daemon, so that its next run goes on where this one stopped; must not know what they are.

Under a service manager it keeps them (sd_notify(3): FDSTORE, needs FileDescriptorStoreMax=). Without one a small process does
(`holder`), which is found by a name in the network namespace.
"""

from __future__ import annotations

import errno
import hashlib
import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from flanneld import notify
from flanneld.linux.holder import MOST_BYTES, MOST_DESCRIPTORS
from flanneld.log import Log

log = Log(__name__)

PATIENCE_S = 2.0
"""For an answer of the holder; it has nothing else to do."""


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


def open_safe(name: str, environ: Mapping[str, str] = os.environ) -> Safe | None:
    """The safe of that name; None, with a line in the log, when there can be none: then the next run starts anew."""
    if environ.get("NOTIFY_SOCKET"):
        return ManagersSafe(name, environ)
    try:
        return HoldersSafe(name)
    except OSError as error:
        log.warning("descriptors are not kept for the next run", name=name, why=error)
        return None


class ManagersSafe:
    """The service manager's file descriptor store. The names in it say whose they are."""

    def __init__(self, name: str, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self._label = hashlib.sha256(name.encode()).hexdigest()[:16]
        """The store allows no blanks, colons and so on in names."""
        self._found = {
            key.partition("-")[2]: descriptor
            for key, descriptor in notify.stored(environ).items()
            if key.partition("-")[0] == self._label
        }

    def take(self, key: str) -> int | None:
        return self._found.pop(key, None)

    def put(self, key: str, descriptor: int) -> None:
        self.drop(key)  # or there would be two of that name
        notify.store(f"{self._label}-{key}", descriptor, self._environ)

    def drop(self, key: str) -> None:
        notify.sd_notify(self._environ, "FDSTOREREMOVE=1", f"FDNAME={self._label}-{key}")

    def close(self) -> None:
        for descriptor in self._found.values():
            os.close(descriptor)
        self._found.clear()


class HoldersSafe:
    """A connection to the holder of that name, which is started if there is none."""

    def __init__(self, name: str) -> None:
        """Raises OSError: it cannot be started, or another daemon is connected."""
        address = f"\0flanneld holder {hashlib.sha256(name.encode()).hexdigest()}"
        self._connection = _connect(address)
        self._found: dict[str, int] = {}
        try:
            self._connection.settimeout(PATIENCE_S)
            while True:
                message, descriptors, _, _ = socket.recv_fds(self._connection, MOST_BYTES, MOST_DESCRIPTORS)
                if not descriptors:
                    break
                self._found[message.decode()] = descriptors[0]
            if message != b"\0":
                raise ConnectionResetError(errno.ECONNRESET, "the holder hung up")
        except BaseException:
            self.close()
            raise

    def take(self, key: str) -> int | None:
        return self._found.pop(key, None)

    def put(self, key: str, descriptor: int) -> None:
        self._say(f"+{key}", descriptor)

    def drop(self, key: str) -> None:
        self._say(f"-{key}")

    def close(self) -> None:
        self._connection.close()
        for descriptor in self._found.values():
            os.close(descriptor)
        self._found.clear()

    def _say(self, message: str, *descriptors: int) -> None:
        try:
            socket.send_fds(self._connection, [message.encode()], descriptors)
            self._connection.recv(1)  # a device that is let go has to be gone before another takes its name
        except OSError as error:
            log.warning("descriptors are not kept for the next run", message=message, why=error)


def _connect(address: str) -> socket.socket:
    """A connection to the holder, one that we start if need be; raises OSError."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with listener:
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
