"""Telling the service manager how we are (sd_notify(3)); must not know when."""

from __future__ import annotations

import os
import socket
from array import array
from collections.abc import Mapping, MutableMapping

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


def forget(name: str, environ: Mapping[str, str] = os.environ) -> None:
    """Have the service manager let go of all that it keeps by that name."""
    sd_notify(environ, "FDSTOREREMOVE=1", f"FDNAME={name}")


def stored(environ: Mapping[str, str] = os.environ) -> list[str]:
    """Names of the descriptors that the service manager has handed to us, in order (sd_listen_fds(3)); "" where one was taken."""
    count = environ.get("LISTEN_FDS", "")
    if environ.get("LISTEN_PID") != str(os.getpid()) or not count.isdecimal():
        return []
    return environ.get("LISTEN_FDNAMES", "").split(":")[: int(count)]


def take(name: str, environ: MutableMapping[str, str] = os.environ) -> int | None:
    """The first descriptor of that name that was handed to us, now the caller's; no other call will give it out again.

    Once it is closed its number is another's. None: there is none.
    """
    names = stored(environ)
    if name not in names:
        return None
    place = names.index(name)
    names[place] = ""
    environ["LISTEN_FDNAMES"] = ":".join(names)
    try:
        os.set_inheritable(FIRST_DESCRIPTOR + place, False)
    except OSError as error:
        log.warning("service manager gave a descriptor that is not open", name=name, error=error)
        return None
    return FIRST_DESCRIPTOR + place


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
