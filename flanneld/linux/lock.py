"""Claims that only one process per network namespace can hold, without a file: abstract unix sockets (unix(7))."""

from __future__ import annotations

import errno
import hashlib
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from flanneld import FlanneldError


@contextmanager
def hold(name: str, what: str) -> Iterator[None]:
    """Hold `name`; raises FlanneldError naming `what` when another process does. The kernel lets go when we die, however we die."""
    # sun_path holds 108 bytes, a file's path up to 4096.
    digest = hashlib.sha256(os.fsencode(name)).hexdigest()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as claim:
        try:
            claim.bind(f"\0flanneld {digest}")
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            raise FlanneldError(f"another flanneld on this host already serves {what}") from None
        yield
