"""A process of ours that lives on when the daemon ends, and is nobody's child: started, found, ended; must not know what it does.

It is found by its socket, which only our user can have made, and known by what the kernel says of it. Nothing is ended that is not
known so.
"""

from __future__ import annotations

import asyncio
import os
import pwd
import signal
import socket
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from flanneld import FlanneldError
from flanneld.log import Log

log = Log(__name__)

START_S = 20.0
"""It takes 0.3 s; on a host that boots, everything does at once."""
END_S = 3.0
"""After SIGTERM; then SIGKILL."""
STEADY_S = 30.0
"""One that has stood so long was well: if it is lost, the next is there at once. One that is lost sooner is started more seldom."""
USERS = ("exabgp", "nobody")
"""Who it becomes: the first of them that there is."""
DIRECTORY = "--directory="
"""What its command line says of where its socket is: by that, two of a module are told apart."""

_UCRED = struct.Struct("=iII")  # struct ucred: pid, uid, gid


class ProcessError(FlanneldError):
    """It cannot be started, has ended, or what is there is not ours."""


@dataclass(frozen=True, slots=True)
class Program:
    """What runs in such a process."""

    what: str
    """In words."""
    module: str
    """It exits with 0 when the process runs, which has been detached by then (`bgp.detached`)."""
    directory: Path
    """Nobody but its owner need be able to enter it; made if it is not there."""
    socket: Path
    """In the directory."""
    arguments: tuple[str, ...] = ()
    """With the directory's."""


@dataclass(frozen=True, slots=True)
class Found:
    """A process of ours that runs."""

    pid: int
    directory: Path


def user_to_become(wanted: str | None, what: str) -> str:
    """Who the process is to be: the wanted one, or the first that there is; empty: who we are, when that is not root.

    Raises ProcessError when there is none to become.
    """
    chosen = "" if os.geteuid() != 0 else wanted or next(filter(_is_user, USERS), "")
    if os.geteuid() == 0 and not _is_user(chosen):
        raise ProcessError(f"no user {chosen or ' and no user '.join(USERS)} for {what} to be")
    return chosen


def _is_user(name: str) -> bool:
    with suppress(KeyError):
        return bool(pwd.getpwnam(name))
    return False


async def start(program: Program) -> None:
    """Start it; when this returns it listens. Raises ProcessError with its reason."""
    program.directory.mkdir(0o700, parents=True, exist_ok=True)
    try:
        async with asyncio.timeout(START_S):
            status, said = await _launched((sys.executable, "-I", "-m", program.module, *program.arguments))
    except TimeoutError as error:
        raise ProcessError(f"{program.what} has not started within {START_S:.0f} s") from error
    if status != 0:
        last = said.strip().rpartition("\n")[2]
        raise ProcessError(last or f"{program.what}'s launcher has ended with exit status {status}")


async def _launched(command: tuple[str, ...]) -> tuple[int | None, str]:
    """The exit status of the launcher, and what it has said; when this is cancelled, it has done nothing."""
    quiet, pipe = asyncio.subprocess.DEVNULL, asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *command,
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


async def connect(path: Path, limit: int = 1 << 16) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, int]:
    """Connect to the one that runs, whose process id is the last value; raises ProcessError: it is not ours; OSError: none runs.

    `limit` is of the reader's lines, in bytes.
    """
    reader, writer = await asyncio.open_unix_connection(path, limit=limit)
    pid, uid = peer_of(writer.get_extra_info("socket"))
    if uid != os.geteuid():
        writer.transport.abort()
        raise ProcessError(f"{path} is of user id {uid}, expected {os.geteuid()}")
    return reader, writer, pid


def peer_of(connection: socket.socket) -> tuple[int, int]:
    """The process id and the user id at the other end: of who listened, or of who connected (unix(7), SO_PEERCRED)."""
    pid, uid, _ = _UCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    return pid, uid


def running_here(module: str) -> Iterator[Found]:
    """All in our network namespace, as far as we may see processes; a client of theirs does not notice."""
    here = os.stat("/proc/thread-self/ns/net")
    for entry in sorted(Path("/proc").glob("[0-9]*"), key=lambda path: int(path.name)):
        with suppress(OSError):  # it has ended meanwhile, or is not ours to look at
            words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
            directory = next((word.removeprefix(DIRECTORY) for word in words if word.startswith(DIRECTORY)), "")
            if module in words and directory and os.path.samestat(os.stat(entry / "ns/net"), here):
                yield Found(int(entry.name), Path(directory))


async def end(program: Program, pid: int, patience_s: float = 0.0) -> None:
    """End it, whether it wants to or not, when it has not ended by itself after `patience_s`.

    Nothing happens when it has ended, or the number is another process's by now.
    """
    with _opened(program, pid) as process:
        if process is None or await _ended(process, patience_s):
            return
        log.warning(f"{program.what} is ended", pid=pid)
        for number in (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(process, number)
            if await _ended(process, END_S):
                return


@contextmanager
def _opened(program: Program, pid: int) -> Iterator[int | None]:
    """A descriptor of the process, if it is the program's for this directory."""
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        yield None
        return
    try:
        with suppress(OSError):
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            if program.module.encode() in words and f"{DIRECTORY}{program.directory}".encode() in words:
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
