"""Telling the service manager how we are (sd_notify(3)); must not know when."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping

from flanneld.log import Log

SEND_TIMEOUT_S = 1.0

log = Log(__name__)


def ready(environ: Mapping[str, str] = os.environ) -> None:
    """We serve: units ordered after ours may start."""
    sd_notify(environ, "READY=1")


def stopping(environ: Mapping[str, str] = os.environ) -> None:
    """We are on our way out, on purpose."""
    sd_notify(environ, "STOPPING=1")


def sd_notify(environ: Mapping[str, str], *states: str) -> None:
    """Send the states to $NOTIFY_SOCKET in one datagram, or do nothing without one.

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
            sender.sendto("\n".join(states).encode(), address)
        except OSError as error:
            log.warning("service manager cannot be told", states=",".join(states), socket=environ["NOTIFY_SOCKET"], error=error)
