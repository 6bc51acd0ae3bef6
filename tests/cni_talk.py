"""Both ends of the conversation between CNI client and daemon, as the tests of each need the other."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncGenerator, Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from flanneld import FlanneldError
from flanneld.cni_server import REQUEST, RESPONSE
from flanneld.lease import IPNetwork

ENVIRON = {"CNI_COMMAND": "ADD", "CNI_CONTAINERID": "c1", "CNI_ARGS": "A=B;C=D=E", "CNI_EMPTY": ""}


@dataclass
class Answer:
    stdout: bytes = b"out"
    stderr: bytes = b"err"
    exit_code: int = 3
    undone: list[str] = field(default_factory=list)
    on_undo: Callable[[], None] = lambda: None

    @property
    def undo(self) -> Callable[[], None]:
        def undo() -> None:
            self.undone.append("undone")
            self.on_undo()

        return undo


class Plugins:
    """Remembers what it was asked, and gives the answer it was given."""

    def __init__(self) -> None:
        self.reply = Answer()
        self.heard: list[tuple[str, Mapping[str, str], bytes]] = []
        self.netns: list[int | None] = []
        self.inode = 0
        self.meanwhile: Callable[[Callable[[], None]], None] = lambda alive: None
        self.reconciled = 0
        self.failing = False
        self.deaf = False
        self.touched = asyncio.Event()
        self.closed = False

    def answer(self, plugin: str, environ: Mapping[str, str], stdin: bytes, netns: int | None, alive: Callable[[], None]) -> Answer:
        self.heard.append((plugin, environ, stdin))
        self.netns.append(netns)
        self.inode = os.fstat(netns).st_ino if netns is not None else 0
        self.meanwhile(alive)
        return self.reply

    def reconcile(self) -> None:
        self.reconciled += 1
        if self.failing:
            raise FlanneldError("no nftables")

    def pods(self, subnets: Collection[IPNetwork]) -> tuple[str, ...]:
        return tuple(f"pod in {subnet}" for subnet in subnets)

    async def changes(self) -> AsyncGenerator[None, None]:
        if self.deaf:
            raise FlanneldError("no nftables")
        while True:
            await self.touched.wait()
            self.touched.clear()
            yield

    def close(self) -> None:
        self.closed = True


def said(plugin: str = "bridge", environ: Mapping[str, str] = ENVIRON, stdin: bytes = b"{conf}") -> bytes:
    block = b"".join(os.fsencode(text) + b"\0" for text in (plugin, *(f"{key}={value}" for key, value in environ.items())))
    return REQUEST.pack(b"CNI1", len(block), len(stdin)) + block + stdin


def hear(client: socket.socket) -> tuple[int, bytes, bytes]:
    with client.makefile("rb") as stream:
        exit_code, out, err = RESPONSE.unpack(stream.read(RESPONSE.size))
        return exit_code, stream.read(out), stream.read(err)


def ask(path: Path, message: bytes = b"") -> tuple[int, bytes, bytes]:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(10)
        client.connect(str(path))
        client.sendall(message or said())
        heard = hear(client)
        client.sendall(b"k")
        return heard


async def eventually(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not is_so():  # noqa: ASYNC110  # a file, or another thread's
            await asyncio.sleep(0.01)
