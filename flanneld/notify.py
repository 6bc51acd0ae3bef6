"""Telling the service manager how we are (sd_notify(3)); must not know when."""

from __future__ import annotations

import os
import socket
from array import array
from collections.abc import Mapping

from flanneld.log import Log

SEND_TIMEOUT_S = 1.0
FIRST_DESCRIPTOR = 3
"""SD_LISTEN_FDS_START."""

log = Log(__name__)


def ready(environ: Mapping[str, str] = os.environ) -> None:
    """We serve: units ordered after ours may start."""
    sd_notify(environ, "READY=1")


def stopping(environ: Mapping[str, str] = os.environ) -> None:
    """We are on our way out, on purpose."""
    sd_notify(environ, "STOPPING=1")


def store(name: str, descriptor: int, environ: Mapping[str, str] = os.environ) -> None:
    """Have the service manager keep a copy of the descriptor until our next run (FileDescriptorStoreMax=)."""
    sd_notify(environ, "FDSTORE=1", f"FDNAME={name}", descriptors=(descriptor,))


def stored(environ: Mapping[str, str] = os.environ) -> dict[str, int]:
    """The descriptors that the service manager hands to us, by name (sd_listen_fds(3)); they are the caller's now."""
    if environ.get("LISTEN_PID") != str(os.getpid()):
        return {}
    names = environ.get("LISTEN_FDNAMES", "").split(":")
    found = {}
    for place, name in zip(range(int(environ.get("LISTEN_FDS", "0"))), names, strict=False):
        os.set_inheritable(FIRST_DESCRIPTOR + place, False)
        found[name] = FIRST_DESCRIPTOR + place
    return found


def sd_notify(environ: Mapping[str, str], *states: str, descriptors: tuple[int, ...] = ()) -> None:
    """Send the states, and descriptors, to $NOTIFY_SOCKET in one datagram, or do nothing without one.

    A manager that does not listen is logged only: peers need us more than it does.
    """
    address = os.fsencode(environ.get("NOTIFY_SOCKET", ""))
    if not address:
        return
    if address.startswith(b"@"):
        address = b"\0" + address[1:]  # an abstract address (unix(7)), whose zero byte no environment can carry
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.settimeout(SEND_TIMEOUT_S)
        try:
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", descriptors))] if descriptors else []
            sender.sendmsg(["\n".join(states).encode()], rights, 0, address)  # Python's send_fds ignores an address
        except OSError as error:
            log.warning("service manager cannot be told", states=",".join(states), socket=environ["NOTIFY_SOCKET"], error=error)
