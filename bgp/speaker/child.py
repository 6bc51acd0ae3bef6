"""exabgp's process, as `process` starts, finds and ends it; must not know what is said to it."""

from __future__ import annotations

import asyncio
import hashlib
import importlib.metadata
import sys
from dataclasses import replace
from pathlib import Path

from bgp import bounded_log, detached, process
from bgp.process import ProcessError, Program
from bgp.speaker.launcher.settings import Settings
from bgp.speaker.news import SpeakerError
from flanneld.lease import IPAddress

LAUNCHER = "bgp.speaker.launcher"


def settings_for(directory: Path, listen: tuple[IPAddress, ...], port: int, user: str | None, orphan_s: float) -> Settings:
    """Name the settings, by themselves and by the program; raises SpeakerError when there is no user to become."""
    try:
        settings = Settings(directory, listen, port, process.user_to_become(user, "exabgp"), orphan_s, "")
    except ProcessError as error:
        raise SpeakerError(str(error)) from error
    parts = [repr(settings).encode(), importlib.metadata.version("exabgp").encode(), sys.version.encode()]
    here = Path(__file__).parent
    files = [Path(str(module.__file__)) for module in (bounded_log, detached)]
    parts += [file.read_bytes() for file in (*files, here / "relay.py", *sorted((here / "launcher").glob("*.py")))]
    return replace(settings, name=hashlib.sha256(b"\0".join(parts)).hexdigest()[:32])


def program(settings: Settings) -> Program:
    """What runs by these settings."""
    return Program("exabgp", LAUNCHER, settings.directory, settings.socket, tuple(settings.arguments()))


async def start(settings: Settings) -> None:
    """Start it; when this returns it listens, for neighbours and for us. Raises ProcessError with its reason."""
    await process.start(program(settings))


async def connect(settings: Settings) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, int]:
    """Connect to the one that runs, whose process id is the last value; raises ProcessError: it is not ours; OSError: none runs."""
    return await process.connect(settings.socket)


async def end(settings: Settings, pid: int, patience_s: float = 0.0) -> None:
    """As `process.end`."""
    await process.end(program(settings), pid, patience_s)
