# ruff: noqa: SLF001  # what exabgp's listener itself uses
"""From settings to a running exabgp: what needs root first, then as somebody else; must not know what it is told later."""

from __future__ import annotations

import errno
import os
import pkgutil
import socket
import sys
from importlib import import_module
from typing import Any

from bgp.bounded_log import BoundedLog
from bgp.detached import Started, give_up_rights, listen_privately
from bgp.speaker.launcher import commands, evpn, gtsm, helper, order, ribs, stock, timers, turns
from bgp.speaker.launcher.settings import Settings
from flanneld.lease import IPAddress

FAILED, PORT_TAKEN, UNFIT = 1, 3, 4
"""Exit statuses: something else; another router has the port; not with this exabgp."""
BACKLOG = 200
PARTS = ("bgp", "configuration", "debug", "environment", "logger", "protocol", "reactor", "rib", "util")
"""Of the package, what a server may come to use."""


class NotStarted(Exception):
    """Why it cannot be, and the exit status that says so."""

    def __init__(self, why: str, status: int = FAILED) -> None:
        super().__init__(why)
        self.status = status


def start(settings: Settings, started: Started) -> int:
    """Run exabgp to its end, and return the exit status."""
    try:
        reactor, log = prepare(settings)
    except NotStarted as error:
        print(error, file=sys.stderr)  # noqa: T201  # whoever has started us reads it
        return error.status
    started(log.fileno())
    sys.stderr = log
    stock.log.init(stock.getenv())
    return int(reactor.run())


def prepare(settings: Settings) -> tuple[Any, BoundedLog]:
    """A reactor that is ready to run, and the log, without privileges; raises NotStarted."""
    if why := stock.unfit():
        raise NotStarted(why, UNFIT)
    load()
    listeners = {(str(address), settings.port): listen(address, settings.port) for address in settings.listen}
    try:
        log = BoundedLog(settings.log)
        relay, program = listen_privately(settings.socket), helper.program()
        section = helper.section(settings, relay, program)
        give_up_rights(settings.user)
    except OSError as error:
        raise NotStarted(f"cannot start in {settings.directory} as {settings.user}: {error}") from error
    except KeyError as error:
        raise NotStarted(f"no user {settings.user}") from error
    mend(section, relay.detach(), program)
    stock.log.init(stock.getenv())
    reactor = stock.Reactor(stock.Configuration([section], text=True))
    for place, listener in listeners.items():
        reactor.listener._sockets[listener] = (*place, "", None)
        reactor.listener.serving = True
    return reactor, log


def mend(section: str, *descriptors: int) -> None:
    """Mend and extend exabgp."""
    helper.mend(*descriptors)
    for part in (evpn, gtsm, order, ribs, timers, turns):
        part.mend()
    commands.register(section)


def load() -> None:
    """Import what exabgp would import when it is needed: its files may be unreadable then."""
    for part in PARTS:
        package = import_module(f"exabgp.{part}")
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            import_module(module.name)


def listen(address: IPAddress, port: int) -> socket.socket:
    """A socket for neighbours, as exabgp would make it; raises NotStarted."""
    family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        gtsm.answer_from_nearby(listener)
        listener.bind((str(address), port))
        listener.listen(BACKLOG)
    except OSError as error:
        taken = error.errno == errno.EADDRINUSE
        why = "another router on this host has it" if taken else os.strerror(error.errno or 0).lower()
        raise NotStarted(f"cannot listen on {address} port {port}: {why}", PORT_TAKEN if taken else FAILED) from error
    return listener
