"""The relay as exabgp's helper program: started with our socket, and never missed; must not know what it relays."""

from __future__ import annotations

import errno
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
    arguments = (f"/proc/self/fd/{program}", listener.fileno(), settings.orphan_s, os.getuid(), settings.name)
    run = f'"{interpreter()}" -I -S {" ".join(map(str, arguments))}'
    return f"process {relay.NAME} {{ run {run}; encoder json; }}\n"


def program() -> int:
    """The relay's text in memory, as a descriptor: who runs it need not be able to read any file of ours."""
    descriptor = os.memfd_create(relay.NAME)
    os.write(descriptor, Path(relay.__file__).read_bytes())
    return descriptor


def interpreter() -> Path:
    """A Python that whoever the relay is run by may run, which one in a directory of root's is not. Raises OSError."""
    for python in (Path(sys.executable).resolve(), Path("/usr/bin/python3").resolve()):
        if os.geteuid() != 0 or all(part.stat().st_mode & 0o001 for part in (python, *python.parents)):
            return python
    raise FileNotFoundError(errno.ENOENT, "no interpreter that everybody may run")
