"""exabgp's process: found, started, ended; must not know what is said to it.

It lives on when the daemon ends, and is nobody's child; so it is found by its socket, which only our user can have made, and known
by what the kernel and it say of itself. Nothing is ended that is not known so.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib.metadata
import os
import pwd
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from bgp.speaker.launcher.settings import Settings
from bgp.speaker.news import SpeakerError
from bgp.speaker.relay import UCRED
from flanneld.lease import IPAddress
from flanneld.log import Log

log = Log(__name__)

LAUNCHER = "bgp.speaker.launcher"
START_S = 20.0
"""It takes 0.3 s; on a host that boots, everything does at once."""
END_S = 3.0
"""After SIGTERM; then SIGKILL."""
USERS = ("exabgp", "nobody")
"""Who it becomes: the first of them that there is."""


def settings_for(directory: Path, listen: tuple[IPAddress, ...], port: int, user: str | None, orphan_s: float) -> Settings:
    """Name the settings, by themselves and by the program; raises SpeakerError when there is no user to become."""
    chosen = "" if os.geteuid() != 0 else user or next(filter(_is_user, USERS), "")
    if os.geteuid() == 0 and not _is_user(chosen):
        raise SpeakerError(f"no user {chosen or ' and no user '.join(USERS)} for exabgp to be")
    settings = Settings(directory, listen, port, chosen, orphan_s, "")
    parts = [repr(settings).encode(), importlib.metadata.version("exabgp").encode(), sys.version.encode()]
    here = Path(__file__).parent
    parts += [file.read_bytes() for file in (here / "relay.py", *sorted((here / "launcher").glob("*.py")))]
    return replace(settings, name=hashlib.sha256(b"\0".join(parts)).hexdigest()[:32])


def _is_user(name: str) -> bool:
    with suppress(KeyError):
        return bool(pwd.getpwnam(name))
    return False


async def start(settings: Settings) -> None:
    """Start it; when this returns it listens, for neighbours and for us. Raises SpeakerError with its reason."""
    settings.directory.mkdir(0o700, parents=True, exist_ok=True)
    program = (sys.executable, "-I", "-m", LAUNCHER, *settings.arguments())
    try:
        async with asyncio.timeout(START_S):
            status, said = await _launched(program)
    except TimeoutError as error:
        raise SpeakerError(f"exabgp has not started within {START_S:.0f} s") from error
    if status != 0:
        last = said.strip().rpartition("\n")[2]
        raise SpeakerError(last or f"exabgp's launcher has ended with exit status {status}")


async def _launched(program: tuple[str, ...]) -> tuple[int | None, str]:
    """The exit status of the launcher, and what it has said; when this is cancelled, it has done nothing."""
    quiet, pipe = asyncio.subprocess.DEVNULL, asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *program,
        stdin=quiet,
        stdout=quiet,
        stderr=pipe,
        cwd="/",
        env={},  # in ours there may be secrets of the store's
        start_new_session=True,
    )
    try:
        _, said = await process.communicate()
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)  # with what it has forked, which has a session of its own when it runs
            await process.communicate()
    return process.returncode, said.decode(errors="replace")


async def connect(settings: Settings) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, int]:
    """Connect to the one that runs, whose process id is the last value; raises SpeakerError: it is not ours; OSError: none runs."""
    reader, writer = await asyncio.open_unix_connection(settings.socket)
    peer = writer.get_extra_info("socket")
    pid, uid, _ = UCRED.unpack(peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, UCRED.size))
    if uid != os.geteuid():
        writer.transport.abort()
        raise SpeakerError(f"{settings.socket} is of user id {uid}, expected {os.geteuid()}")
    return reader, writer, pid


async def end(settings: Settings, pid: int, patience_s: float = 0.0) -> None:
    """End it, whether it wants to or not, when it has not ended by itself after `patience_s`.

    Nothing happens when it has ended, or the number is another process's by now.
    """
    with _opened(settings, pid) as process:
        if process is None or await _ended(process, patience_s):
            return
        log.warning("exabgp is ended", pid=pid)
        for number in (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(process, number)
            if await _ended(process, END_S):
                return


@contextmanager
def _opened(settings: Settings, pid: int) -> Iterator[int | None]:
    """A descriptor of the process, if it is the launcher's for this directory."""
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        yield None
        return
    try:
        with suppress(OSError):
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            if LAUNCHER.encode() in words and f"--directory={settings.directory}".encode() in words:
                yield process
                return
        yield None
    finally:
        os.close(process)


async def _ended(process: int, within_s: float) -> bool:
    """Whether the process of a pidfd ends by itself in that time."""
    ended, loop = asyncio.Event(), asyncio.get_running_loop()
    loop.add_reader(process, ended.set)
    try:
        async with asyncio.timeout(within_s):
            await ended.wait()
    except TimeoutError:
        return False
    finally:
        loop.remove_reader(process)
    return True
