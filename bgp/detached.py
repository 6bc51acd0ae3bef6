"""Becoming a process that nobody waits for, with a socket for one daemon and no rights; must not know what it is good for."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeAlias

from flanneld.linux import privileges

Started: TypeAlias = Callable[[int], None]
"""To be called, with the log's descriptor, when no start can fail any more."""


def detach(work: Callable[[Started], int]) -> int:
    """Do the work in another process, and return 0 as soon as it has started, or its exit status when it has ended before.

    In that process, returns what the work does. To be called before there are threads or an event loop.
    """
    running, tell = os.pipe()
    if child := os.fork():
        os.close(tell)
        if os.read(running, 1):
            return 0
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    os.close(running)

    def started(log: int) -> None:
        """Nothing is kept of who started us, so that its end is none of ours."""
        os.setsid()
        with Path(os.devnull).open("r+") as nothing:
            for number, descriptor in enumerate((nothing.fileno(), nothing.fileno(), log)):
                os.dup2(descriptor, number)
        os.write(tell, b"!")
        os.close(tell)

    return work(started)


def listen_privately(path: Path) -> socket.socket:
    """A unix socket for our own user alone, in the place of one that was there; raises OSError.

    A client asks the kernel who listens, and finds the process that has called this.
    """
    with suppress(FileNotFoundError):
        path.unlink()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        listener.bind(str(path))
    except OSError:
        listener.close()
        raise
    finally:
        os.umask(before)
    listener.listen()
    return listener


def give_up_rights(user: str) -> None:
    """Be that user, if we are root and one is named, and have no capability; raises OSError, and KeyError: no such user."""
    if user and os.geteuid() == 0:
        privileges.become(user)
    else:
        privileges.drop_capabilities()
