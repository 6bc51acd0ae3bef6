"""The relay as exabgp's helper program: started with our socket, and never missed; must not know what it relays."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from bgp.speaker import relay
from bgp.speaker.launcher import stock
from bgp.speaker.launcher.settings import Settings

NAME = "relay"
"""What exabgp calls it."""

_write = stock.processes.Processes.write


def mend(*descriptors: int) -> None:
    """Have the relay inherit these; and let it die when it must."""
    stock.processes.subprocess = SimpleNamespace(**vars(subprocess) | {"Popen": partial(subprocess.Popen, pass_fds=descriptors)})
    stock.processes.Processes.write = write


def write(self: Any, process: str, line: str | None, neighbor: object = None) -> bool:
    """Say something to the relay, or to nobody while there is none.

    The stock one raises when the relay has died, which resets the session that it was about, and calls its neighbours broken for
    ever, though the relay is started again at once. A client that comes back asks for everything anew. See whether
    `Processes._broken` is cleared anywhere.
    """
    try:
        return bool(_write(self, process, line, neighbor))
    except (stock.processes.ProcessError, KeyError):
        self._broken.clear()
        return True


def section(settings: Settings, listener: socket.socket, program: int) -> str:
    """The part of a configuration that starts the relay, which every neighbour's must have too."""
    words = (
        interpreter(),
        "-I",
        "-S",
        f"/proc/self/fd/{program}",
        listener.fileno(),
        settings.orphan_s,
        os.getuid(),
        settings.name,
    )
    return f"process {NAME} {{ run {' '.join(map(str, words))}; encoder json; }}\n"


def program() -> int:
    """The relay's text in memory, as a descriptor: who runs it need not be able to read any file of ours."""
    descriptor = os.memfd_create(NAME)
    os.write(descriptor, Path(relay.__file__).read_bytes())
    return descriptor


def interpreter() -> str:
    """A Python that anybody may run, which one of root's own in a private directory is not."""
    own = Path(sys.executable).resolve()
    everybody = all(part.stat().st_mode & 0o001 for part in (own, *own.parents))
    return str(own) if everybody or os.geteuid() != 0 else "/usr/bin/python3"
