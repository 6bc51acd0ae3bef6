"""A unix socket by which people ask, and ask things of, the bgp method: one JSON object a line, one line of answer; root's alone.

{"do": "peers"}                               {"answer": [{"peer": "10.0.0.12", "state": "established", ...}]}
{"do": "announce", "prefix": "10.96.0.0/24"}  {"answer": null}      or      {"error": "10.96.0.0/24 is ..."}
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from flanneld import FlanneldError

SOCKET = "control.sock"
LONGEST = 64 * 1024
"""Bytes of a question."""
PATIENCE_S = 10.0
"""For a question to come, and for an answer."""


class ControlError(FlanneldError):
    """The question cannot be answered, or what is asked for cannot be done."""


@asynccontextmanager
async def serving(directory: Path, answer: Callable[[Mapping[str, object]], object]) -> AsyncIterator[None]:
    """Answer within the context; `answer` raises FlanneldError. Raises OSError when the socket cannot be made."""
    path = _place_for_socket(directory)

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, ValueError, TimeoutError):
            async with asyncio.timeout(PATIENCE_S):
                writer.write(_answered(await reader.readline(), answer))
                await writer.drain()
        writer.close()

    server = await asyncio.start_unix_server(connected, path, limit=LONGEST)
    try:
        yield
    finally:
        server.close()
        _place_for_socket(directory)


def _place_for_socket(directory: Path) -> Path:
    """Where it is to be, or was; the directory keeps others out."""
    directory.mkdir(0o700, parents=True, exist_ok=True)
    path = directory / SOCKET
    path.unlink(missing_ok=True)
    return path


def _answered(line: bytes, answer: Callable[[Mapping[str, object]], object]) -> bytes:
    try:
        question = json.loads(line)
        if not isinstance(question, dict):
            raise ControlError("expected a JSON object")
        said: dict[str, object] = {"answer": answer(question)}
    except (FlanneldError, ValueError) as error:
        said = {"error": str(error)}
    return json.dumps(said).encode() + b"\n"


def ask(path: Path, question: Mapping[str, object]) -> object:
    """Ask, and wait for the answer; raises ControlError, in the method's words or because nobody is there."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(PATIENCE_S)
        try:
            connection.connect(str(path))
            connection.sendall(json.dumps(question).encode() + b"\n")
            with connection.makefile("rb") as answers:
                line = answers.readline()
        except OSError as error:
            raise ControlError(f"no bgp backend answers at {path}: {str(error.strerror or error).lower()}") from error
    if not line:
        raise ControlError(f"the bgp backend at {path} has not answered, expected it within {PATIENCE_S:g} s")
    said = json.loads(line)
    if "error" in said:
        raise ControlError(said["error"])
    return said["answer"]
