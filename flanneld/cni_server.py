"""The unix socket that the CNI client talks to: one conversation per connection, a thread for each; must not know plugins.

    client: "CNI1", u32 bytes of environment, u32 bytes of standard input; CNI_NETNS as an open descriptor (SCM_RIGHTS), if it opens
            environment: executable's name, then VARIABLE=VALUE.., each ended by a NUL; standard input
    server: i32 exit code, u32 bytes of standard output, u32 bytes of standard error; both
    client: one byte when it has printed them. Without it the call is undone: nobody knows what it made.

Integers are in host order. The plugins are another package's; they are found by name, as backends are.
"""

from __future__ import annotations

import asyncio
import errno
import gc
import os
import socket
import struct
import threading
import time
from array import array
from collections.abc import AsyncGenerator, Callable, Collection, Iterator, Mapping
from contextlib import aclosing, contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Protocol

from flanneld import FlanneldError
from flanneld.lease import IPNetwork
from flanneld.log import Log, Once
from flanneld.retry import Backoff, retry

log = Log(__name__)

SERVICE = "cni.service:Service"
JOURNAL = Path("/var/lib/cni/tartan/journal")
"""No flag can move it: the client's stand-in, which knows no flags, has to find it too."""
MAGIC = b"CNI1"
REQUEST = struct.Struct("=4sII")
RESPONSE = struct.Struct("=iII")
MOST_BYTES = 16 << 20
"""Of standard input or environment; a configuration has a few thousand."""
FIRST_BYTES = 1 << 16
THREADS = 16
"""Calls at a time. The kernel does one change of interfaces after the other; only calls of foreign plugins take long."""
BACKLOG = 1024
CONVERSATION = struct.pack("@ll", 10, 0)
"""struct timeval: how long a client may take to say what it wants, or to take the answer."""
ACCEPT_PAUSE_S = 0.5
FAREWELL_S = 10.0
"""For calls under way when the daemon ends. What hangs then (in a foreign plugin) is undone by whoever opens the journal next."""
RECONCILE_S = 60.0
"""How often what pods hold is compared with the pods that are there."""


class CniServerError(FlanneldError):
    """The socket cannot be served."""


class ClientGone(FlanneldError):
    """Nobody waits for the answer any more."""


class Reply(Protocol):
    """What the client is to print, its exit code, and the way back."""

    @property
    def stdout(self) -> bytes: ...
    @property
    def stderr(self) -> bytes: ...
    @property
    def exit_code(self) -> int: ...
    @property
    def undo(self) -> Callable[[], None] | None: ...


class Plugins(Protocol):
    """All plugins of a node; safe for threads."""

    def answer(self, plugin: str, environ: Mapping[str, str], stdin: bytes, netns: int | None, alive: Callable[[], None]) -> Reply:
        """Answer one call; never raises, not even ClientGone, which `alive` raises inside the plugin."""

    def reconcile(self) -> None:
        """Bring pods to what subnet.env says, let go of what is held for those that are no more; raises FlanneldError."""

    def pods(self, subnets: Collection[IPNetwork]) -> tuple[str, ...]:
        """Who is attached with an address in these subnets, in words."""

    def changes(self) -> AsyncGenerator[None, None]:
        """Yields when somebody touched what `reconcile` keeps."""

    def close(self) -> None:
        """Finish what is under way."""


class CniServer:
    """Serves the node's plugins on a socket, for as long as `run` runs."""

    def __init__(self, path: Path, state: Path, subnet_file: Path) -> None:
        self._path = path
        self._state = state
        self._subnet_file = subnet_file
        self._said = Once(log)
        self._plugins: Plugins | None = None
        self._touched = asyncio.Event()
        self.serving = asyncio.Event()
        """Set while clients are listened to."""
        self.settled = asyncio.Event()
        """Set once pods can be attached, by us or by whoever has the node's journal."""

    def _wait_our_turn(self, error: Exception) -> None:
        """Somebody else serves the node's pods: another network's daemon, or the one before us."""
        log.warning("CNI is not served", why=error)
        self.settled.set()

    def subnet_env_changed(self) -> None:
        """Let pods that run follow the new file now, and not within a minute. For the event loop's thread."""
        self._touched.set()

    def pods(self, subnets: Collection[IPNetwork]) -> tuple[str, ...]:
        """Who is attached with an address in these subnets, in words ("default/web-1 (10.244.5.7)"); nobody that is known of
        before another process has let go of the journal.
        """
        return () if self._plugins is None else self._plugins.pods(subnets)

    async def run(self) -> None:
        """Serve until cancelled. Another process that has the node's journal is waited for: an older daemon, a call's stand-in."""

        async def open_plugins() -> Plugins:
            return await asyncio.to_thread(load_plugins, self._state, self._subnet_file)

        plugins = await retry(
            open_plugins,
            FlanneldError,
            Backoff(first_s=0.1, cap_s=1),
            failed=self._wait_our_turn,
        )
        self._plugins = plugins
        try:
            gc.freeze()  # what is loaded stays: not to be looked through again each time that pods have made enough objects
            await asyncio.to_thread(self._reconcile, plugins)
            with listening(self._path) as listener, conversing(listener, plugins):
                log.info("CNI is served", socket=self._path)
                self.serving.set()
                self.settled.set()
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(self._reconcile_for_ever(plugins))
        finally:
            self.serving.clear()
            self._plugins = None
            await asyncio.shield(asyncio.to_thread(plugins.close))

    async def _reconcile_for_ever(self, plugins: Plugins) -> None:
        async def listen() -> None:
            try:
                async with aclosing(plugins.changes()) as changes:
                    async for _ in changes:
                        self._touched.set()
            except FlanneldError as error:  # no nftables in this kernel, say: then it is looked from time to time
                log.warning("packet table not watched", why=error)

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(listen())
            while True:
                with suppress(TimeoutError):
                    async with asyncio.timeout(RECONCILE_S):
                        await self._touched.wait()
                self._touched.clear()
                await asyncio.to_thread(self._reconcile, plugins)

    def _reconcile(self, plugins: Plugins) -> None:
        try:
            plugins.reconcile()
        except (FlanneldError, OSError) as error:
            self._said.warning("reconcile", "pods not reconciled", why=error)
        else:
            self._said.over("reconcile")


def load_plugins(state: Path, subnet_file: Path) -> Plugins:
    """Import the plugins and open their journal; raises FlanneldError."""
    module, name = SERVICE.split(":")
    plugins: Plugins = getattr(import_module(module), name)(state, subnet_file)
    return plugins


@contextmanager
def listening(path: Path) -> Iterator[socket.socket]:
    """A socket that only root may speak to; what an earlier daemon left goes. Raises CniServerError."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        try:
            path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            path.unlink(missing_ok=True)
            os.fchmod(listener.fileno(), 0o600)  # before it has a name
            listener.bind(str(path))
            listener.listen(BACKLOG)
        except OSError as error:
            raise CniServerError(f"cannot serve cni-socket {path}: {os.strerror(error.errno or 0).lower()}") from error
        inode = path.stat().st_ino
        try:
            yield listener
        finally:
            with suppress(OSError):
                if path.stat().st_ino == inode:  # not a later daemon's
                    path.unlink()
    finally:
        listener.close()


@contextmanager
def conversing(listener: socket.socket, plugins: Plugins) -> Iterator[None]:
    """Threads that accept and answer within the context; what is under way at its end is finished, if it can be."""
    threads = [
        threading.Thread(target=_converse_for_ever, args=(listener, plugins), name=f"cni-{n}", daemon=True) for n in range(THREADS)
    ]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        listener.shutdown(socket.SHUT_RDWR)  # wakes those who wait for a client
        give_up_at = time.monotonic() + FAREWELL_S
        for thread in threads:
            thread.join(max(0.0, give_up_at - time.monotonic()))


def _converse_for_ever(listener: socket.socket, plugins: Plugins) -> None:
    while True:
        try:
            client, _ = listener.accept()
        except OSError as error:
            if error.errno == errno.EINVAL:  # the listener is shut down
                return
            log.warning("CNI client not accepted", why=error)
            time.sleep(ACCEPT_PAUSE_S)  # no file descriptors, say: others may close theirs
            continue
        with client:
            for direction in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
                client.setsockopt(socket.SOL_SOCKET, direction, CONVERSATION)
            try:
                converse(client, plugins)
            except (OSError, ValueError) as error:
                log.debug("CNI conversation failed", why=error)
            except Exception:
                log.exception("CNI conversation failed")


@dataclass(frozen=True, slots=True)
class Question:
    """What a client says."""

    plugin: str
    environ: Mapping[str, str]
    stdin: bytes
    descriptors: tuple[int, ...]
    """Open, whoever asks for it closes them."""


def converse(client: socket.socket, plugins: Plugins) -> None:
    """One call and its answer, which is undone when it cannot be delivered; raises OSError, ValueError."""
    asked = receive_question(client)
    try:
        netns = asked.descriptors[0] if asked.descriptors else None
        reply = plugins.answer(asked.plugin, asked.environ, asked.stdin, netns, lambda: _require(client))
        if not _delivered(client, reply) and reply.undo is not None:
            container = asked.environ.get("CNI_CONTAINERID")
            log.warning("CNI call undone", why="its client is gone", plugin=asked.plugin, container=container)
            reply.undo()
    finally:  # not before: to undo takes the pod's namespace too
        for descriptor in asked.descriptors:
            os.close(descriptor)


def receive_question(client: socket.socket) -> Question:
    """All that the client has to say, as a rule in one receive; raises OSError, ValueError."""
    descriptors = array("i")
    room = socket.CMSG_SPACE(descriptors.itemsize)
    first, ancillary, _, _ = client.recvmsg(FIRST_BYTES, room, socket.MSG_CMSG_CLOEXEC)
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            descriptors.frombytes(data[: len(data) - len(data) % descriptors.itemsize])
    try:
        received = _receive(client, first, REQUEST.size)
        magic, environ_bytes, stdin_bytes = REQUEST.unpack_from(received)
        if magic != MAGIC or environ_bytes > MOST_BYTES or stdin_bytes > MOST_BYTES:
            raise ValueError(f"head {received[: REQUEST.size].hex()} of a CNI conversation")
        body = _receive(client, received, REQUEST.size + environ_bytes + stdin_bytes)[REQUEST.size :]
        plugin, *variables = os.fsdecode(body[:environ_bytes]).rstrip("\0").split("\0")
        environ = dict(variable.partition("=")[::2] for variable in variables)
        return Question(plugin, environ, body[environ_bytes : environ_bytes + stdin_bytes], tuple(descriptors))
    except BaseException:
        for descriptor in descriptors:
            os.close(descriptor)
        raise


def _receive(client: socket.socket, received: bytes, count: int) -> bytes:
    """What has been received, and more until it is so many bytes."""
    if len(received) >= count:
        return received
    parts, missing = [received], count - len(received)
    while missing > 0:
        part = client.recv(min(missing, FIRST_BYTES))
        if not part:
            raise ConnectionResetError("the client has gone before it said all")
        parts.append(part)
        missing -= len(part)
    return b"".join(parts)


def _require(client: socket.socket) -> None:
    """Raise ClientGone when the client has hung up: it says nothing before it has its answer."""
    with suppress(BlockingIOError):
        if not client.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT):
            raise ClientGone("the CNI client is gone")


def _delivered(client: socket.socket, reply: Reply) -> bool:
    """Send the answer and wait to hear that it was printed."""
    head = RESPONSE.pack(reply.exit_code, len(reply.stdout), len(reply.stderr))
    try:
        client.sendall(head + reply.stdout + reply.stderr)
        return bool(client.recv(1))
    except OSError:
        return False
