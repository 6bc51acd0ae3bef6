"""One CNI call answered by flanneld over its socket; must not know plugins.

The conversation is described in `flanneld/cni_server.py`; the executables' side of it is `cni-plugins/cni/client/`.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cni.engine import Answer
from flanneld import FlanneldError

MAGIC = b"CNI1"
REQUEST = struct.Struct("=4sII")
RESPONSE = struct.Struct("=iII")
TIMEOUT_S = 120.0
"""As long as one plugin may take that is executed."""


class Unanswered(FlanneldError):
    """flanneld was told what to do and went away: it may have done it, or half of it."""


@dataclass(frozen=True, slots=True)
class Question:
    """A call as a plugin's executable gets it."""

    plugin: str
    environ: Mapping[str, str]
    stdin: bytes
    netns: int | None
    """An open descriptor of the container's namespace; it stays the caller's."""


def ask_flanneld(path: Path, question: Question) -> Answer | None:
    """What flanneld answers; None when nobody serves there. Raises Unanswered."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(TIMEOUT_S)
        try:
            client.connect(str(path))
        except OSError:
            return None
        try:
            _tell(client, question)
            exit_code, out_bytes, err_bytes = RESPONSE.unpack(_receive(client, RESPONSE.size))
            printed = _receive(client, out_bytes + err_bytes)
            client.sendall(b"k")
        except OSError as error:
            raise Unanswered(f"flanneld did not answer on {path}: {error}") from error
    return Answer(printed[:out_bytes], printed[out_bytes:], exit_code)


def _tell(client: socket.socket, question: Question) -> None:
    words = [question.plugin, *(f"{name}={value}" for name, value in question.environ.items())]
    environment = b"".join(os.fsencode(word) + b"\0" for word in words)
    whole = REQUEST.pack(MAGIC, len(environment), len(question.stdin)) + environment + question.stdin
    descriptors = [] if question.netns is None else [question.netns]
    sent = socket.send_fds(client, [whole], descriptors) if descriptors else client.send(whole)
    client.sendall(whole[sent:])


def _receive(client: socket.socket, count: int) -> bytes:
    received = bytearray()
    while len(received) < count:
        part = client.recv(count - len(received))
        if not part:
            raise ConnectionResetError("it hung up")
        received += part
    return bytes(received)
