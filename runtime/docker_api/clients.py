"""A Unix socket and its clients, any number at one time; must not know what they ask."""

from __future__ import annotations

import asyncio
import fcntl
import grp
import os
import socket
import stat
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

from flanneld.log import Log
from runtime.docker_api.connection import CHUNK, Connection
from runtime.docker_api.exchange import Headers, Request, Response
from runtime.errors import Unavailable

log = Log(__name__)

MAX_CONNECTIONS = 1024
"""At one time; each is two file descriptors at most."""
LEAVE_S = 10.0
"""For requests at work when the server ends."""
TOO_MANY = b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Type: text/plain\r\n\r\ntoo many connections\n"


@asynccontextmanager
async def serving(
    path: Path, answer: Callable[[Request], Awaitable[Response]], group: str = "docker", headers: Headers = ()
) -> AsyncIterator[None]:
    """Answer requests on a Unix socket within the context, at whose end requests at work are waited for and streams cut off.

    Raises Unavailable when somebody else listens there. `headers`: those of every answer.
    """
    listener = listen(path, group)
    clients: dict[asyncio.Task[None], Connection] = {}

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None or len(clients) >= MAX_CONNECTIONS:
            writer.write(TOO_MANY)
            writer.close()
            return
        clients[task] = Connection(reader, writer, answer, headers)
        try:
            await clients[task].converse()
        except Exception as error:
            log.exception("connection failed", error=repr(error))
        finally:
            del clients[task]
            await _close(writer)

    with _removed_after(path):
        server = await asyncio.start_unix_server(connected, sock=listener, limit=CHUNK, backlog=MAX_CONNECTIONS)
        try:
            yield
        finally:
            server.close()
            await _dismiss(clients)


@contextmanager
def _removed_after(path: Path) -> Iterator[None]:
    """The socket's file goes with the context, unless another engine's is there by then."""
    inode = path.lstat().st_ino
    try:
        yield
    finally:
        with suppress(OSError):
            if path.lstat().st_ino == inode:
                path.unlink()


async def _close(writer: asyncio.StreamWriter) -> None:
    """Close; what a client has not read by now is sent as it reads, but not for ever."""
    writer.close()
    try:
        async with asyncio.timeout(LEAVE_S):
            await writer.wait_closed()
    except (OSError, TimeoutError):
        writer.transport.abort()


async def _dismiss(clients: dict[asyncio.Task[None], Connection]) -> None:
    tasks = list(clients)
    for task, connection in list(clients.items()):
        connection.is_last = True
        if not connection.is_working:
            task.cancel()
    if tasks:
        _, late = await asyncio.wait(tasks, timeout=LEAVE_S)
        for task in late:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def listen(path: Path, group: str) -> socket.socket:
    """A listening Unix socket for root and the group's members, in place of one nobody listens on; raises Unavailable."""
    path.parent.mkdir(parents=True, exist_ok=True)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)  # two engines at once: one finds the other's
        _remove_stale(path)
        os.fchmod(listener.fileno(), 0o600)  # the mode that bind gives the file: never open to all, and no umask is touched
        listener.bind(str(path))
        with suppress(KeyError):
            os.chown(path, -1, grp.getgrnam(group).gr_gid)
        path.chmod(0o660)
        listener.listen(MAX_CONNECTIONS)
    except OSError as error:
        listener.close()
        raise Unavailable(f"cannot listen on {path}: {error.strerror}") from error
    except Unavailable:
        listener.close()
        raise
    finally:
        os.close(directory)
    return listener


def _remove_stale(path: Path) -> None:
    if not os.path.lexists(path):
        return
    if not stat.S_ISSOCK(path.lstat().st_mode):
        raise Unavailable(f"cannot listen on {path}: a file that is no socket is there")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
        else:
            raise Unavailable(f"another engine listens on {path}")
